"""Which variables does a session get from its vaults, under which placeholders, and what became of them?

Every function runs inside the caller's transaction. Secrets pass through here only sealed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.ids import ids_in_order
from hostler.store import audit
from hostler.store.jsontext import cleaned
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.prepared import Prepared, PreparedInsert
from hostler.store.sessions import get_session
from hostler.store.tables_vaults import credential_uses, credentials, session_placeholders
from hostler.store.vaults import CredentialRow

VARIABLE_KEY = "variable "
"""What the match key of a variable begins with; its name follows."""

_CREDENTIAL = tuple(credentials.c)
_PLACEHOLDERS = Prepared(
    sa.select(session_placeholders.c.credential_id, session_placeholders.c.placeholder).where(
        session_placeholders.c.session_id == sa.bindparam("session")
    )
)


@dataclass(frozen=True, slots=True)
class UseRow:
    """A placeholder that was seen in a request, and what became of it."""

    id: str
    workspace_id: str
    session_id: str
    vault_id: str
    credential_id: str
    method: str
    host: str
    port: int
    place: str
    outcome: str
    created_at: str


def variables_in(conn: Connection, workspace_id: str, vault_ids: Sequence[str]) -> list[CredentialRow]:
    """The active variables of these vaults: those of the first vault first, the oldest of them first."""
    if not vault_ids:
        return []
    query = sa.select(*_CREDENTIAL).where(
        credentials.c.workspace_id == workspace_id,
        credentials.c.vault_id.in_(vault_ids),
        credentials.c.match_key.startswith(VARIABLE_KEY, autoescape=True),
    )
    order = {vault_id: number for number, vault_id in enumerate(vault_ids)}
    found = [CredentialRow(*row) for row in conn.execute(query)]
    return sorted(found, key=lambda row: (order[row.vault_id], row.created_at, row.id))


def placeholders_of(conn: Connection, session_id: str) -> dict[str, str]:
    """The session's placeholders by credential, those of archived credentials too."""
    return {row[0]: row[1] for row in _PLACEHOLDERS.run(conn, session=session_id)}


def add_placeholders(conn: Connection, session_id: str, made: Mapping[str, str]) -> None:
    """By credential. Only the worker with the session's lease adds some."""
    for credential_id, placeholder in made.items():
        conn.execute(
            session_placeholders.insert().values(
                session_id=session_id, credential_id=credential_id, placeholder=placeholder
            )
        )


class UseFacts(NamedTuple):
    """A use that is to be written down."""

    workspace_id: str
    session_id: str
    vault_id: str
    credential_id: str
    method: str
    host: str
    port: int
    place: str
    outcome: str


_INSERT_USES = PreparedInsert(credential_uses, (*UseRow.__slots__, "audit_id"))


def add_uses(conn: Connection, now: float, uses: Sequence[UseFacts]) -> None:
    """Write uses down, in their order: all, or none, and with them an entry of the audit for each session that answers
    for its uses. Method and host come from inside the sandbox: what no column can hold is replaced."""
    ids = ids_in_order("vuse", now)
    rows = [
        (
            next(ids),
            *use[:4],
            cleaned(use.method, 64),
            cleaned(use.host, 1024),
            *use[6:],
            moment(now + place * 2e-6),  # Two, because seconds since 1970 as a float are not exact to one.
        )
        for place, use in enumerate(uses)
    ]
    sessions = {row[2]: row[1] for row in rows}
    entries = dict(zip(sessions, audit.new_ids(now), strict=False))
    _INSERT_USES.run(conn, [(*row, entries[row[2]]) for row in rows])
    acts: dict[str, list[audit.Act]] = {}
    for session_id, workspace_id in sessions.items():
        mine = [row for row in rows if row[2] == session_id]
        used = {"credentials": sorted({row[4] for row in mine})}
        covering = audit.covering("credential", session_id, entries[session_id], mine, used)
        acts.setdefault(workspace_id, []).append(covering)
    for workspace_id in sorted(acts):
        audit.append(conn, now, workspace_id, acts[workspace_id])


def page_of_uses(
    conn: Connection, workspace_id: str, session_id: str, *, limit: int, after: Position | None = None
) -> Page[UseRow]:
    """The uses of a session, newest first; those of a deleted one stay. Raises NotFound."""
    mine = [credential_uses.c.workspace_id == workspace_id, credential_uses.c.session_id == session_id]
    found = page(
        conn,
        credential_uses,
        [credential_uses.c[name] for name in UseRow.__slots__],
        mine,
        UseRow,
        keys=(credential_uses.c.created_at, credential_uses.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )
    if not found.rows and not found.has_prev:
        get_session(conn, workspace_id, session_id)
    return found
