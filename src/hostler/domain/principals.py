"""Who makes a request, and in whose name? A workspace's API key, an environment's key, or one session's token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["api_key", "environment_key", "session_token"]
Scope = Literal["admin", "operate", "read"]


@dataclass(frozen=True, slots=True)
class Principal:
    """What the bearer of one secret is. What it may call is decided in `api.access`."""

    kind: Kind
    id: str
    """`apikey_…` for an API key, the key's id for an environment key, the session's id for a token."""
    workspace: str
    scopes: frozenset[Scope] = frozenset({"admin", "operate", "read"})
    """Of an API key. The other kinds have a fixed table."""
    environment_id: str | None = None
    """The environment of an environment key, or of the session of a token."""
    session_id: str | None = None
    """The session of a token."""
    token_id: str | None = None
    """Which token of that session it is: each claim of a work item has its own."""
    work_id: str | None = None
    """The work item that the token was minted for."""
