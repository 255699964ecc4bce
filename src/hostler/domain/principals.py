"""Who makes a request, and in whose name? A workspace's API key, an environment's key, or one session's token."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal

from hostler.domain.errors import NotFound

Kind = Literal["api_key", "environment_key", "session_token"]
Scope = Literal["admin", "operate", "read"]

SCOPES: Final[tuple[Scope, ...]] = ("admin", "operate", "read")
ALL_SCOPES: Final[frozenset[Scope]] = frozenset(SCOPES)
_IMPLIED: Final[dict[Scope, frozenset[Scope]]] = {
    "admin": ALL_SCOPES,
    "operate": frozenset({"operate", "read"}),
    "read": frozenset({"read"}),
}

DEFAULT_WORKSPACE: Final = "wrkspc_default"
"""The workspace that every installation has. Its admin keys administer the whole installation."""


def with_implied(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """These scopes and those that they include: who may administer may operate, who may operate may read."""
    return frozenset[Scope]().union(*(_IMPLIED[scope] for scope in scopes))


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did something, as the audit remembers it."""

    kind: Literal["api_key", "environment_key", "session_token", "command_line", "session", "server"]
    """session: the agent of a session. server: nobody asked for it, it followed."""
    id: str
    """The principal's id, the session's, or the name of the user of this host."""


ACTING: Final[ContextVar[Actor | None]] = ContextVar("hostler_acting", default=None)
"""Who makes the request that is being answered. `Database.write` shows it to what it runs (`store.acting`)."""


@dataclass(frozen=True, slots=True)
class Principal:
    """What the bearer of one secret is. What it may call is decided in `api.access`."""

    kind: Kind
    id: str
    """`apikey_…` for an API key, the key's id for an environment key, the session's id for a token."""
    workspace: str
    scopes: frozenset[Scope] = ALL_SCOPES
    """Of an API key. The other kinds have a fixed table."""
    environment_id: str | None = None
    """The environment of an environment key, or of the session of a token."""
    session_id: str | None = None
    """The session of a token."""
    token_id: str | None = None
    """Which token of that session it is: each claim of a work item has its own."""
    work_id: str | None = None
    """The work item that the token was minted for."""

    @property
    def actor(self) -> Actor:
        return Actor(self.kind, self.id)

    @property
    def administers_installation(self) -> bool:
        """Whether this key may look after every workspace: an admin key of the default one."""
        return self.kind == "api_key" and "admin" in self.scopes and self.workspace == DEFAULT_WORKSPACE


def looked_after(by: Principal, workspace_id: str | None) -> str:
    """The workspace that is meant; None: the principal's own. Raises NotFound for one that it doesn't look after."""
    workspace = workspace_id or by.workspace
    if workspace != by.workspace and not by.administers_installation:
        raise NotFound(f"workspace {workspace} does not exist")
    return workspace
