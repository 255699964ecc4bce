"""A gateway whose upstreams are set as an operator does it, with rehearsed clouds behind them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from gateway_fakes import Answer, Listener, Purse, RoadClient, Store, hello

from hostler.compose.gateway import open_desk
from hostler.compose.upstreams import entry_of
from hostler.config import load
from hostler.engine.model_port import Asked, Choice, Persistence, Target
from hostler.gateway import ModelGateway
from hostler.gateway.channel import Channel
from hostler.gateway.desk import OneAttempt

BETAS = "Anthropic-Beta: claude-code-20250219,interleaved-thinking-2025-05-14,effort-2025-11-24\r\n"


@dataclass
class Cloudy:
    """One road of such a gateway."""

    socket: Path
    listener: Listener
    channels: dict[str, Channel]

    async def ask(self, body: Any = None, path: str = "/v1/messages?beta=true", headers: str = "") -> Answer:
        """One request as `claude` makes it, on a connection of its own."""
        client = await RoadClient.connect(self.socket)
        try:
            return await client.post(said() if body is None else body, path, headers)
        finally:
            await client.close()


@dataclass(frozen=True, slots=True)
class Once:
    """Asks one upstream, once: what a channel makes of a failure is what the harness gets."""

    name: str
    models: Mapping[str, str] | None

    def persist(self, asked: Asked, choice: Choice) -> Persistence:
        model = choice.models[0]
        return OneAttempt(Target(self.name, model, model if self.models is None else self.models.get(model, "")))


@contextlib.asynccontextmanager
async def cloudy(
    tmp_path: Path, *upstreams: dict[str, Any], once: bool = True, purse: Purse | None = None
) -> AsyncIterator[Cloudy]:
    """once: no failure is tried again, and the first of the upstreams is the only one that is asked."""
    async with contextlib.AsyncExitStack() as stack:
        settings = load({}, state_dir=str(tmp_path / "state"), upstreams=list(upstreams))
        desk = await open_desk(settings, stack)
        if once:
            only = entry_of(settings.upstreams[0])
            desk = replace(desk, upstreams=Once(only.name, only.models))
        gateway = ModelGateway(desk if purse is None else replace(desk, purse=purse))
        listener = Listener()
        await gateway.open(
            "sesn_1",
            tmp_path / "model.sock",
            listener,
            one_call_at_a_time=False,
            sequence=Store(),
            allowed_models=None,
        )
        try:
            yield Cloudy(tmp_path / "model.sock", listener, dict(desk.channels))
        finally:
            await gateway.close()


def said(text: str = "hi", *, stream: bool = True, model: str = "claude-opus-5-5", **more: Any) -> dict[str, Any]:
    return {
        **hello(stream=stream, model=model),
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        **more,
    }


def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own identity at AWS is found, and no metadata service is asked."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
