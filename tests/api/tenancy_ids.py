"""What belongs to a workspace, and where its ids may be sent? The registry behind the generated tenancy test.

Whoever adds a resource adds a line each to:

- `MAKERS`: how one comes to exist, by the name of its part of the path;
- `BODIES`: a body that is right, for every endpoint with a body, so that a 400 can't hide a missing 404;
- `REFERENCES`: ids that are sent in a query or a body. The test reads the parameters of the official client and fails
  for one that may carry an id and is not here.
- `SHOWN`: where a thing is read, to see that nobody changed it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import anthropic
from apikit_raw import RawAnswer, send
from apikit_server import TRUST, Connections

Ids = Mapping[str, str]
"""Ids of one workspace, by the name of their part of the path. Made when they are first asked for."""
Answer = Literal[404, 400, "empty"]
"""`empty`: a filter, which finds nothing under an id that it doesn't know. 400: only where the contract demands it."""


BEARER: Any = {"type": "static_bearer", "token": "t", "mcp_server_url": "https://mcp.example.com/"}


@dataclass
class Owner:
    """A workspace with one of everything."""

    base_url: str
    workspace: str
    key: str
    made: dict[str, str] = field(default_factory=dict)
    count: int = 0

    @property
    def client(self) -> anthropic.Anthropic:
        connections = Connections(verify=TRUST)
        return anthropic.Anthropic(base_url=self.base_url, api_key=self.key, max_retries=0, http_client=connections)

    def post(self, path: str, body: bytes) -> Any:
        answer = send(self.base_url, "POST", path, key=self.key, body=body)
        assert answer.status == 200, answer.body
        return answer.json

    def get(self, path: str) -> RawAnswer:
        return send(self.base_url, "GET", path, key=self.key)

    def __getitem__(self, name: str) -> str:
        if name not in self.made:
            self.made[name] = MAKERS[name](self)
        return self.made[name]


@dataclass(frozen=True)
class Sent:
    """What is sent besides the path."""

    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    answer: Answer = 404


def _agent(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.agents.create(name="theirs", model="claude-opus-5-5").id


def _environment(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.environments.create(name="theirs").id


def _session(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.sessions.create(agent=owner["agent_id"], environment_id=owner["environment_id"]).id


def _thread(owner: Owner) -> str:
    with owner.client as client:
        return next(iter(client.beta.sessions.threads.list(owner["session_id"]))).id


def _archive(owner: Owner) -> str:
    """Of the owner's session, which says something and is compacted."""
    session = owner["session_id"]
    said: Any = {"type": "user.message", "content": [{"type": "text", "text": "theirs"}]}
    with owner.client as client:
        events = client.beta.sessions.events
        with events.stream(session) as stream:
            events.send(session, events=[said])
            next(event for event in stream if event.type == "session.status_idle")
            owner.post(f"/hostler/v1/sessions/{session}/compact", b"{}")
            next(event for event in stream if event.type == "session.status_idle")
    return str(owner.get(f"/hostler/v1/sessions/{session}/archives").json["data"][0]["id"])


def _file(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.files.upload(file=("theirs.txt", b"theirs")).id


def _resource(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.sessions.resources.add(owner["session_id"], type="file", file_id=owner["file_id"]).id


def _vault(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.vaults.create(display_name="theirs").id


def _credential(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.vaults.credentials.create(owner["vault_id"], auth=BEARER, display_name="theirs").id


def _memory_store(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.memory_stores.create(name="theirs").id


def _memory(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.memory_stores.memories.create(owner["memory_store_id"], path="/a", content="theirs").id


def _memory_version(owner: Owner) -> str:
    memory = owner["memory_id"]
    with owner.client as client:
        versions = client.beta.memory_stores.memory_versions.list(owner["memory_store_id"], memory_id=memory)
        return next(iter(versions)).id


def _webhook_endpoint(owner: Owner) -> str:
    body = b'{"url":"https://hooks.invalid/x","enabled_events":["session.created"]}'
    return str(owner.post("/hostler/v1/webhook_endpoints", body)["id"])


def _webhook_delivery(owner: Owner) -> str:
    return str(owner.post(f"/hostler/v1/webhook_endpoints/{owner['endpoint_id']}/test", b"{}")["id"])


def _checkpoint(owner: Owner) -> str:
    return str(owner.post(f"/hostler/v1/sessions/{owner['session_id']}/checkpoints", b"{}")["id"])


def _fork(owner: Owner) -> str:
    body = json.dumps({"checkpoint_id": owner["checkpoint_id"]}).encode()
    return str(owner.post(f"/hostler/v1/sessions/{owner['session_id']}/fork", body)["id"])


def _preview(owner: Owner) -> str:
    return str(owner.post(f"/hostler/v1/sessions/{owner['session_id']}/previews", b'{"port": 3000}')["id"])


def _room(owner: Owner) -> str:
    hosting: Any = {"type": "cloud", "hosting": {"pattern": "shared"}}
    with owner.client as client:
        environment = client.beta.environments.create(name="theirs together", config=hosting).id
        client.beta.sessions.create(agent=owner["agent_id"], environment_id=environment)
    return str(owner.get("/hostler/v1/rooms").json["data"][0]["id"])


SKILL_FILES = [("theirs/SKILL.md", b"---\nname: theirs\ndescription: Theirs.\n---\n")]
SKILL_FORM = (
    "multipart/form-data; boundary=edge",
    b'--edge\r\nContent-Disposition: form-data; name="files[]"; filename="theirs/SKILL.md"\r\n\r\n'
    + SKILL_FILES[0][1]
    + b"\r\n--edge--\r\n",
)


def _skill(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.skills.create(files=SKILL_FILES).id


def _skill_version(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.skills.versions.create(owner["skill_id"], files=SKILL_FILES).id


def _queue_environment(owner: Owner) -> str:
    with owner.client as client:
        return client.beta.environments.create(name="theirs elsewhere", config={"type": "self_hosted"}).id


def _work(owner: Owner) -> str:
    said: Any = {"type": "user.message", "content": [{"type": "text", "text": "theirs"}]}
    environment = owner["queue_environment_id"]
    with owner.client as client:
        client.beta.sessions.create(agent=owner["agent_id"], environment_id=environment, initial_events=[said])
    with anthropic.Anthropic(base_url=owner.base_url, api_key=_worker_secret(owner), max_retries=0) as worker:
        return next(iter(worker.beta.environments.work.list(environment))).id


def _environment_key(owner: Owner) -> str:
    return str(owner.post(f"/hostler/v1/environments/{owner['queue_environment_id']}/keys", b'{"name":"theirs"}')["id"])


def _worker_secret(owner: Owner) -> str:
    path = f"/hostler/v1/environments/{owner['queue_environment_id']}/keys"
    return str(owner.post(path, b'{"name":"of a worker"}')["secret"])


NOT_OF_A_WORKSPACE = frozenset({"model_id", "anthropic_worker_id"})
"""What is sent with an id that no workspace has: the same for everybody, or the caller's own invention."""

MEANINGS = {
    ("environments.work.", "environment_id"): "queue_environment_id",
    ("hostler.environments.keys.", "environment_id"): "queue_environment_id",
    ("hostler.environments.keys.", "key_id"): "environment_key_id",
}
"""Which maker makes a part of the path, where it is not the one of that name: by the beginning of the endpoint."""


def meaning(endpoint: str, part: str) -> str:
    """The maker of a part of the path of `endpoint`."""
    found = (maker for (begin, named), maker in MEANINGS.items() if named == part and endpoint.startswith(begin))
    return next(found, part)


MAKERS: dict[str, Callable[[Owner], str]] = {
    "agent_id": _agent,
    "environment_id": _environment,
    "session_id": _session,
    # Before there is anybody who wants to hear of new sessions, and is told of them again and again.
    "checkpoint_id": _checkpoint,
    "fork_id": _fork,
    "room_id": _room,
    "thread_id": _thread,
    "archive_id": _archive,
    "file_id": _file,
    "resource_id": _resource,
    "vault_id": _vault,
    "credential_id": _credential,
    "memory_store_id": _memory_store,
    "memory_id": _memory,
    "memory_version_id": _memory_version,
    "skill_id": _skill,
    "version": _skill_version,
    "queue_environment_id": _queue_environment,
    "work_id": _work,
    "environment_key_id": _environment_key,
    "key_id": lambda owner: str(owner.post("/hostler/v1/keys", b'{"name":"theirs"}')["id"]),
    "workspace_id": lambda owner: owner.workspace,
    "endpoint_id": _webhook_endpoint,
    "delivery_id": _webhook_delivery,
    "preview_id": _preview,
    "budget_id": lambda owner: str(
        owner.post("/hostler/v1/budgets", b'{"scope":"workspace","limit":{"amount":"99999999","currency":"USD"}}')["id"]
    ),
    "run_id": lambda owner: str(owner.post("/hostler/v1/retention/runs", b'{"dry_run":true}')["id"]),
}

SHOWN: dict[str, str] = {
    "agent_id": "/v1/agents/{agent_id}",
    "environment_id": "/v1/environments/{environment_id}",
    "session_id": "/v1/sessions/{session_id}",
    "thread_id": "/v1/sessions/{session_id}/threads/{thread_id}",
    "archive_id": "/hostler/v1/sessions/{session_id}/archives/{archive_id}",
    "file_id": "/v1/files/{file_id}",
    "resource_id": "/v1/sessions/{session_id}/resources/{resource_id}",
    "vault_id": "/v1/vaults/{vault_id}",
    "credential_id": "/v1/vaults/{vault_id}/credentials/{credential_id}",
    "memory_store_id": "/v1/memory_stores/{memory_store_id}",
    "memory_id": "/v1/memory_stores/{memory_store_id}/memories/{memory_id}",
    "memory_version_id": "/v1/memory_stores/{memory_store_id}/memory_versions/{memory_version_id}",
    "skill_id": "/v1/skills/{skill_id}",
    "version": "/v1/skills/{skill_id}/versions/{version}",
    "queue_environment_id": "/v1/environments/{queue_environment_id}",
    "work_id": "/v1/environments/{queue_environment_id}/work/{work_id}",
    "environment_key_id": "/hostler/v1/environments/{queue_environment_id}/keys",
    "key_id": "/hostler/v1/keys/{key_id}",
    "workspace_id": "/hostler/v1/workspaces/{workspace_id}",
    "endpoint_id": "/hostler/v1/webhook_endpoints/{endpoint_id}",
    "delivery_id": "/hostler/v1/webhook_endpoints/{endpoint_id}/deliveries",
    "checkpoint_id": "/hostler/v1/sessions/{session_id}/checkpoints/{checkpoint_id}",
    "fork_id": "/v1/sessions/{fork_id}",
    "preview_id": "/hostler/v1/sessions/{session_id}/previews",
    "room_id": "/hostler/v1/rooms/{room_id}",
    "budget_id": "/hostler/v1/budgets/{budget_id}",
    "run_id": "/hostler/v1/retention/runs/{run_id}",
}

WORKER_SECRET: Callable[[Owner], str] | None = _worker_secret
"""Makes an environment key for the owner's environment: for endpoints that API keys may not call."""


def _new_session(mine: Ids) -> dict[str, Any]:
    return {"agent": mine["agent_id"], "environment_id": mine["environment_id"]}


def _message(file_id: str) -> dict[str, Any]:
    """A message that shows a file."""
    return {"type": "user.message", "content": [{"type": "document", "source": {"type": "file", "file_id": file_id}}]}


TOOLSET = {"type": "agent_toolset_20260401"}


def _skills(mine: Ids, theirs: Ids) -> list[dict[str, Any]]:
    """Skills that are not all mine."""
    return [
        {"type": "custom", "skill_id": theirs["skill_id"]},
        {"type": "custom", "skill_id": theirs["skill_id"], "version": theirs["version"]},
        {"type": "custom", "skill_id": mine["skill_id"], "version": theirs["version"]},
    ]


INTERRUPT = {"events": [{"type": "user.interrupt"}]}

BODIES: dict[str, Any] = {
    # Nothing to say: the path says it all.
    "agents.archive": None,
    "environments.archive": None,
    "sessions.archive": None,
    "sessions.threads.archive": None,
    "vaults.archive": None,
    "vaults.credentials.archive": None,
    "vaults.credentials.mcp_oauth_validate": None,
    "memory_stores.archive": None,
    "memory_stores.memory_versions.redact": None,
    "environments.work.ack": None,
    "environments.work.heartbeat": None,
    "hostler.environments.keys.revoke": None,
    "hostler.keys.revoke": None,
    "hostler.workspaces.archive": None,
    "hostler.webhook_endpoints.deliveries.retry": None,
    # Something to say.
    "agents.update": {"name": "mine now"},
    "environments.update": {"name": "mine now"},
    "environments.work.stop": {"force": True},
    "environments.work.update": {"metadata": {"mine": "now"}},
    "hostler.environments.keys.create": {"name": "mine now"},
    "sessions.update": {"title": "mine now"},
    "hostler.sessions.compact": {},
    "sessions.events.send": INTERRUPT,
    "sessions.resources.add": lambda mine: {"type": "file", "file_id": mine["file_id"]},
    "sessions.resources.update": {"authorization_token": "t"},
    "vaults.update": {"display_name": "mine now"},
    "vaults.credentials.create": {"auth": BEARER, "display_name": "mine"},
    "vaults.credentials.update": {"display_name": "mine now"},
    "skills.versions.create": SKILL_FORM,
    "memory_stores.update": {"name": "mine now"},
    "memory_stores.memories.create": {"path": "/mine", "content": "x"},
    "memory_stores.memories.update": {"content": "mine now"},
    "hostler.workspaces.update": {"name": "mine now"},
    "hostler.webhook_endpoints.update": {"name": "mine now"},
    "hostler.budgets.create": {"scope": "workspace", "limit": {"amount": "99999999", "currency": "USD"}},
    "hostler.budgets.update": {"warn_at": [80]},
    "hostler.webhook_endpoints.rotate_secret": {"grace_seconds": 0},
    "hostler.webhook_endpoints.test": {},
    "hostler.workspaces.quotas.update": {"live_sessions": 1},
    "hostler.sessions.checkpoints.create": {"name": "mine"},
    "hostler.sessions.rewind": lambda mine: {"checkpoint_id": mine["checkpoint_id"]},
    "hostler.sessions.fork": lambda mine: {"checkpoint_id": mine["checkpoint_id"]},
    "hostler.sessions.previews.create": {"port": 3000},
    "hostler.sessions.previews.revoke": {},
}
"""By endpoint. The value of a multipart request is `(content type, bytes)`; a body with ids is made of mine."""


def _bundle(owner: Ids) -> tuple[str, bytes]:
    """Of a session that has a vault and a memory store."""
    assert isinstance(owner, Owner)
    memory: Any = {"type": "memory_store", "memory_store_id": owner["memory_store_id"]}
    with owner.client as client:
        session = client.beta.sessions.create(
            agent=owner["agent_id"],
            environment_id=owner["environment_id"],
            vault_ids=[owner["vault_id"]],
            resources=[memory],
        )
    answer = owner.get(f"/hostler/v1/sessions/{session.id}/bundle")
    assert answer.status == 200, answer.body
    return "application/zstd", answer.body


def _decided(mine: Ids) -> dict[str, str]:
    """An import of mine that would be taken."""
    kept = {name: f"{mine[f'{name}_id']}:" for name in ("vault", "memory_store")}
    return {"agent": mine["agent_id"], "environment": mine["environment_id"], **kept}


def _theirs(name: str, mine: Ids, theirs: Ids) -> dict[str, str]:
    other = theirs[f"{name}_id"]
    return {name: other if name in ("agent", "environment") else f"{mine[f'{name}_id']}:{other}"}


REFERENCES: dict[tuple[str, str], Callable[[Ids, Ids], list[Sent]]] = {
    ("hostler.budgets.create", "agent_id"): lambda mine, theirs: [
        Sent(
            body={
                "scope": "agent",
                "agent_id": theirs["agent_id"],
                "limit": {"amount": "99999999", "currency": "USD"},
            }
        )
    ],
    ("hostler.budgets.list", "agent_id"): lambda mine, theirs: [
        Sent(query={"agent_id": theirs["agent_id"]}, answer="empty")
    ],
    ("hostler.policy.test", "environment_id"): lambda mine, theirs: [
        Sent(body={"environment_id": theirs["environment_id"]})
    ],
    ("hostler.policy.suggest", "environment_id"): lambda mine, theirs: [
        Sent(body={"environment_id": theirs["environment_id"]})
    ],
    ("hostler.routing.explain", "agent_id"): lambda mine, theirs: [Sent(body={"agent_id": theirs["agent_id"]})],
    ("hostler.routing.compare", "agent_id"): lambda mine, theirs: [
        Sent(body={"agent_id": theirs["agent_id"], "sets": [{}]})
    ],
    ("hostler.policy.suggest", "session_id"): lambda mine, theirs: [Sent(body={"session_id": theirs["session_id"]})],
    ("sessions.create", "agent"): lambda mine, theirs: [
        Sent(body={"agent": agent, "environment_id": mine["environment_id"]})
        for agent in (
            theirs["agent_id"],
            {"type": "agent", "id": theirs["agent_id"], "version": 1},
            {"type": "agent_with_overrides", "id": theirs["agent_id"], "system": "x"},
            *(
                {"type": "agent_with_overrides", "id": mine["agent_id"], "tools": [TOOLSET], "skills": [skill]}
                for skill in _skills(mine, theirs)
            ),
        )
    ],
    ("agents.create", "skills"): lambda mine, theirs: [
        Sent(body={"name": "n", "model": "claude-opus-5-5", "tools": [TOOLSET], "skills": [skill]})
        for skill in _skills(mine, theirs)
    ],
    ("agents.update", "skills"): lambda mine, theirs: [
        Sent(body={"tools": [TOOLSET], "skills": [skill]}) for skill in _skills(mine, theirs)
    ],
    ("sessions.create", "environment_id"): lambda mine, theirs: [
        Sent(body={"agent": mine["agent_id"], "environment_id": theirs["environment_id"]})
    ],
    ("sessions.list", "agent_id"): lambda mine, theirs: [
        Sent(query={"agent_id": theirs["agent_id"]}, answer="empty"),
        Sent(query={"agent_id": theirs["agent_id"], "agent_version": "1"}, answer="empty"),
    ],
    ("sessions.create", "resources"): lambda mine, theirs: [
        Sent(body={**_new_session(mine), "resources": [resource]})
        for resource in (
            {"type": "file", "file_id": theirs["file_id"]},
            {"type": "memory_store", "memory_store_id": theirs["memory_store_id"]},
        )
    ],
    ("sessions.create", "vault_ids"): lambda mine, theirs: [
        Sent(body={**_new_session(mine), "vault_ids": ids})
        for ids in ([theirs["vault_id"]], [mine["vault_id"], theirs["vault_id"]])
    ],
    # The contract rejects a bad event as a bad request, and one that shows an unknown file is one.
    ("sessions.create", "initial_events"): lambda mine, theirs: [
        Sent(body={**_new_session(mine), "initial_events": [_message(theirs["file_id"])]}, answer=400)
    ],
    ("sessions.events.send", "events"): lambda mine, theirs: [
        Sent(body={"events": [_message(theirs["file_id"])]}, answer=400)
    ],
    ("sessions.list", "memory_store_id"): lambda mine, theirs: [
        Sent(query={"memory_store_id": theirs["memory_store_id"]}, answer="empty")
    ],
    ("sessions.resources.add", "file_id"): lambda mine, theirs: [
        Sent(body={"type": "file", "file_id": theirs["file_id"]})
    ],
    ("files.list", "ids"): lambda mine, theirs: [Sent(query={"ids[]": theirs["file_id"]}, answer="empty")],
    ("files.list", "scope_id"): lambda mine, theirs: [Sent(query={"scope_id": theirs["session_id"]}, answer="empty")],
    ("memory_stores.memory_versions.list", "memory_id"): lambda mine, theirs: [
        Sent(query={"memory_id": theirs["memory_id"]}, answer="empty")
    ],
    ("memory_stores.memory_versions.list", "session_id"): lambda mine, theirs: [
        Sent(query={"session_id": theirs["session_id"]}, answer="empty")
    ],
    ("memory_stores.memory_versions.list", "api_key_id"): lambda mine, theirs: [
        Sent(query={"api_key_id": theirs["key_id"]}, answer="empty")
    ],
    # ------------------------------------------------------------------------------------------------ our own ones
    ("hostler.keys.create", "workspace_id"): lambda mine, theirs: [
        Sent(body={"name": "k", "workspace_id": theirs["workspace_id"]})
    ],
    ("hostler.keys.list", "workspace_id"): lambda mine, theirs: [Sent(query={"workspace_id": theirs["workspace_id"]})],
    ("hostler.retention.update", "workspace_id"): lambda mine, theirs: [
        Sent(body={"workspace_id": theirs["workspace_id"], "previews": 1})
    ],
    ("hostler.retention.runs.create", "workspace_id"): lambda mine, theirs: [
        Sent(body={"workspace_id": theirs["workspace_id"], "dry_run": dry}) for dry in (True, False)
    ],
    **{
        (f"hostler.{name}", "workspace_id"): lambda mine, theirs: [Sent(query={"workspace_id": theirs["workspace_id"]})]
        for name in (
            "storage.retrieve",
            "retention.retrieve",
            "retention.runs.list",
            "rate_limits.retrieve",
            "audit.chain.retrieve",
            "audit.export",
        )
    },
    **{
        (f"hostler.{name}", "workspace_id"): lambda mine, theirs: [Sent(query={"workspace_id": theirs["workspace_id"]})]
        for name in ("usage.list", "usage.mismatches.list")
    },
    **{
        ("hostler.usage.list", name): lambda mine, theirs, name=name: [Sent(query={name: theirs[name]}, answer="empty")]
        for name in ("agent_id", "environment_id", "session_id")
    },
    ("hostler.usage.mismatches.list", "session_id"): lambda mine, theirs: [
        Sent(query={"session_id": theirs["session_id"]}, answer="empty")
    ],
    ("hostler.rate_limits.update", "workspace_id"): lambda mine, theirs: [
        Sent(body={"workspace_id": theirs["workspace_id"], "requests_per_minute": 1}),
        Sent(body={"workspace_id": theirs["workspace_id"], "agent_id": theirs["agent_id"], "requests_per_minute": 1}),
    ],
    ("hostler.rate_limits.update", "agent_id"): lambda mine, theirs: [
        Sent(body={"agent_id": theirs["agent_id"], "requests_per_minute": 1})
    ],
    ("hostler.audit.list", "workspace_id"): lambda mine, theirs: [Sent(query={"workspace_id": theirs["workspace_id"]})],
    ("hostler.audit.list", "target_id"): lambda mine, theirs: [
        Sent(query={"target_id": theirs["key_id"]}, answer="empty")
    ],
    ("hostler.sessions.rewind", "checkpoint_id"): lambda mine, theirs: [
        Sent(body={"checkpoint_id": theirs["checkpoint_id"]})
    ],
    ("hostler.sessions.fork", "checkpoint_id"): lambda mine, theirs: [
        Sent(body={"checkpoint_id": theirs["checkpoint_id"]})
    ],
    **{
        ("hostler.sessions.import", name): lambda mine, theirs, name=name: [
            Sent(query={**_decided(mine), **_theirs(name, mine, theirs)}, body=_bundle(mine))
        ]
        for name in ("agent", "environment", "vault", "memory_store")
    },
    ("hostler.sessions.bundle", "checkpoint_id"): lambda mine, theirs: [
        Sent(query={"checkpoint_id": theirs["checkpoint_id"]})
    ],
    ("hostler.sessions.diff", "from"): lambda mine, theirs: [Sent(query={"from": theirs["checkpoint_id"]})],
    ("hostler.sessions.diff", "to"): lambda mine, theirs: [
        Sent(query={"from": mine["checkpoint_id"], "to": theirs[name]})
        for name in ("checkpoint_id", "session_id", "fork_id")
    ],
    ("hostler.audit.list", "session_id"): lambda mine, theirs: [
        Sent(query={"session_id": theirs["session_id"]}, answer="empty")
    ],
    ("hostler.audit.redact", "workspace_id"): lambda mine, theirs: [
        Sent(body={"workspace_id": theirs["workspace_id"], "subject": theirs["session_id"]})
    ],
    ("hostler.audit.redact", "subject"): lambda mine, theirs: [Sent(body={"subject": theirs["session_id"]})],
    ("hostler.audit.list", "actor_id"): lambda mine, theirs: [
        Sent(query={"actor_id": theirs["key_id"]}, answer="empty")
    ],
}

CARRIERS = frozenset({"agent", "resources", "skills", "multiagent", "initial_events", "events"})
"""Parameters of the client that may hold ids although their names don't say so."""

NO_REFERENCES: dict[tuple[str, str], str] = {
    ("models.list", "after_id"): "models are the same for everybody",
    ("models.list", "before_id"): "models are the same for everybody",
    ("sessions.update", "vault_ids"): "always refused: fixed at creation",
    ("sessions.update", "agent"): "holds tools, no id",
    ("sessions.list", "deployment_id"): "deployments add theirs",
    ("memory_stores.memory_versions.list", "service_account_id"): "there are no service accounts",
    ("agents.create", "multiagent"): "multiagent adds its own",
    ("agents.update", "multiagent"): "multiagent adds its own",
}
"""Why a parameter is not in `REFERENCES`."""

OWN_PARAMETERS: dict[str, tuple[str, ...]] = {
    "keys.create": ("workspace_id",),
    "keys.list": ("workspace_id",),
    "keys.retrieve": (),
    "keys.revoke": (),
    "budgets.create": ("agent_id",),
    "budgets.list": ("agent_id",),
    "budgets.retrieve": (),
    "budgets.update": (),
    "budgets.delete": (),
    "rooms.list": (),
    "rooms.retrieve": (),
    "rooms.conflicts.list": (),
    "workspaces.create": (),
    "workspaces.list": (),
    "workspaces.retrieve": (),
    "workspaces.update": (),
    "workspaces.archive": (),
    "workspaces.quotas.retrieve": (),
    "workspaces.quotas.update": (),
    "environments.keys.create": (),
    "environments.keys.list": (),
    "environments.keys.revoke": (),
    "approvals.list": (),
    "live_sessions.list": (),
    "waiting_sessions.list": (),
    "audit.list": ("workspace_id", "target_id", "actor_id", "session_id"),
    "audit.chain.retrieve": ("workspace_id",),
    "audit.export": ("workspace_id",),
    "audit.redact": ("workspace_id", "subject"),
    "sessions.egress.list": (),
    "sessions.compact": (),
    "sessions.compaction.retrieve": (),
    "sessions.compactions.list": (),
    "sessions.archives.list": (),
    "sessions.archives.search": (),
    "sessions.archives.retrieve": (),
    "sessions.credential_uses.list": (),
    "sessions.checkpoints.create": (),
    "sessions.checkpoints.list": (),
    "sessions.checkpoints.retrieve": (),
    "sessions.checkpoints.delete": (),
    "sessions.rewind": ("checkpoint_id",),
    "sessions.rewinds.list": (),
    "sessions.fork": ("checkpoint_id",),
    "sessions.bundle": ("checkpoint_id",),
    "sessions.import": ("agent", "environment", "vault", "memory_store"),
    "sessions.diff": ("from", "to"),
    "sessions.previews.create": (),
    "sessions.previews.list": (),
    "sessions.previews.revoke": (),
    "policy.test": ("environment_id",),
    "sessions.requests.list": (),
    "routing.explain": ("agent_id",),
    "routing.compare": ("agent_id",),
    "policy.suggest": ("session_id", "environment_id"),
    "health.retrieve": (),
    "prices.retrieve": (),
    "usage.list": ("workspace_id", "agent_id", "environment_id", "session_id"),
    "usage.mismatches.list": ("workspace_id", "session_id"),
    "storage.retrieve": ("workspace_id",),
    "retention.retrieve": ("workspace_id",),
    "retention.update": ("workspace_id",),
    "retention.runs.create": ("workspace_id",),
    "retention.runs.list": ("workspace_id",),
    "retention.runs.retrieve": (),
    "rate_limits.retrieve": ("workspace_id",),
    "rate_limits.update": ("workspace_id", "agent_id"),
    "webhook_endpoints.create": (),
    "webhook_endpoints.list": (),
    "webhook_endpoints.retrieve": (),
    "webhook_endpoints.update": (),
    "webhook_endpoints.delete": (),
    "webhook_endpoints.rotate_secret": (),
    "webhook_endpoints.test": (),
    "webhook_endpoints.deliveries.list": (),
    "webhook_endpoints.deliveries.retry": (),
}
"""Query parameters and body fields of our own endpoints that hold ids."""
