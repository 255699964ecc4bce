"""What may a worker's credential call? Its own environment's queue, the sessions there, and nothing else.

Paths are compared before anything is looked up; which sessions belong to the environment is asked of the store.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from hostler.domain.errors import NotFound, PermissionDenied
from hostler.domain.principals import Principal

_WORK: Final = re.compile(r"/v1/environments/([^/]+)/work(?:/(poll|stats)|/([^/]+)(?:/(ack|heartbeat|stop))?)?")
_SESSION: Final = re.compile(r"/v1/sessions/([^/]+)(?:/events(?:/stream)?|/threads(?:/[^/]+(?:/(?:events|stream))?)?)?")
_READS: Final = frozenset({"GET"})

EnvironmentOf = Callable[[str, str], Awaitable[str]]
"""async: workspace and session id to the id of the session's environment. Raises NotFound."""


async def check_access(principal: Principal, method: str, path: str, environment_of: EnvironmentOf) -> None:
    """Raises PermissionDenied for a call that this kind of credential can't make, NotFound for what isn't its own."""
    work = _WORK.fullmatch(path)
    call = _work_call(method, work) if work else ""
    if principal.kind == "api_key":
        if call in ("poll", "ack", "list"):
            raise PermissionDenied(
                f"work.{call} is for workers: call it with an environment key "
                "(hostler environment key create), not with an API key"
            )
        return
    if work:
        allowed = (
            ("poll", "ack", "list", "stats", "heartbeat", "stop")
            if principal.kind == "environment_key"
            else ("heartbeat", "stop")
        )
        if call not in allowed:
            raise PermissionDenied(f"this credential can't call work.{call}; {_hint(principal)}")
        if work[1] != principal.environment_id:
            raise NotFound(f"environment {work[1]} does not exist", code="environment_not_found")
        return
    session = _SESSION.fullmatch(path)
    if session and (method in _READS or (method == "POST" and path.endswith("/events") and path.count("/") == 4)):
        if principal.session_id is not None and session[1] != principal.session_id:
            raise NotFound(f"session {session[1]} does not exist")
        if await environment_of(principal.workspace, session[1]) != principal.environment_id:
            raise NotFound(f"session {session[1]} does not exist")
        return
    if method in _READS and path.startswith("/v1/skills/"):
        return
    raise PermissionDenied(f"this credential can't call {method} {path[:200]}; {_hint(principal)}")


def _work_call(method: str, found: re.Match[str]) -> str:
    named = found[2] or found[4]
    if named:
        return named
    if found[3]:
        return "retrieve" if method == "GET" else "update"
    return "list"


def _hint(principal: Principal) -> str:
    whose = "an environment key" if principal.kind == "environment_key" else "a session's token"
    return f"it is {whose}, which serves the tool calls of its own sessions; use an API key"
