"""What is there to be aimed at? One of each thing in a real server, so that requests get past the first `not found`."""

from __future__ import annotations

from typing import Any

import requests
from schemathesis import Case

WORKERS = {f"environments.work.{name}" for name in ("poll", "ack", "list", "heartbeat", "stop")}


class Things:
    """Ids by the name of the path parameter or body field that takes them."""

    EVERY = 3
    """Every so many-th request keeps the id that the generator made up."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.ids: dict[str, list[str]] = {}
        self.good: dict[str, dict[str, Any]] = {}
        """A body that is accepted, by operation."""
        self.hosted = ""
        """A self-hosted environment."""
        self.environment_key = ""
        self._aimed = 0
        self._make()

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {self.key}"}
        answer = requests.post(self.url + path, json=body, headers=headers, timeout=20, **more)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def key_for(self, operation: str) -> str:
        """Workers' endpoints want a worker's key."""
        return self.environment_key if operation in WORKERS else self.key

    def aim(self, case: Case) -> None:
        """Put real ids where ids are asked for, most of the time."""
        self._aimed += 1
        if self._aimed % self.EVERY == 0:
            return
        good = self.good.get(case.operation.definition.raw["operationId"])
        if good is not None and isinstance(case.body, dict) and self._aimed % 6 < 4:
            # A body that is right, or right but for what one generated field says.
            case.body = good | dict(list(case.body.items())[: 1 if self._aimed % 6 < 2 else 0])
        nested = len(case.path_parameters or {}) > 1
        hosted = "/work" in case.operation.path or "environments/{environment_id}/keys" in case.operation.path
        for place in (case.path_parameters, case.query, case.body):
            if isinstance(place, dict):
                for name, known in self.ids.items():
                    if name in place:
                        # What is nested belongs to the first of its owners.
                        place[name] = known[0 if nested else self._aimed % len(known)]
                if hosted and "environment_id" in place:
                    place["environment_id"] = self.hosted

    def _make(self) -> None:
        tools = [{"type": "agent_toolset_20260401"}]
        agent = {"model": "claude-opus-5-5", "tools": tools}
        agents = [self.post("/v1/agents", {"name": f"A{n}", **agent}) for n in (1, 2)]
        environments = [self.post("/v1/environments", {"name": f"e{n}"}) for n in (1, 2)]
        file = self.post("/v1/files", files={"file": ("a.txt", b"content", "text/plain")})
        text = b"---\nname: fuzzed\ndescription: Is fuzzed.\n---\nNothing.\n"
        skill = self.post("/v1/skills", files={"files[]": ("fuzzed/SKILL.md", text)})
        skill_version = self._first(f"/v1/skills/{skill['id']}/versions")
        store = self.post("/v1/memory_stores", {"name": "notes"})
        memory = self.post(f"/v1/memory_stores/{store['id']}/memories", {"path": "/a.md", "content": "one"})
        memory_version = self._first(f"/v1/memory_stores/{store['id']}/memory_versions")
        vault = self.post("/v1/vaults", {"display_name": "v"})
        bearer = {"type": "static_bearer", "mcp_server_url": "https://mcp.example.com/", "token": "secret"}
        credential = self.post(f"/v1/vaults/{vault['id']}/credentials", {"auth": bearer})
        made = {"agent": agents[0]["id"], "environment_id": environments[0]["id"]}
        mounted = {"type": "file", "file_id": file["id"]}
        sessions = [self.post("/v1/sessions", {**made, "resources": [mounted]}) for _ in range(8)]
        self.hosted = self.post("/v1/environments", {"name": "hosted", "config": {"type": "self_hosted"}})["id"]
        worker = self.post(f"/hostler/v1/environments/{self.hosted}/keys", {"name": "worker"})
        self.environment_key = worker["secret"]
        message = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
        self.post("/v1/sessions", {**made, "environment_id": self.hosted, "initial_events": [message]})
        work = self._first(f"/v1/environments/{self.hosted}/work", self.environment_key)
        key = self.post("/hostler/v1/keys", {"name": "another"})
        workspace = self.post("/hostler/v1/workspaces", {"name": "another"})
        endpoint = self.post(
            "/hostler/v1/webhook_endpoints", {"url": "https://example.com/", "enabled_events": ["agent.created"]}
        )
        self.ids = {
            "agent_id": [found["id"] for found in agents],
            "agent": [found["id"] for found in agents],
            "environment_id": [environment["id"] for environment in environments],
            "session_id": [session["id"] for session in sessions],
            "thread_id": [self._first(f"/v1/sessions/{sessions[0]['id']}/threads")],
            "resource_id": [sessions[0]["resources"][0]["id"]],
            "model_id": ["claude-opus-5-5"],
            "file_id": [file["id"]],
            "skill_id": [skill["id"]],
            "version": [skill_version],
            "memory_store_id": [store["id"]],
            "memory_id": [memory["id"]],
            "memory_version_id": [memory_version],
            "vault_id": [vault["id"]],
            "credential_id": [credential["id"]],
            "work_id": [work],
            "key_id": [key["id"]],
            "workspace_id": [workspace["id"]],
            "endpoint_id": [endpoint["id"]],
        }
        self.good = {
            "agents.create": {"name": "G", **agent},
            "agents.update": {"description": "changed"},
            "environments.update": {"description": "changed"},
            "environments.work.update": {"metadata": {"k": "v"}},
            "sessions.create": made,
            "sessions.update": {"title": "changed"},
            "sessions.events.send": {"events": [{"type": "user.interrupt"}]},
            "sessions.resources.add": mounted,
            "memory_stores.create": {"name": "more notes"},
            "memory_stores.update": {"description": "changed"},
            "memory_stores.memories.create": {"path": "/b.md", "content": "x"},
            "memory_stores.memories.update": {"content": "two"},
            "vaults.create": {"display_name": "another"},
            "vaults.update": {"metadata": {"k": "v"}},
            "vaults.credentials.create": {"auth": {**bearer, "mcp_server_url": "https://other.example.com/"}},
            "vaults.credentials.update": {"display_name": "changed"},
            "hostler.keys.create": {"name": "k"},
            "hostler.workspaces.create": {"name": "w"},
            "hostler.workspaces.update": {"name": "renamed"},
            "hostler.workspaces.quotas.update": {"live_sessions": 100},
            "hostler.environments.keys.create": {"name": "k"},
            "hostler.webhook_endpoints.create": {"url": "https://example.com/", "enabled_events": ["agent.created"]},
            "hostler.webhook_endpoints.update": {"name": "renamed"},
            "hostler.webhook_endpoints.rotate_secret": {"grace_seconds": 10},
        }

    def _first(self, path: str, key: str | None = None) -> str:
        answer = requests.get(self.url + path, headers={"authorization": f"Bearer {key or self.key}"}, timeout=20)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return str(answer.json()["data"][0]["id"])
