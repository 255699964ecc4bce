"""What do all requests of a gateway share: the upstreams, and who answers the questions around a request?

The answers of this module are those of a gateway that was told nothing: one upstream, the model that was asked for, no
budget, no limit, one attempt.
"""

from __future__ import annotations

from asyncio import Event
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hostler.engine.model_port import (
    Asked,
    Choice,
    Count,
    Ended,
    Fitter,
    Grant,
    Next,
    OnWait,
    Persistence,
    Purse,
    Router,
    Target,
    Throttle,
    UpstreamHealth,
    Upstreams,
    Watcher,
)
from hostler.gateway.channel import Channel
from hostler.store.sessions import Usage

ONLY = "model"
"""Name of the upstream where there is one."""


class AsAsked:
    """Implements `Router`: the model that was asked for."""

    async def choose(self, asked: Asked) -> Choice:
        return Choice((asked.model,))


class AsItCame:
    """Implements `Fitter`: every model is sent the same."""

    def changes(self, model: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}


class NoBudgets:
    """Implements `Purse`: nothing is set aside."""

    async def reserve(self, asked: Asked, models: Sequence[str], count: Count, gone: Event) -> Grant:
        return Grant()

    async def release(self, grant: Grant) -> None:
        pass


class NoLimits:
    """Implements `Throttle`: there is always room."""

    async def wait(self, asked: Asked, target: Target, told: OnWait) -> None:
        pass

    def answered(
        self,
        asked: Asked,
        target: Target,
        status: int,
        headers: Mapping[bytes, bytes],
        usage: Usage,
        *,
        complete: bool,
    ) -> None:
        pass

    def left(self, asked: Asked) -> None:
        pass


@dataclass(slots=True)
class OneAttempt:
    """Implements `Persistence`."""

    target: Target

    def first(self) -> Next | None:
        return Next(self.target)

    def waited(self) -> Next | None:
        return None

    def began(self) -> None:
        pass

    def after(self, ended: Ended) -> Next | None:
        return None

    def over(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class OneUpstream:
    """Implements `Upstreams`: the only one, once."""

    name: str = ONLY

    def persist(self, asked: Asked, choice: Choice) -> Persistence:
        return OneAttempt(Target(self.name, choice.models[0], choice.models[0]))

    def health(self) -> tuple[UpstreamHealth, ...]:
        return (UpstreamHealth(self.name, 0, 1),)


@dataclass(frozen=True, slots=True)
class Desk:
    """What a gateway's requests are put through."""

    channels: Mapping[str, Channel]
    """By the name of the upstream."""
    upstreams: Upstreams = field(default_factory=OneUpstream)
    router: Router = field(default_factory=AsAsked)
    fitter: Fitter = field(default_factory=AsItCame)
    purse: Purse = field(default_factory=NoBudgets)
    throttle: Throttle = field(default_factory=NoLimits)
    watchers: tuple[Watcher, ...] = ()

    def watched_by(self, watcher: Watcher) -> Desk:
        """The same, and one more is told of every request."""
        return replace(self, watchers=(*self.watchers, watcher))

    async def close(self) -> None:
        """Drops every connection."""
        for channel in self.channels.values():
            await channel.close()
