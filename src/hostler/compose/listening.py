"""How does the server listen?"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from hostler.api.connections import BoundedHttpProtocol
from hostler.api.services import LOOPBACK_HOSTS
from hostler.config import Settings
from hostler.domain.errors import InvalidRequest


def is_loopback(host: str) -> bool:
    return host in LOOPBACK_HOSTS or host.startswith("127.")


class Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the order of stopping is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def api_server(app: ASGIApp) -> Server:
    """Serves the API. Requests that run when it is to stop have two seconds."""
    return Server(
        uvicorn.Config(
            app,
            loop="none",
            http=BoundedHttpProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=75,
            lifespan="off",
        )
    )


def listen(settings: Settings) -> socket.socket:
    return bound(settings.server.host, settings.server.port, "another with --port")


def bound(host: str, port: int, instead: str) -> socket.socket:
    """Raises InvalidRequest that says to choose `instead`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else asyncio leaves Nagle on
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InvalidRequest(f"can't listen on {host} port {port}: {error.strerror}; choose {instead}") from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener
