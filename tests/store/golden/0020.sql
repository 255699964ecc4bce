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
INSERT INTO "agent_versions" VALUES('agent_1',1,'Coder','{"n":1}','2026-11-21T19:47:06.370180Z');
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
INSERT INTO "agents" VALUES('agent_1','wrkspc_default',1,'2026-11-21T19:47:06.370180Z','2026-11-21T19:47:06.370180Z',NULL);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0020');
CREATE TABLE api_keys (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	secret_hash TEXT NOT NULL, 
	hint TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	expires_at TEXT, 
	last_used_at TEXT, 
	revoked_at TEXT, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT fk_api_keys_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT uq_api_keys_secret_hash UNIQUE (secret_hash)
);
CREATE TABLE archive_chunks (
	archive_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	first_entry BIGINT NOT NULL, 
	entries INTEGER NOT NULL, 
	body BLOB NOT NULL, 
	CONSTRAINT pk_archive_chunks PRIMARY KEY (archive_id, number), 
	CONSTRAINT fk_archive_chunks_archive_id FOREIGN KEY(archive_id) REFERENCES archives (id) ON DELETE CASCADE
);
CREATE TABLE archives (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	entries BIGINT NOT NULL, 
	logical_bytes BIGINT NOT NULL, 
	stored_bytes BIGINT NOT NULL, 
	upto TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	removed_at TEXT, 
	CONSTRAINT pk_archives PRIMARY KEY (id), 
	CONSTRAINT fk_archives_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE, 
	CONSTRAINT uq_archives_session_id_number UNIQUE (session_id, number)
);
CREATE TABLE audit_chains (
	workspace_id TEXT NOT NULL, 
	seq BIGINT NOT NULL, 
	hash TEXT NOT NULL, 
	signed_seq BIGINT NOT NULL, 
	signed_at DOUBLE NOT NULL, 
	start_seq BIGINT NOT NULL, 
	CONSTRAINT pk_audit_chains PRIMARY KEY (workspace_id)
);
CREATE TABLE audit_checkpoints (
	workspace_id TEXT NOT NULL, 
	seq BIGINT NOT NULL, 
	hash TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	signer TEXT NOT NULL, 
	signature TEXT NOT NULL, 
	CONSTRAINT pk_audit_checkpoints PRIMARY KEY (workspace_id, seq)
);
CREATE TABLE audit_entries (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	strand TEXT NOT NULL, 
	number BIGINT NOT NULL, 
	kind TEXT NOT NULL, 
	actor_kind TEXT NOT NULL, 
	actor_id TEXT NOT NULL, 
	act TEXT NOT NULL, 
	target_id TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	sealed TEXT NOT NULL, 
	details TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	seq BIGINT, 
	hash TEXT, 
	CONSTRAINT pk_audit_entries PRIMARY KEY (id)
);
INSERT INTO "audit_entries" VALUES('audit_RpqaNDaQt0mfv2YA2PhswCvn','wrkspc_default','sesn_golden',1,'administration','server','hostler','session.create','sesn_golden','','','{"agent_id":"agent_1","agent_version":1,"environment_id":"env_1"}','2026-11-21T19:47:06.373458Z',NULL,NULL);
INSERT INTO "audit_entries" VALUES('audit_RpqaNDbpGXvqWDzc739cW7b3','wrkspc_default','sesn_golden',2,'egress','session','sesn_golden','egress.decided','sesn_golden','','','{"rows":1,"denied":1,"digest":"f67cd0171f2220f36d7a82dd50ee2d74369e7deb3f0c8d885a2e37a9b963fa01"}','2026-11-21T19:47:06.377476Z',NULL,NULL);
CREATE TABLE audit_signers (
	id TEXT NOT NULL, 
	public_key TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	endorsed_by TEXT NOT NULL, 
	endorsement TEXT NOT NULL, 
	CONSTRAINT pk_audit_signers PRIMARY KEY (id)
);
CREATE TABLE audit_subjects (
	workspace_id TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	entries BIGINT NOT NULL, 
	chained BIGINT NOT NULL, 
	last_at TEXT NOT NULL, 
	CONSTRAINT pk_audit_subjects PRIMARY KEY (workspace_id, subject), 
	CONSTRAINT uq_audit_subjects_id UNIQUE (id)
);
INSERT INTO "audit_subjects" VALUES('wrkspc_default','sesn_golden','asub_EaEKQPHNM9HyvFKsD8Nm05nW','G9gKcPgE0cFoNvv2oZifmk4YA07iVZonPObPSBM2UgA=',2,0,'2026-11-21T19:47:06.377476Z');
CREATE TABLE blob_objects (
	sha256 TEXT NOT NULL, 
	object_name TEXT NOT NULL, 
	put_at DOUBLE NOT NULL, 
	CONSTRAINT pk_blob_objects PRIMARY KEY (sha256)
);
CREATE TABLE budget_pauses (
	session_id TEXT NOT NULL, 
	budget_id TEXT NOT NULL, 
	needs_nanos BIGINT NOT NULL, 
	paused_at TEXT NOT NULL, 
	CONSTRAINT pk_budget_pauses PRIMARY KEY (session_id), 
	CONSTRAINT fk_budget_pauses_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE budgets (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	scope TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	period TEXT NOT NULL, 
	month TEXT NOT NULL, 
	limit_nanos BIGINT NOT NULL, 
	spent_nanos BIGINT DEFAULT 0 NOT NULL, 
	uncertain_nanos BIGINT DEFAULT 0 NOT NULL, 
	reserved_nanos BIGINT DEFAULT 0 NOT NULL, 
	warn_at TEXT DEFAULT '[]' NOT NULL, 
	warned INTEGER DEFAULT 0 NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	CONSTRAINT pk_budgets PRIMARY KEY (id), 
	CONSTRAINT fk_budgets_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT uq_budgets_subject_period UNIQUE (subject, period)
);
CREATE TABLE checkpoints (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	name TEXT, 
	reason TEXT NOT NULL, 
	seq BIGINT NOT NULL, 
	line TEXT NOT NULL, 
	snapshot_id TEXT, 
	memories TEXT NOT NULL, 
	state TEXT NOT NULL, 
	sequence TEXT, 
	usage TEXT NOT NULL, 
	agent_version INTEGER NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT fk_checkpoints_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE compaction_schedules (
	session_id TEXT NOT NULL, 
	schedule TEXT NOT NULL, 
	next_at DOUBLE NOT NULL, 
	last_due DOUBLE, 
	CONSTRAINT pk_compaction_schedules PRIMARY KEY (session_id), 
	CONSTRAINT fk_compaction_schedules_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE compactions (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	cause TEXT NOT NULL, 
	strategy TEXT, 
	state TEXT NOT NULL, 
	reason TEXT, 
	instructions TEXT, 
	archive_id TEXT, 
	boundary TEXT, 
	before_tokens BIGINT, 
	after_tokens BIGINT, 
	summary TEXT, 
	kept TEXT DEFAULT '{}' NOT NULL, 
	requests INTEGER DEFAULT 0 NOT NULL, 
	input_tokens BIGINT DEFAULT 0 NOT NULL, 
	output_tokens BIGINT DEFAULT 0 NOT NULL, 
	due_at TEXT, 
	retry_at DOUBLE, 
	created_at TEXT NOT NULL, 
	ended_at TEXT, 
	CONSTRAINT pk_compactions PRIMARY KEY (id), 
	CONSTRAINT fk_compactions_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE, 
	CONSTRAINT uq_compactions_session_id_due_at UNIQUE (session_id, due_at)
);
CREATE TABLE credential_uses (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	vault_id TEXT NOT NULL, 
	credential_id TEXT NOT NULL, 
	method TEXT NOT NULL, 
	host TEXT NOT NULL, 
	port INTEGER NOT NULL, 
	place TEXT NOT NULL, 
	outcome TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	audit_id TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_credential_uses PRIMARY KEY (id)
);
CREATE TABLE credentials (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	vault_id TEXT NOT NULL, 
	display_name TEXT, 
	metadata TEXT NOT NULL, 
	auth TEXT NOT NULL, 
	match_key TEXT, 
	sealed TEXT, 
	refreshing_by TEXT, 
	refreshing_until DOUBLE, 
	refresh_failed_at DOUBLE, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	archived_at TEXT, 
	CONSTRAINT pk_credentials PRIMARY KEY (id), 
	CONSTRAINT uq_credentials_vault_id_match_key UNIQUE (vault_id, match_key), 
	CONSTRAINT fk_credentials_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT fk_credentials_vault_id FOREIGN KEY(vault_id) REFERENCES vaults (id) ON DELETE CASCADE
);
CREATE TABLE cut_events (
	session_id TEXT NOT NULL, 
	first_seq BIGINT NOT NULL, 
	last_seq BIGINT NOT NULL, 
	CONSTRAINT pk_cut_events PRIMARY KEY (session_id, first_seq), 
	CONSTRAINT fk_cut_events_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE cut_transcript_entries (
	session_id TEXT NOT NULL, 
	transcript_id TEXT NOT NULL, 
	subpath TEXT NOT NULL, 
	ordinal BIGINT NOT NULL, 
	uuid TEXT, 
	entry TEXT NOT NULL, 
	CONSTRAINT pk_cut_transcript_entries PRIMARY KEY (session_id, transcript_id, subpath, ordinal), 
	CONSTRAINT fk_cut_transcript_entries_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE egress_decisions (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	method TEXT NOT NULL, 
	host TEXT NOT NULL, 
	port INTEGER NOT NULL, 
	path TEXT DEFAULT '' NOT NULL, 
	allowed BOOLEAN NOT NULL, 
	reason TEXT NOT NULL, 
	hint TEXT DEFAULT '' NOT NULL, 
	environment_id TEXT DEFAULT '' NOT NULL, 
	created_at TEXT NOT NULL, 
	audit_id TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_egress_decisions PRIMARY KEY (id)
);
INSERT INTO "egress_decisions" VALUES('egr_RpqaNDbpGqaHs0MPVFsyg5JD','sesn_golden','wrkspc_default','CONNECT','x.org',443,'',0,'r','','env_1','2026-11-21T19:47:06.377476Z','audit_RpqaNDbpGXvqWDzc739cW7b3');
CREATE TABLE environment_keys (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	environment_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	secret_hash TEXT NOT NULL, 
	hint TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	last_used_at TEXT, 
	revoked_at TEXT, 
	CONSTRAINT pk_environment_keys PRIMARY KEY (id), 
	CONSTRAINT fk_environment_keys_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT fk_environment_keys_environment_id FOREIGN KEY(environment_id) REFERENCES environments (id) ON DELETE CASCADE, 
	CONSTRAINT uq_environment_keys_secret_hash UNIQUE (secret_hash)
);
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
INSERT INTO "environments" VALUES('env_1','wrkspc_default','dev1','{}','2026-11-21T19:47:06.370180Z','2026-11-21T19:47:06.370180Z',NULL);
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
CREATE TABLE files (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	session_id TEXT, 
	filename TEXT NOT NULL, 
	mime_type TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	sha256 TEXT NOT NULL, 
	downloadable BOOLEAN NOT NULL, 
	created_at TEXT NOT NULL, 
	expires_at TEXT, 
	CONSTRAINT pk_files PRIMARY KEY (id), 
	CONSTRAINT fk_files_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT fk_files_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE memories (
	id TEXT NOT NULL, 
	memory_store_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	version_id TEXT NOT NULL, 
	content_sha256 TEXT NOT NULL, 
	content_size_bytes INTEGER NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	CONSTRAINT pk_memories PRIMARY KEY (id), 
	CONSTRAINT fk_memories_memory_store_id FOREIGN KEY(memory_store_id) REFERENCES memory_stores (id) ON DELETE CASCADE, 
	CONSTRAINT uq_memories_memory_store_id_path UNIQUE (memory_store_id, path)
);
CREATE TABLE memory_stores (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	description TEXT NOT NULL, 
	metadata TEXT NOT NULL, 
	memories INTEGER NOT NULL, 
	kept_bytes BIGINT NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	archived_at TEXT, 
	CONSTRAINT pk_memory_stores PRIMARY KEY (id), 
	CONSTRAINT fk_memory_stores_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE memory_versions (
	id TEXT NOT NULL, 
	memory_store_id TEXT NOT NULL, 
	memory_id TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	path TEXT, 
	content BLOB, 
	content_sha256 TEXT, 
	content_size_bytes INTEGER, 
	created_at TEXT NOT NULL, 
	actor_type TEXT NOT NULL, 
	actor_id TEXT NOT NULL, 
	redacted_at TEXT, 
	redactor_type TEXT, 
	redactor_id TEXT, 
	CONSTRAINT pk_memory_versions PRIMARY KEY (id), 
	CONSTRAINT fk_memory_versions_memory_store_id FOREIGN KEY(memory_store_id) REFERENCES memory_stores (id) ON DELETE CASCADE
);
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
	list_cost_nanos BIGINT NOT NULL, 
	unpriced_requests BIGINT NOT NULL, 
	stop_reason TEXT, 
	duration_ms DOUBLE NOT NULL, 
	first_byte_ms DOUBLE, 
	created_at TEXT NOT NULL, 
	request_id TEXT DEFAULT '' NOT NULL, 
	requested_model TEXT DEFAULT '' NOT NULL, 
	upstream TEXT DEFAULT '' NOT NULL, 
	upstream_request_id TEXT DEFAULT '' NOT NULL, 
	thread TEXT DEFAULT '' NOT NULL, 
	agent_type TEXT DEFAULT '' NOT NULL, 
	purpose TEXT DEFAULT '' NOT NULL, 
	agent_id TEXT DEFAULT '' NOT NULL, 
	environment_id TEXT DEFAULT '' NOT NULL, 
	rule TEXT DEFAULT '' NOT NULL, 
	why TEXT DEFAULT '' NOT NULL, 
	price_version TEXT DEFAULT '' NOT NULL, 
	attempt INTEGER DEFAULT 1 NOT NULL, 
	agent_version BIGINT DEFAULT 0 NOT NULL, 
	waited_ms DOUBLE DEFAULT 0 NOT NULL, 
	request_bytes BIGINT DEFAULT 0 NOT NULL, 
	complete BOOLEAN DEFAULT 1 NOT NULL, 
	CONSTRAINT pk_model_requests PRIMARY KEY (id)
);
INSERT INTO "model_requests" VALUES('mreq_5pRFzr9dJ48N6QEfAxTBFtc2','sesn_golden','wrkspc_default','m',200,7,5,0,0,0,0,0,0,'end_turn',1.5,0.5,'2026-11-21T19:47:06.377476Z','','','','','','','','','','','','',1,0,0.0,0,1);
CREATE TABLE orders (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	act TEXT NOT NULL, 
	params TEXT NOT NULL, 
	outcome TEXT, 
	expires_at DOUBLE NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_orders PRIMARY KEY (id), 
	CONSTRAINT fk_orders_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE previews (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	label TEXT NOT NULL, 
	secret_hash TEXT NOT NULL, 
	port INTEGER NOT NULL, 
	created_at TEXT NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	revoked_at TEXT, 
	CONSTRAINT pk_previews PRIMARY KEY (id), 
	CONSTRAINT uq_previews_label UNIQUE (label), 
	CONSTRAINT fk_previews_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT fk_previews_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE rate_buckets (
	bucket TEXT NOT NULL, 
	scope TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	level DOUBLE NOT NULL, 
	at DOUBLE NOT NULL, 
	configured DOUBLE, 
	learned DOUBLE, 
	learned_at DOUBLE, 
	per_minute DOUBLE, 
	capacity DOUBLE, 
	closed_until DOUBLE DEFAULT 0 NOT NULL, 
	turn TEXT DEFAULT '' NOT NULL, 
	turn_until DOUBLE DEFAULT 0 NOT NULL, 
	served TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_rate_buckets PRIMARY KEY (bucket)
);
CREATE TABLE rate_limits (
	workspace_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	requests BIGINT, 
	input_tokens BIGINT, 
	output_tokens BIGINT, 
	CONSTRAINT pk_rate_limits PRIMARY KEY (workspace_id, agent_id), 
	CONSTRAINT fk_rate_limits_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE request_tools (
	model_request_id TEXT NOT NULL, 
	tool TEXT NOT NULL, 
	results BIGINT NOT NULL, 
	result_bytes BIGINT NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	cache_read_input_tokens BIGINT NOT NULL, 
	cache_creation_5m_input_tokens BIGINT NOT NULL, 
	cache_creation_1h_input_tokens BIGINT NOT NULL, 
	web_search_requests BIGINT NOT NULL, 
	list_cost_nanos BIGINT NOT NULL, 
	unpriced_requests BIGINT NOT NULL, 
	CONSTRAINT pk_request_tools PRIMARY KEY (model_request_id, tool), 
	CONSTRAINT fk_request_tools_model_request_id FOREIGN KEY(model_request_id) REFERENCES model_requests (id) ON DELETE CASCADE
);
CREATE TABLE reservations (
	grant_id TEXT NOT NULL, 
	budget_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	epoch BIGINT NOT NULL, 
	nanos BIGINT NOT NULL, 
	taken_at DOUBLE NOT NULL, 
	CONSTRAINT pk_reservations PRIMARY KEY (grant_id, budget_id), 
	CONSTRAINT fk_reservations_budget_id FOREIGN KEY(budget_id) REFERENCES budgets (id) ON DELETE CASCADE
);
CREATE TABLE resource_secrets (
	session_id TEXT NOT NULL, 
	resource_id TEXT NOT NULL, 
	sealed TEXT NOT NULL, 
	CONSTRAINT pk_resource_secrets PRIMARY KEY (session_id, resource_id), 
	CONSTRAINT fk_resource_secrets_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE retention_runs (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	dry_run BOOLEAN NOT NULL, 
	cause TEXT NOT NULL, 
	actor_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	reason TEXT, 
	moment DOUBLE NOT NULL, 
	days TEXT NOT NULL, 
	done INTEGER NOT NULL, 
	"after" TEXT, 
	draining TEXT, 
	results TEXT NOT NULL, 
	owner TEXT, 
	lease_until DOUBLE NOT NULL, 
	created_at TEXT NOT NULL, 
	ended_at TEXT, 
	CONSTRAINT pk_retention_runs PRIMARY KEY (id), 
	CONSTRAINT fk_retention_runs_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE rewinds (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	checkpoint_id TEXT NOT NULL, 
	left_checkpoint_id TEXT NOT NULL, 
	from_seq BIGINT NOT NULL, 
	to_seq BIGINT NOT NULL, 
	memories TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_rewinds PRIMARY KEY (id), 
	CONSTRAINT fk_rewinds_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE room_conflicts (
	id TEXT NOT NULL, 
	room_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	other_session_id TEXT NOT NULL, 
	outcome TEXT NOT NULL, 
	happened_at TEXT NOT NULL, 
	told BOOLEAN NOT NULL, 
	CONSTRAINT pk_room_conflicts PRIMARY KEY (id), 
	CONSTRAINT fk_room_conflicts_room_id FOREIGN KEY(room_id) REFERENCES rooms (id) ON DELETE CASCADE
);
CREATE TABLE room_members (
	session_id TEXT NOT NULL, 
	room_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	joined_at TEXT NOT NULL, 
	entered_epoch BIGINT, 
	CONSTRAINT pk_room_members PRIMARY KEY (session_id), 
	CONSTRAINT fk_room_members_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE, 
	CONSTRAINT fk_room_members_room_id FOREIGN KEY(room_id) REFERENCES rooms (id) ON DELETE CASCADE, 
	CONSTRAINT uq_room_members_room_id_name UNIQUE (room_id, name)
);
CREATE TABLE rooms (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	environment_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	worker TEXT DEFAULT '' NOT NULL, 
	epoch BIGINT DEFAULT 0 NOT NULL, 
	copy TEXT DEFAULT '' NOT NULL, 
	dirty BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_rooms PRIMARY KEY (id), 
	CONSTRAINT fk_rooms_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT fk_rooms_environment_id FOREIGN KEY(environment_id) REFERENCES environments (id) ON DELETE CASCADE, 
	CONSTRAINT uq_rooms_environment_id_name UNIQUE (environment_id, name)
);
CREATE TABLE runtime_spans (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	environment_id TEXT NOT NULL, 
	technology TEXT NOT NULL, 
	epoch BIGINT NOT NULL, 
	started_at DOUBLE NOT NULL, 
	seen_at DOUBLE NOT NULL, 
	ended BOOLEAN NOT NULL, 
	active_us BIGINT NOT NULL, 
	nanos_per_hour BIGINT NOT NULL, 
	list_cost_nanos BIGINT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_runtime_spans PRIMARY KEY (id)
);
CREATE TABLE sequences (
	session_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	CONSTRAINT pk_sequences PRIMARY KEY (session_id), 
	CONSTRAINT fk_sequences_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE session_homes (
	session_id TEXT NOT NULL, 
	copy TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	kept_seq BIGINT NOT NULL, 
	void_until BIGINT NOT NULL, 
	CONSTRAINT pk_session_homes PRIMARY KEY (session_id), 
	CONSTRAINT fk_session_homes_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE session_memory_stores (
	session_id TEXT NOT NULL, 
	memory_store_id TEXT NOT NULL, 
	CONSTRAINT pk_session_memory_stores PRIMARY KEY (session_id, memory_store_id), 
	CONSTRAINT fk_session_memory_stores_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE session_outputs (
	session_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	signature TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	file_id TEXT NOT NULL, 
	CONSTRAINT pk_session_outputs PRIMARY KEY (session_id, path), 
	CONSTRAINT fk_session_outputs_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE session_placeholders (
	session_id TEXT NOT NULL, 
	credential_id TEXT NOT NULL, 
	placeholder TEXT NOT NULL, 
	CONSTRAINT pk_session_placeholders PRIMARY KEY (session_id, credential_id), 
	CONSTRAINT fk_session_placeholders_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE, 
	CONSTRAINT fk_session_placeholders_credential_id FOREIGN KEY(credential_id) REFERENCES credentials (id) ON DELETE CASCADE
);
CREATE TABLE session_skills (
	session_id TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	CONSTRAINT pk_session_skills PRIMARY KEY (session_id, sha256), 
	CONSTRAINT fk_session_skills_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE session_tokens (
	id TEXT NOT NULL, 
	secret_hash TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	environment_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	work_id TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	expires_at DOUBLE, 
	CONSTRAINT pk_session_tokens PRIMARY KEY (id), 
	CONSTRAINT uq_session_tokens_secret_hash UNIQUE (secret_hash), 
	CONSTRAINT fk_session_tokens_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
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
	isolation TEXT DEFAULT '{}' NOT NULL, 
	state TEXT NOT NULL, 
	last_seq BIGINT NOT NULL, 
	input_tokens BIGINT DEFAULT 0 NOT NULL, 
	output_tokens BIGINT DEFAULT 0 NOT NULL, 
	cache_read_input_tokens BIGINT DEFAULT 0 NOT NULL, 
	cache_creation_5m_input_tokens BIGINT DEFAULT 0 NOT NULL, 
	cache_creation_1h_input_tokens BIGINT DEFAULT 0 NOT NULL, 
	web_search_requests BIGINT DEFAULT 0 NOT NULL, 
	list_cost_nanos BIGINT DEFAULT 0 NOT NULL, 
	unpriced_requests BIGINT DEFAULT 0 NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	archived_at TEXT, 
	forked_from TEXT, 
	imported_from TEXT, 
	log_bytes BIGINT DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_sessions PRIMARY KEY (id), 
	CONSTRAINT fk_sessions_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT fk_sessions_agent_id FOREIGN KEY(agent_id) REFERENCES agents (id), 
	CONSTRAINT fk_sessions_environment_id FOREIGN KEY(environment_id) REFERENCES environments (id)
);
INSERT INTO "sessions" VALUES('sesn_golden','wrkspc_default','agent_1',1,'env_1',NULL,'sthr_sesn_golden','idle','Täst','{"k":"v"}','{"name":"Coder"}','{"type":"cloud"}','[]','[]',NULL,'{}','{"phase":"idle"}',8,7,5,0,0,0,0,0,0,'2026-11-21T19:47:06.373458Z','2026-11-21T19:47:06.376259Z',NULL,NULL,NULL,1105);
CREATE TABLE skill_versions (
	id TEXT NOT NULL, 
	skill_id TEXT NOT NULL, 
	number BIGINT NOT NULL, 
	name TEXT NOT NULL, 
	description TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_skill_versions PRIMARY KEY (id), 
	CONSTRAINT fk_skill_versions_skill_id FOREIGN KEY(skill_id) REFERENCES skills (id) ON DELETE CASCADE, 
	CONSTRAINT uq_skill_versions_skill_id_number UNIQUE (skill_id, number)
);
CREATE TABLE skills (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	display_name TEXT NOT NULL, 
	latest_version_id TEXT, 
	latest_number BIGINT, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	CONSTRAINT pk_skills PRIMARY KEY (id), 
	CONSTRAINT fk_skills_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE snapshot_objects (
	workspace_id TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	kept_at DOUBLE NOT NULL, 
	damaged BOOLEAN NOT NULL, 
	CONSTRAINT pk_snapshot_objects PRIMARY KEY (workspace_id, sha256), 
	CONSTRAINT fk_snapshot_objects_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE snapshot_pieces (
	workspace_id TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	pack TEXT NOT NULL, 
	start BIGINT NOT NULL, 
	stored INTEGER NOT NULL, 
	CONSTRAINT pk_snapshot_pieces PRIMARY KEY (workspace_id, sha256), 
	CONSTRAINT fk_snapshot_pieces_workspace_id_pack FOREIGN KEY(workspace_id, pack) REFERENCES snapshot_objects (workspace_id, sha256) ON DELETE CASCADE
);
CREATE TABLE snapshot_uses (
	snapshot_id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	CONSTRAINT pk_snapshot_uses PRIMARY KEY (snapshot_id, sha256), 
	CONSTRAINT fk_snapshot_uses_snapshot_id FOREIGN KEY(snapshot_id) REFERENCES snapshots (id) ON DELETE CASCADE, 
	CONSTRAINT fk_snapshot_uses_workspace_id_sha256 FOREIGN KEY(workspace_id, sha256) REFERENCES snapshot_objects (workspace_id, sha256)
);
CREATE TABLE snapshots (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	parent_id TEXT, 
	reason TEXT NOT NULL, 
	taken_at TEXT NOT NULL, 
	entries INTEGER NOT NULL, 
	logical_bytes BIGINT NOT NULL, 
	stored_bytes BIGINT NOT NULL, 
	manifest TEXT NOT NULL, 
	content TEXT NOT NULL, 
	CONSTRAINT pk_snapshots PRIMARY KEY (id), 
	CONSTRAINT fk_snapshots_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id), 
	CONSTRAINT uq_snapshots_session_id_number UNIQUE (session_id, number)
);
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
	bytes BIGINT DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_transcripts PRIMARY KEY (project_key, session_id, subpath)
);
INSERT INTO "transcripts" VALUES('sesn_golden','s','',2,1795290426379,NULL,58);
CREATE TABLE usage_mismatches (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	details TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_usage_mismatches PRIMARY KEY (id)
);
CREATE TABLE vaults (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	display_name TEXT NOT NULL, 
	metadata TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	archived_at TEXT, 
	CONSTRAINT pk_vaults PRIMARY KEY (id), 
	CONSTRAINT fk_vaults_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE waiting_calls (
	session_id TEXT NOT NULL, 
	event_id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	since TEXT NOT NULL, 
	CONSTRAINT pk_waiting_calls PRIMARY KEY (session_id, event_id), 
	CONSTRAINT fk_waiting_calls_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE webhook_attempts (
	delivery_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	at TEXT NOT NULL, 
	status INTEGER, 
	error TEXT, 
	latency_ms DOUBLE NOT NULL, 
	CONSTRAINT pk_webhook_attempts PRIMARY KEY (delivery_id, number), 
	CONSTRAINT fk_webhook_attempts_delivery_id FOREIGN KEY(delivery_id) REFERENCES webhook_deliveries (id) ON DELETE CASCADE
);
CREATE TABLE webhook_deliveries (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	endpoint_id TEXT NOT NULL, 
	event_id TEXT NOT NULL, 
	event_type TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	data TEXT NOT NULL, 
	state TEXT NOT NULL, 
	test BOOLEAN NOT NULL, 
	attempts INTEGER NOT NULL, 
	tries_left INTEGER NOT NULL, 
	enqueued_at DOUBLE NOT NULL, 
	tick BIGINT NOT NULL, 
	due_at DOUBLE NOT NULL, 
	owner TEXT, 
	epoch BIGINT NOT NULL, 
	lease_until DOUBLE, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_webhook_deliveries PRIMARY KEY (id)
);
CREATE TABLE webhook_endpoints (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	url TEXT NOT NULL, 
	name TEXT NOT NULL, 
	description TEXT NOT NULL, 
	enabled_events TEXT NOT NULL, 
	state TEXT NOT NULL, 
	disabled_reason TEXT NOT NULL, 
	failures INTEGER NOT NULL, 
	secret TEXT NOT NULL, 
	old_secret TEXT, 
	old_secret_until DOUBLE, 
	created_at TEXT NOT NULL, 
	updated_at TEXT NOT NULL, 
	CONSTRAINT pk_webhook_endpoints PRIMARY KEY (id), 
	CONSTRAINT fk_webhook_endpoints_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE work (
	session_id TEXT NOT NULL, 
	wanted BOOLEAN NOT NULL, 
	available_at DOUBLE NOT NULL, 
	enqueued_at DOUBLE NOT NULL, 
	owner TEXT, 
	epoch BIGINT DEFAULT 0 NOT NULL, 
	lease_until DOUBLE, 
	need TEXT DEFAULT 'turn' NOT NULL, 
	live BOOLEAN DEFAULT 0 NOT NULL, 
	leased_at DOUBLE, 
	CONSTRAINT pk_work PRIMARY KEY (session_id), 
	CONSTRAINT fk_work_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
INSERT INTO "work" VALUES('sesn_golden',0,1.79529042637345790864e+09,1.79529042637345790864e+09,NULL,0,NULL,'turn',0,NULL);
CREATE TABLE work_items (
	id TEXT NOT NULL, 
	workspace_id TEXT NOT NULL, 
	environment_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	metadata TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	queued_at DOUBLE NOT NULL, 
	claimed_at DOUBLE, 
	token_id TEXT, 
	acknowledged_at TEXT, 
	acknowledged_by TEXT, 
	started_at TEXT, 
	latest_heartbeat_at TEXT, 
	previous_heartbeat_at TEXT, 
	heartbeat_by TEXT, 
	ttl_seconds INTEGER NOT NULL, 
	lease_until DOUBLE, 
	idle_since DOUBLE, 
	barren INTEGER NOT NULL, 
	stop_requested_at TEXT, 
	stopped_at TEXT, 
	CONSTRAINT pk_work_items PRIMARY KEY (id), 
	CONSTRAINT fk_work_items_environment_id FOREIGN KEY(environment_id) REFERENCES environments (id), 
	CONSTRAINT fk_work_items_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE TABLE work_pollers (
	environment_id TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	polled_at DOUBLE NOT NULL, 
	CONSTRAINT pk_work_pollers PRIMARY KEY (environment_id, worker), 
	CONSTRAINT fk_work_pollers_environment_id FOREIGN KEY(environment_id) REFERENCES environments (id) ON DELETE CASCADE
);
CREATE TABLE workspace_quotas (
	workspace_id TEXT NOT NULL, 
	overrides TEXT DEFAULT '{}' NOT NULL, 
	day TEXT DEFAULT '' NOT NULL, 
	sessions_made BIGINT DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_workspace_quotas PRIMARY KEY (workspace_id), 
	CONSTRAINT fk_workspace_quotas_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE workspace_retention (
	workspace_id TEXT NOT NULL, 
	overrides TEXT DEFAULT '{}' NOT NULL, 
	looked_at DOUBLE DEFAULT 0 NOT NULL, 
	figures TEXT, 
	measured_at DOUBLE, 
	CONSTRAINT pk_workspace_retention PRIMARY KEY (workspace_id), 
	CONSTRAINT fk_workspace_retention_workspace_id FOREIGN KEY(workspace_id) REFERENCES workspaces (id)
);
CREATE TABLE workspaces (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	archived_at TEXT, 
	webhook_events TEXT DEFAULT '[]' NOT NULL, 
	CONSTRAINT pk_workspaces PRIMARY KEY (id)
);
INSERT INTO "workspaces" VALUES('wrkspc_default','Default','2026-11-21T19:47:06.265180Z',NULL,'[]');
CREATE INDEX ix_api_keys_newest ON api_keys (workspace_id, created_at, id);
CREATE INDEX ix_agents_newest ON agents (workspace_id, created_at, id);
CREATE INDEX ix_environments_newest ON environments (workspace_id, created_at, id);
CREATE INDEX ix_sessions_agent ON sessions (agent_id, created_at, id);
CREATE INDEX ix_sessions_deployment ON sessions (deployment_id, created_at, id);
CREATE INDEX ix_sessions_environment ON sessions (environment_id);
CREATE INDEX ix_sessions_archived ON sessions (workspace_id, archived_at, id) WHERE archived_at IS NOT NULL;
CREATE INDEX ix_sessions_live ON sessions (workspace_id) WHERE archived_at IS NULL;
CREATE INDEX ix_sessions_newest ON sessions (workspace_id, created_at, id);
CREATE INDEX ix_session_memory_stores_store ON session_memory_stores (memory_store_id, session_id);
CREATE INDEX ix_events_processed_at ON events (session_id, processed_at, seq);
CREATE INDEX ix_events_type ON events (session_id, type, seq);
CREATE UNIQUE INDEX uq_events_id ON events (session_id, id);
CREATE INDEX ix_work_leased ON work (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX ix_work_wanted ON work (enqueued_at, session_id) WHERE wanted = 1;
CREATE INDEX ix_model_requests_session ON model_requests (session_id, created_at, id);
CREATE INDEX ix_model_requests_workspace ON model_requests (workspace_id, created_at, id);
CREATE INDEX ix_egress_decisions_session ON egress_decisions (session_id, created_at, id);
CREATE INDEX ix_egress_decisions_environment ON egress_decisions (environment_id, created_at, id);
CREATE INDEX ix_egress_decisions_oldest ON egress_decisions (workspace_id, created_at, id);
CREATE INDEX ix_egress_decisions_audit ON egress_decisions (audit_id);
CREATE INDEX ix_audit_entries_newest ON audit_entries (workspace_id, created_at, id);
CREATE INDEX ix_audit_entries_strand ON audit_entries (workspace_id, strand, created_at, id);
CREATE INDEX ix_audit_entries_chain ON audit_entries (workspace_id, seq);
CREATE INDEX ix_audit_entries_loose ON audit_entries (workspace_id, created_at, strand, number) WHERE seq IS NULL;
CREATE INDEX ix_waiting_calls_oldest ON waiting_calls (workspace_id, since, event_id);
CREATE INDEX ix_files_expires ON files (expires_at);
CREATE INDEX ix_files_newest ON files (workspace_id, created_at, id);
CREATE INDEX ix_files_session ON files (session_id, created_at, id);
CREATE INDEX ix_files_sha256 ON files (sha256);
CREATE INDEX ix_skills_newest ON skills (workspace_id, created_at, id);
CREATE INDEX ix_skill_versions_sha256 ON skill_versions (sha256);
CREATE INDEX ix_session_skills_sha256 ON session_skills (sha256);
CREATE INDEX ix_memory_stores_newest ON memory_stores (workspace_id, created_at, id);
CREATE INDEX ix_memory_versions_newest ON memory_versions (memory_store_id, created_at, id);
CREATE INDEX ix_memory_versions_memory ON memory_versions (memory_id, created_at, id);
CREATE INDEX ix_vaults_newest ON vaults (workspace_id, created_at, id);
CREATE INDEX ix_credentials_newest ON credentials (vault_id, created_at, id);
CREATE INDEX ix_session_placeholders_credential_id ON session_placeholders (credential_id);
CREATE INDEX ix_credential_uses_session ON credential_uses (session_id, created_at, id);
CREATE INDEX ix_credential_uses_oldest ON credential_uses (workspace_id, created_at, id);
CREATE INDEX ix_credential_uses_audit ON credential_uses (audit_id);
CREATE INDEX ix_environment_keys_environment ON environment_keys (environment_id, created_at, id);
CREATE INDEX ix_work_items_session ON work_items (session_id);
CREATE INDEX ix_work_items_newest ON work_items (environment_id, created_at, id);
CREATE UNIQUE INDEX uq_work_items_live ON work_items (session_id) WHERE state <> 'stopped';
CREATE INDEX ix_work_items_queued ON work_items (environment_id, queued_at, id) WHERE state = 'queued';
CREATE INDEX ix_work_items_leased ON work_items (environment_id, lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX ix_work_items_stopped ON work_items (workspace_id, stopped_at, id) WHERE state = 'stopped';
CREATE INDEX ix_session_tokens_session ON session_tokens (session_id);
CREATE INDEX ix_webhook_endpoints_newest ON webhook_endpoints (workspace_id, created_at, id);
CREATE INDEX ix_webhook_deliveries_pending ON webhook_deliveries (due_at, id) WHERE state = 'pending';
CREATE INDEX ix_webhook_deliveries_subject ON webhook_deliveries (endpoint_id, subject, enqueued_at) WHERE state = 'pending';
CREATE INDEX ix_webhook_deliveries_newest ON webhook_deliveries (endpoint_id, created_at, id);
CREATE INDEX ix_webhook_deliveries_oldest ON webhook_deliveries (workspace_id, created_at, id);
CREATE INDEX ix_snapshots_parent ON snapshots (parent_id);
CREATE INDEX ix_snapshot_uses_object ON snapshot_uses (workspace_id, sha256);
CREATE INDEX ix_snapshot_pieces_pack ON snapshot_pieces (workspace_id, pack);
CREATE INDEX ix_blob_objects_oldest ON blob_objects (put_at);
CREATE INDEX ix_checkpoints_newest ON checkpoints (session_id, created_at, id);
CREATE INDEX ix_checkpoints_snapshot ON checkpoints (snapshot_id);
CREATE INDEX ix_rewinds_newest ON rewinds (session_id, created_at, id);
CREATE INDEX ix_orders_session ON orders (session_id, created_at, id);
CREATE INDEX ix_archives_oldest ON archives (workspace_id, state, created_at, id);
CREATE INDEX ix_compactions_newest ON compactions (session_id, created_at, id);
CREATE INDEX ix_compaction_schedules_next_at ON compaction_schedules (next_at);
CREATE INDEX ix_retention_runs_newest ON retention_runs (workspace_id, created_at, id);
CREATE INDEX ix_retention_runs_running ON retention_runs (lease_until) WHERE state = 'running';
CREATE UNIQUE INDEX uq_retention_runs_removing ON retention_runs (workspace_id) WHERE state = 'running' AND NOT dry_run;
CREATE INDEX ix_previews_session ON previews (session_id, created_at, id);
CREATE INDEX ix_previews_oldest ON previews (workspace_id, expires_at, id);
CREATE INDEX ix_rooms_workspace ON rooms (workspace_id, created_at, id);
CREATE INDEX ix_room_conflicts_newest ON room_conflicts (room_id, happened_at, id);
CREATE INDEX ix_room_conflicts_untold ON room_conflicts (other_session_id, told);
CREATE INDEX ix_budgets_workspace ON budgets (workspace_id, created_at, id);
CREATE INDEX ix_reservations_budget ON reservations (budget_id);
CREATE INDEX ix_reservations_session ON reservations (session_id);
CREATE INDEX ix_budget_pauses_budget ON budget_pauses (budget_id);
CREATE INDEX ix_rate_buckets_workspace_id ON rate_buckets (workspace_id);
CREATE INDEX ix_rate_buckets_at ON rate_buckets (at);
CREATE INDEX ix_audit_checkpoints_oldest ON audit_checkpoints (workspace_id, created_at);
CREATE UNIQUE INDEX uq_runtime_spans_open ON runtime_spans (session_id) WHERE ended = 0;
CREATE INDEX ix_runtime_spans_session ON runtime_spans (session_id, created_at, id);
CREATE INDEX ix_runtime_spans_workspace ON runtime_spans (workspace_id, created_at, id);
CREATE INDEX ix_usage_mismatches_session ON usage_mismatches (session_id, created_at, id);
CREATE INDEX ix_usage_mismatches_workspace ON usage_mismatches (workspace_id, created_at, id);
COMMIT;
