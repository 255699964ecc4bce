BEGIN TRANSACTION;
CREATE TABLE agent_versions (
	agent_id TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	body TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_agent_versions PRIMARY KEY (agent_id, version), 
	CONSTRAINT fk_agent_versions_agent_id FOREIGN KEY(agent_id) REFERENCES agents (id)
);
INSERT INTO "agent_versions" VALUES('agent_1',1,'Coder','{"n":1}','2026-11-21T03:40:25.032964Z');
CREATE TABLE agents (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	current_version INTEGER NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	archived_at TEXT, 
	CONSTRAINT pk_agents PRIMARY KEY (id), 
	CONSTRAINT fk_agents_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
INSERT INTO "agents" VALUES('agent_1','wrkspc_default',1,'2026-11-21T03:40:25.032964Z','2026-11-21T03:40:25.032964Z',NULL);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0008');
CREATE TABLE api_keys (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	secret_hash TEXT NOT NULL, 
	hint TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	last_used_at TEXT, 
	revoked_at TEXT, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT fk_api_keys_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT uq_api_keys_secret_hash UNIQUE (secret_hash)
);
CREATE TABLE egress_decisions (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	method TEXT NOT NULL, 
	host TEXT NOT NULL, 
	port INTEGER NOT NULL, 
	allowed BOOLEAN NOT NULL, 
	reason TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_egress_decisions PRIMARY KEY (id)
);
INSERT INTO "egress_decisions" VALUES('egr_7kTfrFjyKdP6YQtrVXG1N5sk','sesn_golden','CONNECT','x.org',443,0,'r','2026-11-21T03:40:25.039945Z');
CREATE TABLE environments (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	body TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	archived_at TEXT, 
	CONSTRAINT pk_environments PRIMARY KEY (id), 
	CONSTRAINT uq_environments_workspace_id_name UNIQUE (workspace_id, name), 
	CONSTRAINT fk_environments_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
INSERT INTO "environments" VALUES('env_1','wrkspc_default','dev1','{}','2026-11-21T03:40:25.032964Z','2026-11-21T03:40:25.032964Z',NULL);
CREATE TABLE events (
	session_id TEXT NOT NULL, 
	seq BIGINT NOT NULL, 
	id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	processed_at TEXT NOT NULL, 
	body TEXT NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (session_id, seq), 
	CONSTRAINT fk_events_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
INSERT INTO "events" VALUES('sesn_golden',1,'sevt_0','user.message','2026-01-02T03:04:05.678901Z','{"id":"sevt_0","type":"user.message","content":[{"type":"text","text":"NUL \u0000, half \ud800, é, 😀,  "}],"processed_at":"2026-01-02T03:04:05.678901Z"}');
INSERT INTO "events" VALUES('sesn_golden',2,'sevt_1','agent.message','2026-01-02T03:04:05.678901Z','{"id":"sevt_1","type":"agent.message","content":[{"type":"text","text":"Hello"}],"processed_at":"2026-01-02T03:04:05.678901Z"}');
INSERT INTO "events" VALUES('sesn_golden',3,'sevt_2','agent.tool_use','2026-01-02T03:04:05.678901Z','{"id":"sevt_2","type":"agent.tool_use","name":"bash","input":{"command":"ls"},"evaluated_permission":"ask","processed_at":"2026-01-02T03:04:05.678901Z"}');
INSERT INTO "events" VALUES('sesn_golden',4,'sevt_3','user.tool_confirmation','2026-01-02T03:04:05.678901Z','{"id":"sevt_3","type":"user.tool_confirmation","tool_use_id":"sevt_2","result":"allow","processed_at":"2026-01-02T03:04:05.678901Z"}');
INSERT INTO "events" VALUES('sesn_golden',5,'sevt_4','agent.tool_result','2026-01-02T03:04:05.678901Z','{"id":"sevt_4","type":"agent.tool_result","tool_use_id":"sevt_2","content":[{"type":"text","text":"a\nb"}],"processed_at":"2026-01-02T03:04:05.678901Z"}');
INSERT INTO "events" VALUES('sesn_golden',6,'sevt_5','agent.custom_tool_use','2026-01-02T03:04:05.678901Z','{"id":"sevt_5","type":"agent.custom_tool_use","name":"lookup","input":{},"processed_at":"2026-01-02T03:04:05.678901Z"}');
INSERT INTO "events" VALUES('sesn_golden',7,'sevt_6','session.usage','2026-01-02T03:04:05.678901Z','{"id":"sevt_6","type":"session.usage","usage":{"input_tokens":7},"budget":null,"processed_at":"2026-01-02T03:04:05.678901Z"}');
INSERT INTO "events" VALUES('sesn_golden',8,'sevt_7','session.status_idle','2026-01-02T03:04:05.678901Z','{"id":"sevt_7","type":"session.status_idle","stop_reason":{"type":"end_turn"},"stop_details":null,"processed_at":"2026-01-02T03:04:05.678901Z"}');
CREATE TABLE model_requests (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	status INTEGER NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cache_read_input_tokens BIGINT NOT NULL, 
	cache_creation_5m_input_tokens BIGINT NOT NULL, 
	cache_creation_1h_input_tokens BIGINT NOT NULL, 
	web_search_requests BIGINT NOT NULL, 
	stop_reason TEXT, 
	duration_ms DOUBLE NOT NULL, 
	first_byte_ms DOUBLE, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_model_requests PRIMARY KEY (id)
);
INSERT INTO "model_requests" VALUES('mreq_P1sGWKqBv9ACbzybCDKQwY4m','sesn_golden','wrkspc_default','m',200,7,5,0,0,0,0,'end_turn',1.5,0.5,'2026-11-21T03:40:25.039945Z');
CREATE TABLE sequences (
	session_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	CONSTRAINT pk_sequences PRIMARY KEY (session_id), 
	CONSTRAINT fk_sequences_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE sessions (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	agent_version INTEGER NOT NULL, 
	environment_id TEXT NOT NULL, 
	deployment_id TEXT, 
	thread_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	title TEXT, 
	metadata TEXT NOT NULL, 
	agent TEXT NOT NULL, 
	environment TEXT NOT NULL, 
	resources TEXT DEFAULT '[]' NOT NULL, 
	vault_ids TEXT DEFAULT '[]' NOT NULL, 
	budget TEXT, 
	state TEXT NOT NULL, 
	last_seq BIGINT NOT NULL, 
	input_tokens BIGINT DEFAULT 0 NOT NULL, 
	output_tokens BIGINT DEFAULT 0 NOT NULL, 
	cache_read_input_tokens BIGINT DEFAULT 0 NOT NULL, 
	cache_creation_5m_input_tokens BIGINT DEFAULT 0 NOT NULL, 
	cache_creation_1h_input_tokens BIGINT DEFAULT 0 NOT NULL, 
	web_search_requests BIGINT DEFAULT 0 NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	archived_at TEXT, 
	CONSTRAINT pk_sessions PRIMARY KEY (id), 
	CONSTRAINT fk_sessions_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT fk_sessions_agent_id FOREIGN KEY(agent_id) REFERENCES agents (id), 
	CONSTRAINT fk_sessions_environment_id FOREIGN KEY(environment_id) REFERENCES environments (id)
);
INSERT INTO "sessions" VALUES('sesn_golden','wrkspc_default','agent_1',1,'env_1',NULL,'sthr_sesn_golden','idle','Täst','{"k":"v"}','{"name":"Coder"}','{"type":"cloud"}','[]','[]',NULL,'{"phase":"idle"}',8,7,5,0,0,0,0,'2026-11-21T03:40:25.035882Z','2026-11-21T03:40:25.038591Z',NULL);
CREATE TABLE transcript_entries (
	project_key TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	subpath TEXT NOT NULL, 
	ordinal BIGINT NOT NULL, 
	uuid TEXT, 
	entry TEXT NOT NULL, 
	CONSTRAINT pk_transcript_entries PRIMARY KEY (project_key, session_id, subpath, ordinal), 
	CONSTRAINT uq_transcript_entries_uuid UNIQUE (project_key, session_id, subpath, uuid)
);
INSERT INTO "transcript_entries" VALUES('sesn_golden','s','',0,'a','{"type":"user","uuid":"a","text":"\u0000"}');
INSERT INTO "transcript_entries" VALUES('sesn_golden','s','',1,NULL,'{"type":"title"}');
CREATE TABLE transcripts (
	project_key TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	subpath TEXT NOT NULL, 
	next_ordinal BIGINT NOT NULL, 
	mtime_ms BIGINT NOT NULL, 
	summary TEXT, 
	CONSTRAINT pk_transcripts PRIMARY KEY (project_key, session_id, subpath)
);
INSERT INTO "transcripts" VALUES('sesn_golden','s','',2,1795232425041,NULL);
CREATE TABLE work (
	session_id TEXT NOT NULL, 
	wanted BOOLEAN NOT NULL, 
	available_at DOUBLE NOT NULL, 
	enqueued_at DOUBLE NOT NULL, 
	owner TEXT, 
	epoch BIGINT DEFAULT 0 NOT NULL, 
	lease_until DOUBLE, 
	CONSTRAINT pk_work PRIMARY KEY (session_id), 
	CONSTRAINT fk_work_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
INSERT INTO "work" VALUES('sesn_golden',0,1.79523242503588199622e+09,1.79523242503588199622e+09,NULL,0,NULL);
CREATE TABLE workspaces (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_workspaces PRIMARY KEY (id)
);
INSERT INTO "workspaces" VALUES('wrkspc_default','Default','2026-11-21T03:40:25.030468Z');
CREATE INDEX ix_agents_newest ON agents (workspace_id, created_at, id);
CREATE INDEX ix_environments_newest ON environments (workspace_id, created_at, id);
CREATE INDEX ix_sessions_agent ON sessions (agent_id, created_at, id);
CREATE INDEX ix_sessions_environment ON sessions (environment_id);
CREATE INDEX ix_sessions_newest ON sessions (workspace_id, created_at, id);
CREATE INDEX ix_events_processed_at ON events (session_id, processed_at, seq);
CREATE INDEX ix_events_type ON events (session_id, type, seq);
CREATE UNIQUE INDEX uq_events_id ON events (session_id, id);
CREATE INDEX ix_work_leased ON work (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX ix_work_wanted ON work (enqueued_at, session_id) WHERE wanted = 1;
CREATE INDEX ix_model_requests_session ON model_requests (session_id, created_at, id);
CREATE INDEX ix_egress_decisions_session ON egress_decisions (session_id, created_at, id);
COMMIT;
