"""How much does a workspace keep of what grows? Rows and bytes of each store, by few and indexed queries.

Bytes of events and transcripts are counted as they are written, so nobody has to read them to know. Figures are taken
now and then (`store.retention.put_figures`), and shown with their time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from hostler.store.files import files_bytes
from hostler.store.lines import bytes_of
from hostler.store.memory_stores import memory_bytes
from hostler.store.skills import skill_bytes
from hostler.store.snapshots import snapshot_bytes
from hostler.store.tables import egress_decisions, model_requests, sessions, transcripts
from hostler.store.tables_archives import archives
from hostler.store.tables_checkpoints import checkpoints, cut_transcript_entries
from hostler.store.tables_files import files
from hostler.store.tables_memory import memory_stores, memory_versions
from hostler.store.tables_skills import skill_versions, skills
from hostler.store.tables_snapshots import snapshots
from hostler.store.tables_tenancy import audit_entries
from hostler.store.tables_vaults import credential_uses
from hostler.store.tables_webhooks import webhook_deliveries
from hostler.store.tables_work_items import work_items


@dataclass(frozen=True, slots=True)
class Amount:
    rows: int
    bytes: int | None = None
    """None: nobody counts them."""
    largest: int | None = None
    """Of one session: bytes, or rows where bytes are not counted."""
    largest_session: str | None = None


Measure = Callable[[Connection, str, float], Amount]
"""Of a workspace, at a moment in seconds."""


def _per_session(
    conn: Connection, of: sa.FromClause, session: ColumnElement[str], number: Any, size: Any, where: Any
) -> Amount:
    """The sums, and the session that has most."""
    each = sa.select(session.label("of"), number.label("n"), size.label("size")).select_from(of).where(where)
    found = each.group_by(session).subquery()
    sums = (sa.func.coalesce(sa.func.sum(found.c.n), 0), sa.func.coalesce(sa.func.sum(found.c.size), 0))
    count, total = conn.execute(sa.select(*sums)).one()
    most = conn.execute(sa.select(found.c.of, found.c.size).order_by(found.c.size.desc(), found.c.of).limit(1)).first()
    return Amount(int(count), int(total), None if most is None else int(most[1]), None if most is None else most[0])


def _sessions(conn: Connection, workspace_id: str, now: float) -> Amount:
    return _count(conn, sessions, sessions.c.workspace_id == workspace_id)


def _events(conn: Connection, workspace_id: str, now: float) -> Amount:
    number = sa.func.sum(sa.case((sessions.c.log_bytes > 0, sessions.c.last_seq), else_=0))
    size = sa.func.sum(sessions.c.log_bytes)
    return _per_session(conn, sessions, sessions.c.id, number, size, sessions.c.workspace_id == workspace_id)


def _transcripts(conn: Connection, workspace_id: str, now: float) -> Amount:
    joined = transcripts.join(sessions, sessions.c.id == transcripts.c.project_key)
    number, size = sa.func.sum(transcripts.c.next_ordinal), sa.func.sum(transcripts.c.bytes)
    return _per_session(conn, joined, sessions.c.id, number, size, sessions.c.workspace_id == workspace_id)


def _cut(conn: Connection, workspace_id: str, now: float) -> Amount:
    joined = cut_transcript_entries.join(sessions, sessions.c.id == cut_transcript_entries.c.session_id)
    size = sa.func.sum(bytes_of(conn, cut_transcript_entries.c.entry))
    return _per_session(conn, joined, sessions.c.id, sa.func.count(), size, sessions.c.workspace_id == workspace_id)


def _archives(conn: Connection, workspace_id: str, now: float) -> Amount:
    there = sa.and_(archives.c.workspace_id == workspace_id, archives.c.state == "complete")
    size = sa.func.sum(archives.c.stored_bytes)
    return _per_session(conn, archives, archives.c.session_id, sa.func.count(), size, there)


def _checkpoints(conn: Connection, workspace_id: str, now: float) -> Amount:
    joined = checkpoints.join(sessions, sessions.c.id == checkpoints.c.session_id)
    return _count(conn, joined, sessions.c.workspace_id == workspace_id)


def _snapshots(conn: Connection, workspace_id: str, now: float) -> Amount:
    joined = snapshots.join(sessions, sessions.c.id == snapshots.c.session_id)
    return _count(conn, joined, sessions.c.workspace_id == workspace_id, snapshot_bytes(conn, workspace_id))


def _files(conn: Connection, workspace_id: str, now: float) -> Amount:
    return _count(conn, files, files.c.workspace_id == workspace_id, files_bytes(conn, workspace_id, now))


def _skills(conn: Connection, workspace_id: str, now: float) -> Amount:
    joined = skill_versions.join(skills, skills.c.id == skill_versions.c.skill_id)
    return _count(conn, joined, skills.c.workspace_id == workspace_id, skill_bytes(conn, workspace_id))


def _memories(conn: Connection, workspace_id: str, now: float) -> Amount:
    joined = memory_versions.join(memory_stores, memory_stores.c.id == memory_versions.c.memory_store_id)
    return _count(conn, joined, memory_stores.c.workspace_id == workspace_id, memory_bytes(conn, workspace_id))


def _egress(conn: Connection, workspace_id: str, now: float) -> Amount:
    return _count(conn, egress_decisions, egress_decisions.c.workspace_id == workspace_id)


def _requests(conn: Connection, workspace_id: str, now: float) -> Amount:
    return _count(conn, model_requests, model_requests.c.workspace_id == workspace_id)


def _uses(conn: Connection, workspace_id: str, now: float) -> Amount:
    return _count(conn, credential_uses, credential_uses.c.workspace_id == workspace_id)


def _audit(conn: Connection, workspace_id: str, now: float) -> Amount:
    return _count(conn, audit_entries, audit_entries.c.workspace_id == workspace_id)


def _deliveries(conn: Connection, workspace_id: str, now: float) -> Amount:
    return _count(conn, webhook_deliveries, webhook_deliveries.c.workspace_id == workspace_id)


def _work(conn: Connection, workspace_id: str, now: float) -> Amount:
    stopped = sa.and_(work_items.c.workspace_id == workspace_id, work_items.c.state == "stopped")
    return _count(conn, work_items, stopped)


def _count(conn: Connection, of: sa.FromClause, where: ColumnElement[bool], size: int | None = None) -> Amount:
    return Amount(int(conn.execute(sa.select(sa.func.count()).select_from(of).where(where)).scalar_one()), size)


MEASURES: Final[Mapping[str, Measure]] = {
    "sessions": _sessions,
    "events": _events,
    "transcripts": _transcripts,
    "cut_entries": _cut,
    "checkpoints": _checkpoints,
    "archives": _archives,
    "snapshots": _snapshots,
    "files": _files,
    "skills": _skills,
    "memories": _memories,
    "egress_decisions": _egress,
    "credential_uses": _uses,
    "model_requests": _requests,
    "audit_entries": _audit,
    "webhook_deliveries": _deliveries,
    "work_items": _work,
}
"""By store, as `store.growth` names them."""
