"""How is the door to previews opened, and how do links to it begin?"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from hostler.compose.listening import bound
from hostler.config import Settings
from hostler.domain.errors import InvalidRequest

log = logging.getLogger("hostler")


def preview_listener(settings: Settings, api: socket.socket) -> socket.socket | None:
    """Listens on an address of its own. None: turned off. Raises InvalidRequest for a port that was asked for."""
    if not settings.previews.enabled:
        return None
    host = settings.previews.host or settings.server.host
    if settings.previews.port:
        return bound(host, settings.previews.port, "another one as previews.port")
    if settings.server.port:
        try:
            return bound(host, api.getsockname()[1] + 1, "")
        except (InvalidRequest, OverflowError):
            log.info("preview_port_taken", extra={"port": api.getsockname()[1] + 1})
    return bound(host, 0, "")


def preview_link(settings: Settings, listener: socket.socket | None) -> Callable[[str], str]:
    """The address of a label. Raises InvalidRequest for a pattern that has no place for it."""
    pattern = settings.previews.url
    if not pattern:
        port = listener.getsockname()[1] if listener is not None else 0
        pattern = f"http://{{label}}.localhost:{port}"
    scheme, _, rest = pattern.partition("://")
    if scheme not in ("http", "https") or not rest.startswith("{label}.") or "/" in rest.rstrip("/"):
        raise InvalidRequest("previews.url: give it like https://{label}.preview.example.com, without a path")
    return lambda label: pattern.rstrip("/").replace("{label}", label)
