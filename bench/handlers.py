"""What is the API compared with? A bare FastAPI handler, or Hostler's own routes over a service without a database.

`python bench/handlers.py bare|"no db"`: its address and a key as JSON on stdout, until stdin ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
import uvloop
from fastapi import FastAPI

from hostler.api.app import create_app
from hostler.api.connections import BoundedHttpProtocol
from hostler.api.services import ApiServices
from hostler.domain.principals import Principal
from hostler.domain.quotas import PRESETS, Quotas
from hostler.domain.sessions import Position, SessionLine, SessionQuery
from hostler.engine.files import FileTerms
from hostler.engine.models import Models

VIEW: dict[str, Any] = {
    "id": "sesn_fixed",
    "type": "session",
    "status": "idle",
    "title": None,
    "agent": {
        "id": "agent_fixed",
        "type": "agent",
        "version": 1,
        "name": "Bench",
        "description": None,
        "model": {"id": "claude-opus-5-5", "effort": {"type": "high"}, "speed": "standard", "inference_geo": None},
        "system": None,
        "tools": [
            {
                "type": "agent_toolset_20260401",
                "default_config": {"enabled": True, "permission_policy": {"type": "always_allow"}},
                "configs": [],
            }
        ],
        "mcp_servers": [],
        "skills": [],
        "multiagent": None,
        "execution_identity": {"type": "service_account"},
    },
    "environment_id": "env_fixed",
    "resources": [],
    "vault_ids": [],
    "metadata": {},
    "outcome_evaluations": [],
    "stats": {"active_seconds": 0.0, "duration_seconds": 1.0},
    "usage": {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0, "active_seconds": 0.0},
    "budget": None,
    "deployment_id": None,
    "created_at": "2026-01-02T03:04:05.000000Z",
    "updated_at": "2026-01-02T03:04:05.000000Z",
    "archived_at": None,
}


class FixedKeys:
    async def principal_of(self, secret: str) -> Principal | None:
        return Principal("api_key", "apikey_fixed", "wrkspc_fixed")


class FixedSessions:
    async def retrieve(self, workspace: str, session_id: str) -> dict[str, Any]:
        return VIEW

    async def list(self, workspace: str, query: SessionQuery) -> tuple[list[SessionLine], bool, bool]:
        place = Position(VIEW["created_at"], VIEW["id"])
        return [SessionLine(place, json.dumps(VIEW)) for _ in range(query.limit)], False, False


class NoQuotas:
    async def limits_of(self, workspace: str) -> Quotas:
        return PRESETS["unlimited"]


class NoFiles:
    terms = FileTerms()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def application(name: str) -> FastAPI:
    if name == "bare":
        app = FastAPI()

        @app.get("/bare")
        async def bare() -> dict[str, str]:
            return {"id": "sesn_fixed"}

        return app
    nothing = cast(Any, None)
    fields = dict.fromkeys(ApiServices.__dataclass_fields__, nothing)
    fields |= {
        "organization_id": "org",
        "keys": FixedKeys(),
        "models": Models(),
        "sessions": FixedSessions(),
        "quotas": NoQuotas(),
        "files": NoFiles(),
        "allowed_hosts": None,
        "keep_alive_seconds": 15.0,
        "slow_reader_seconds": 30.0,
    }
    return create_app(ApiServices(**fields))


async def serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application(sys.argv[1]),
        loop="none",
        http=BoundedHttpProtocol,
        log_config=None,
        access_log=False,
        lifespan="off",
    )
    server = _Server(config)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve(sockets=[listener]))
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(json.dumps({"base_url": base_url, "api_key": "fixed"}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        server.should_exit = True
        await serving


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
