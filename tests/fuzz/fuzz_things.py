"""What is there to be aimed at? One of each thing in a real server, so that requests get past the first `not found`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests
from schemathesis import Case

Api = Callable[..., Any]


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
        self._aimed = 0
        self._make()

    def post(self, path: str, body: Any) -> Any:
        answer = requests.post(self.url + path, json=body, headers={"authorization": f"Bearer {self.key}"}, timeout=20)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def aim(self, case: Case) -> None:
        """Put real ids where ids are asked for, most of the time."""
        self._aimed += 1
        if self._aimed % self.EVERY == 0:
            return
        good = self.good.get(case.operation.definition.raw["operationId"])
        if good is not None and isinstance(case.body, dict) and self._aimed % 6 < 4:
            # A body that is right, or right but for what one generated field says.
            case.body = good | dict(list(case.body.items())[: 1 if self._aimed % 6 < 2 else 0])
        for place in (case.path_parameters, case.query, case.body):
            if isinstance(place, dict):
                for name, known in self.ids.items():
                    if name in place:
                        place[name] = known[0 if "thread_id" in place else self._aimed % len(known)]

    def _make(self) -> None:
        tools = [{"type": "agent_toolset_20260401"}]
        agents = [
            self.post("/v1/agents", {"name": f"A{n}", "model": "claude-opus-5-5", "tools": tools}) for n in (1, 2)
        ]
        environments = [self.post("/v1/environments", {"name": f"e{n}"}) for n in (1, 2)]
        sessions = [
            self.post("/v1/sessions", {"agent": agent["id"], "environment_id": environments[0]["id"]})
            for agent in agents * 4
        ]
        threads = [self._threads(sessions[0]["id"])]
        self.ids = {
            "agent_id": [agent["id"] for agent in agents],
            "agent": [agent["id"] for agent in agents],
            "environment_id": [environment["id"] for environment in environments],
            "session_id": [session["id"] for session in sessions],
            "thread_id": threads,
            "model_id": ["claude-opus-5-5"],
        }
        message = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
        self.good = {
            "agents.create": {"name": "G", "model": "claude-opus-5-5", "tools": tools},
            "agents.update": {"description": "changed"},
            "environments.update": {"description": "changed"},
            "sessions.create": {"agent": agents[0]["id"], "environment_id": environments[0]["id"]},
            "sessions.update": {"title": "changed"},
            "sessions.events.send": {"events": [message]},
        }

    def _threads(self, session_id: str) -> str:
        answer = requests.get(
            f"{self.url}/v1/sessions/{session_id}/threads", headers={"authorization": f"Bearer {self.key}"}, timeout=20
        )
        return str(answer.json()["data"][0]["id"])
