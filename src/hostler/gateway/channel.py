"""How is one request put to one upstream, and how does its answer become one of the Messages API?

A channel is an upstream with its connections: it writes the request as this upstream wants it (address, signature,
names of models) and reads the answer back. The plain one, for whoever speaks the Messages API, changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from hostler.engine.model_port import Target
from hostler.gateway.cloud import FIRST_VERSION, Dialect
from hostler.gateway.http1 import Headers
from hostler.gateway.upstream import AnswerSink, Upstream, UpstreamConnection, UpstreamLimits, UpstreamPool

_BETA = b"anthropic-beta"


class Channel(Protocol):
    """One upstream."""

    @property
    def limits(self) -> UpstreamLimits: ...

    async def prepare(
        self, target: Target, path: bytes, headers: Headers, body: bytes, fields: Mapping[str, Any]
    ) -> tuple[bytes, bytes]:
        """Head and body as they go over the connection.

        path     with the query, as the harness sent it: `/v1/messages?beta=true`.
        headers  those of the harness that may cross.
        fields   what `body` says.

        Raises UpstreamUnreachable when the request can't be made, for want of credentials say.
        """
        ...

    async def take(self, *, fresh: bool) -> UpstreamConnection:
        """An idle connection, or a new one (`fresh`: always a new one). Raises UpstreamUnreachable."""
        ...

    def reading(self, sink: AnswerSink, *, stream: bool) -> AnswerSink:
        """Who takes in the answer, so that `sink` gets it as the Messages API would have said it."""
        ...

    async def probe(self) -> None:
        """Whether a request could be sent now: the credentials are there, and a connection can be made.

        Costs nothing. Raises UpstreamUnreachable.
        """
        ...

    async def close(self) -> None: ...


class MessagesChannel:
    """An upstream that speaks the Messages API itself."""

    def __init__(
        self,
        upstream: Upstream,
        limits: UpstreamLimits | None = None,
        *,
        name: str = "model",
        betas: Collection[str] | None = None,
    ) -> None:
        """betas: those that pass; None: all do, whatever their names."""
        self._pool = UpstreamPool(upstream, limits or UpstreamLimits())
        self._dialect = None if betas is None else Dialect(name, FIRST_VERSION, betas)

    @property
    def limits(self) -> UpstreamLimits:
        return self._pool.limits

    async def prepare(
        self, target: Target, path: bytes, headers: Headers, body: bytes, fields: Mapping[str, Any]
    ) -> tuple[bytes, bytes]:
        if self._dialect is not None:
            known = ",".join(self._dialect.betas(headers)).encode()
            headers = [(name, value) for name, value in headers if name != _BETA]
            if known:
                headers.append((_BETA, known))
        return self._pool.request_head(path, headers, len(body)), body

    async def take(self, *, fresh: bool) -> UpstreamConnection:
        return await self._pool.take(fresh=fresh)

    def reading(self, sink: AnswerSink, *, stream: bool) -> AnswerSink:
        return sink

    async def probe(self) -> None:
        await self._pool.probe()

    async def close(self) -> None:
        await self._pool.close()
