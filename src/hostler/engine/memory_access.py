"""Who may do what with memory? Holders of an API key everything; a session what was attached to it, as it was."""

from __future__ import annotations

from sqlalchemy import Connection

from hostler.domain.errors import NotFound, PermissionDenied
from hostler.domain.memories import Actor
from hostler.domain.principals import Principal
from hostler.store.sessions import get_session


def may_manage_stores(principal: Principal) -> None:
    """Raises PermissionDenied unless stores may be made, changed, listed and removed, and versions redacted."""
    if principal.kind != "api_key":
        raise PermissionDenied("memory stores are managed with an API key; a worker reads and writes memories only")


def may_access_store(conn: Connection, principal: Principal, store_id: str, *, write: bool) -> None:
    """May this principal read the store and its memories, or write its memories?

    Says nothing about whether the store exists in the workspace of an API key: the store's functions do. Raises
    NotFound for a store that isn't attached to the session of a token, and PermissionDenied for a write to one that
    is attached read-only, and for environment keys. Works for archived sessions: a worker writes its last changes
    after the end.
    """
    if principal.kind == "api_key":
        return
    if principal.kind != "session_token" or principal.session_id is None:
        raise PermissionDenied("an environment key can't reach memory; use the session's token from the work item")
    session = get_session(conn, principal.workspace, principal.session_id)
    for resource in session.resources:
        if resource["type"] == "memory_store" and resource["memory_store_id"] == store_id:
            if write and resource["access"] != "read_write":
                raise PermissionDenied(f"memory store {store_id} is attached to this session for reading only")
            return
    raise NotFound(f"memory store {store_id} does not exist, or is not attached to this session")


def actor_of(principal: Principal) -> Actor:
    """In whose name a version is written. Raises PermissionDenied for those who write none."""
    if principal.kind == "session_token" and principal.session_id is not None:
        return Actor("session_actor", principal.session_id)
    may_manage_stores(principal)
    return Actor("api_actor", principal.id)
