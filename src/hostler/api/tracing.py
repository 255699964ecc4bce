"""Of which trace is a request, and what is it about? The outermost layer: it sees every answer."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hostler.engine.about import About, begin, end
from hostler.engine.trace_port import RequestEnd, Tracing

_UNTRACED: Final = frozenset({"/healthz"})
"""Asked every few seconds by whoever watches the server: nobody wants to see a trace of it."""


class Traced:
    """Begins a trace with each request, or goes on with the client's (`traceparent`)."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        said = [value for name, value in scope["headers"] if name == b"traceparent"]
        about = About()
        trace = self._tracing.request(about, scope["method"], said[0].decode("latin-1") if len(said) == 1 else "")
        status = 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = begin(about)
        try:
            await self._app(scope, receive, noting_send)
        finally:
            end(token)
            parts = scope.get("path_params") or {}
            trace.ended(
                RequestEnd(
                    status,
                    scope.get("hostler.route", ""),
                    str(parts.get("session_id", ""))[:64],
                    known=bool(about.workspace_id),
                )
            )
