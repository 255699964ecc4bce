"""What would each policy remove, and how is it removed? One description for each.

The same `select` answers a dry run and a real one. Each policy leaves out what an earlier one of the same run removes
(`Scope`), so that what a dry run counts is what a real run finds. Functions run inside the caller's transaction, and
only ever see one workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from hostler.domain.retention import PolicyName
from hostler.store import audit, audit_chain, cut_entries
from hostler.store import snapshots as snapshot_rows
from hostler.store.acting import SERVER
from hostler.store.lines import bytes_of
from hostler.store.moments import moment
from hostler.store.retention_scope import (
    PIECE_BYTES,
    Found,
    Key,
    Policy,
    Remove,
    Scope,
    Select,
    Selected,
    behind,
    piece,
    transcript_bytes,
)
from hostler.store.tables import egress_decisions, events, sequences, sessions, transcript_entries, transcripts
from hostler.store.tables_archives import archive_chunks, archives
from hostler.store.tables_checkpoints import checkpoints, cut_events, cut_transcript_entries, rewinds
from hostler.store.tables_files import files, session_outputs
from hostler.store.tables_previews import previews
from hostler.store.tables_snapshots import snapshots
from hostler.store.tables_tenancy import audit_entries
from hostler.store.tables_vaults import credential_uses
from hostler.store.tables_webhooks import webhook_deliveries
from hostler.store.tables_work_items import work_items

# --------------------------------------------------------------------------------------------------- sessions' own


DRAINED_ROWS: Final = 2_000
"""Of a log or a transcript, in one transaction."""
DRAINED_CHUNKS: Final = 16
"""Of archives, each of about 1 MiB before it was compressed."""


def select_sessions(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
    """Archived long enough ago. Bytes are those that are counted as they are written."""
    of_archives = sa.select(sa.func.coalesce(sa.func.sum(archives.c.stored_bytes), 0)).where(
        archives.c.session_id == sessions.c.id, archives.c.state == "complete"
    )
    size = sessions.c.log_bytes + transcript_bytes() + of_archives.scalar_subquery()
    keys = (sessions.c.archived_at, sessions.c.id)
    query = sa.select(*keys, size).where(
        sessions.c.workspace_id == scope.workspace_id,
        sessions.c.archived_at.is_not(None),
        sessions.c.status == "terminated",
        scope.older(sessions.c.archived_at, "archived_sessions"),
        behind(keys, after),
    )
    rows = conn.execute(query.order_by(*keys).limit(limit)).all()
    return piece(rows, lambda row: ((row[0], row[1]), Found(row[1], row[0], int(row[2]))), limit)


def _select_checkpoints(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
    keys = (checkpoints.c.session_id, checkpoints.c.created_at, checkpoints.c.id)
    size = (
        bytes_of(conn, checkpoints.c.line)
        + bytes_of(conn, checkpoints.c.state)
        + bytes_of(conn, checkpoints.c.memories)
        + sa.func.coalesce(bytes_of(conn, checkpoints.c.sequence), 0)
    )
    query = (
        sa.select(*keys, size)
        .join(sessions, sessions.c.id == checkpoints.c.session_id)
        .where(sessions.c.workspace_id == scope.workspace_id, scope.stays, sa.not_(scope.counts), behind(keys, after))
    )
    rows = conn.execute(query.order_by(*keys).limit(limit)).all()
    return piece(rows, lambda row: (tuple(row[:3]), Found(row[2], row[1], int(row[3]))), limit)


def _remove_checkpoints(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
    conn.execute(checkpoints.delete().where(checkpoints.c.id.in_([one.id for one in found])))


def _select_logs(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
    keys = (sessions.c.archived_at, sessions.c.id)
    query = sa.select(*keys, sessions.c.log_bytes + transcript_bytes()).where(
        sessions.c.workspace_id == scope.workspace_id, scope.stays, scope.log_goes, behind(keys, after)
    )
    rows = conn.execute(query.order_by(*keys).limit(limit)).all()
    return piece(rows, lambda row: ((row[0], row[1]), Found(row[1], row[0], int(row[2]))), limit)


def _remove_logs(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
    for one in found:
        _hold(conn, one.id)
        for table in (events, sequences, cut_events, cut_transcript_entries):
            conn.execute(table.delete().where(table.c.session_id == one.id))
        for table in (transcripts, transcript_entries):
            conn.execute(table.delete().where(table.c.project_key == one.id))
        conn.execute(sessions.update().where(sessions.c.id == one.id).values(log_bytes=0))


def drain(conn: Connection, session_id: str, *, with_archives: bool) -> bool:
    """Remove some of a log, transcripts, what was cut off and archives, if they are too many for one transaction.

    The first ones first. False: so few are left that they can go with the session, and nothing was removed. What was
    counted of them stays counted until then.
    """
    entries, cut, chunks = transcript_entries, cut_transcript_entries, archive_chunks
    of_session = sa.select(archives.c.id).where(archives.c.session_id == session_id)
    heaps: list[tuple[sa.Table, ColumnElement[bool], Sequence[sa.Column[Any]], int]] = [
        (events, events.c.session_id == session_id, (events.c.seq,), DRAINED_ROWS),
        (entries, entries.c.project_key == session_id, list(entries.c)[1:4], DRAINED_ROWS),
        (cut, cut.c.session_id == session_id, list(cut.c)[1:4], DRAINED_ROWS),
    ]
    if with_archives:
        heaps.append((chunks, chunks.c.archive_id.in_(of_session), list(chunks.c)[:2], DRAINED_CHUNKS))
    for table, mine, order, most in heaps:
        stays = conn.execute(sa.select(*order).where(mine).order_by(*order).offset(most).limit(1)).first()
        if stays is not None:
            end = sa.tuple_(*(sa.literal(part) for part in stays))
            conn.execute(table.delete().where(mine, sa.tuple_(*order) < end))
            return True
    return False


def _unneeded_snapshots(scope: Scope) -> ColumnElement[bool]:
    return sa.not_(sa.exists().where(checkpoints.c.snapshot_id == snapshots.c.id, scope.counts))


def _select_files(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
    keys = (sessions.c.archived_at, sessions.c.id)
    query = (
        sa.select(*keys, sa.func.count(), sa.func.sum(snapshots.c.stored_bytes))
        .join(snapshots, snapshots.c.session_id == sessions.c.id)
        .where(
            sessions.c.workspace_id == scope.workspace_id,
            sessions.c.archived_at.is_not(None),
            scope.older(sessions.c.archived_at, "archived_files"),
            scope.stays,
            _unneeded_snapshots(scope),
            behind(keys, after),
        )
        .group_by(*keys)
    )
    rows = conn.execute(query.order_by(*keys).limit(limit)).all()
    # What a snapshot has stored is not in the database: it doesn't make a transaction long.
    return piece(rows, lambda r: ((r[0], r[1]), Found(r[1], r[0], int(r[3]), int(r[2]))), limit, whole=1 << 60)


def _remove_files(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
    for one in found:
        query = sa.select(snapshots.c.id).where(snapshots.c.session_id == one.id, _unneeded_snapshots(scope))
        going = set(conn.execute(query).scalars())
        rows = [row for row in snapshot_rows.list_snapshots(conn, one.id) if row.id in going]
        snapshot_rows.remove_snapshots(conn, rows)


def _select_cut(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
    """Of sessions that have not gone back since: what no checkpoint names."""
    last = sa.select(sa.func.max(rewinds.c.created_at)).where(rewinds.c.session_id == sessions.c.id).scalar_subquery()
    query = sa.select(sessions.c.id, last).where(
        sessions.c.id.in_(
            sa.select(cut_transcript_entries.c.session_id)
            .where(cut_transcript_entries.c.session_id > ("" if after is None else after[0]))
            .distinct()
        ),
        sessions.c.workspace_id == scope.workspace_id,
        scope.stays,
        sa.not_(scope.log_goes),
        scope.older(last, "cut_entries"),
    )
    rows = conn.execute(query.order_by(sessions.c.id).limit(limit)).all()
    found: list[Found] = []
    size = 0
    for session_id, at in rows:
        gone = cut_entries.unneeded(conn, session_id, scope.counts)
        if not gone:
            continue
        one = Found(session_id, at, cut_entries.measure(conn, session_id, gone), sum(map(len, gone.values())))
        found.append(one)
        size += one.bytes
        if size > PIECE_BYTES:
            return Selected(found, (session_id,))
    return Selected(found, (rows[-1][0],) if len(rows) >= limit else None)


def _remove_cut(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
    for one in found:
        _hold(conn, one.id)
        cut_entries.drop(conn, one.id, cut_entries.unneeded(conn, one.id, scope.counts))


def _select_archives(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
    keys = (archives.c.created_at, archives.c.id)
    query = sa.select(*keys, archives.c.stored_bytes).where(
        archives.c.workspace_id == scope.workspace_id,
        archives.c.state == "complete",
        scope.older(archives.c.created_at, "compaction_archives"),
        scope.of_kept_sessions(archives.c.session_id),
        behind(keys, after),
    )
    rows = conn.execute(query.order_by(*keys).limit(limit)).all()
    return piece(rows, lambda row: ((row[0], row[1]), Found(row[1], row[0], int(row[2]))), limit)


def _remove_archives(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
    """Their rows stay as `removed`: a session knows where its next archive begins."""
    ids = [one.id for one in found]
    conn.execute(archive_chunks.delete().where(archive_chunks.c.archive_id.in_(ids)))
    gone = archives.update().where(archives.c.id.in_(ids), archives.c.state == "complete")
    conn.execute(gone.values(state="removed", removed_at=moment(scope.moment)))


def _outputs_of(policy: PolicyName, more: Callable[[Scope], ColumnElement[bool]]) -> Select:
    def select(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
        keys = (files.c.created_at, files.c.id)
        put_out = sa.and_(session_outputs.c.session_id == files.c.session_id, session_outputs.c.file_id == files.c.id)
        query = (
            sa.select(*keys, files.c.size_bytes)
            .join(sessions, sessions.c.id == files.c.session_id)
            .where(
                files.c.workspace_id == scope.workspace_id,
                scope.older(files.c.created_at, policy),
                sa.exists().where(put_out),
                scope.stays,
                more(scope),
                behind(keys, after),
            )
        )
        rows = conn.execute(query.order_by(*keys).limit(limit)).all()
        # The bytes are not in the database.
        return piece(rows, lambda row: ((row[0], row[1]), Found(row[1], row[0], int(row[2]))), limit, whole=1 << 60)

    return select


def _ephemeral(scope: Scope) -> ColumnElement[bool]:
    """The environment is JSON text that we wrote; what people wrote in it has its quotes escaped."""
    pattern = sessions.c.environment.contains('"pattern":"ephemeral"', autoescape=True)
    return sa.and_(pattern, sa.not_(scope.older(files.c.created_at, "outputs")))


def _remove_outputs(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
    """What was last seen of the folder stays, so that an unchanged file is not taken once more."""
    conn.execute(files.delete().where(files.c.id.in_([one.id for one in found])))


def _hold(conn: Connection, session_id: str) -> None:
    """Nobody else changes the session, or goes back in it, before the end of this transaction."""
    conn.execute(sa.select(sessions.c.id).where(sessions.c.id == session_id).with_for_update())


# --------------------------------------------------------------------------------------------------------- records


def _records(
    policy: PolicyName,
    table: sa.Table,
    when: sa.Column[Any] | None = None,
    more: Callable[[Scope], ColumnElement[bool]] = lambda _: sa.true(),
) -> tuple[Select, Remove]:
    """Rows that are about something that happened, and are needed by nothing. Bytes are those of their texts."""
    at = table.c.created_at if when is None else when
    texts = [column for column in table.c if isinstance(column.type, sa.types.TypeDecorator)]

    def select(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
        before = scope.before(policy) if isinstance(at.type, sa.types.TypeDecorator) else scope.seconds(policy)
        if before is None:
            return Selected((), None)
        parts: list[ColumnElement[int]] = [sa.func.coalesce(bytes_of(conn, column), 0) for column in texts]
        size = sum(parts[1:], parts[0])
        keys = (at, table.c.id)
        query = sa.select(*keys, size).where(
            table.c.workspace_id == scope.workspace_id, at < before, more(scope), behind(keys, after)
        )
        rows = conn.execute(query.order_by(*keys).limit(limit)).all()
        return piece(
            rows,
            lambda row: ((row[0], row[1]), Found(row[1], _text(row[0]), int(row[2]))),
            limit,
        )

    def remove(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
        conn.execute(table.delete().where(table.c.id.in_([one.id for one in found])))

    return select, remove


def _covered(kind: str, select: Select, remove: Remove) -> tuple[Select, Remove]:
    """Rows that entries of the audit log answer for: the log says that they were removed, and from before when."""

    def noting(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
        remove(conn, scope, found)
        if found:
            policy: PolicyName = "egress_decisions" if kind == "egress" else "credential_uses"
            audit.record_act(
                conn,
                scope.moment,
                actor=SERVER,
                act=f"{kind}.prune",
                target_id=scope.workspace_id,
                workspace_id=scope.workspace_id,
                details={"before": scope.before(policy), "rows": len(found)},
                kind="integrity",
            )

    return select, noting


def _select_audit(conn: Connection, scope: Scope, after: Key | None, limit: int) -> Selected:
    before = scope.before("audit_entries")
    last = None if before is None else audit_chain.removable(conn, scope.workspace_id, before)
    if last is None:
        return Selected((), None)
    keys = (audit_entries.c.seq, audit_entries.c.id)
    size = bytes_of(conn, audit_entries.c.details) + bytes_of(conn, audit_entries.c.sealed)
    query = sa.select(*keys, audit_entries.c.created_at, size).where(
        audit_entries.c.workspace_id == scope.workspace_id, audit_entries.c.seq <= last.seq, behind(keys, after)
    )
    rows = conn.execute(query.order_by(*keys).limit(limit)).all()
    return piece(rows, lambda row: ((row[0], row[1]), Found(row[1], row[2], int(row[3]))), limit)


def _remove_audit(conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
    """First the log begins later, then what is before that goes: it can be verified after each piece."""
    before = scope.before("audit_entries")
    last = None if before is None else audit_chain.removable(conn, scope.workspace_id, before)
    if before is None or last is None or not found:
        return
    audit_chain.start_at(conn, scope.moment, last)
    conn.execute(audit_entries.delete().where(audit_entries.c.id.in_([one.id for one in found])))
    audit_chain.forget_subjects(conn, scope.workspace_id, before)


def _text(at: str | float) -> str:
    return at if isinstance(at, str) else moment(at)


def policies(remove_sessions: Remove) -> Mapping[PolicyName, Policy]:
    """All of them, in their order. `remove_sessions` does what deleting a session does."""
    every = (
        Policy(
            "archived_sessions",
            "Sessions that were archived, with everything that belongs to them.",
            select_sessions,
            remove_sessions,
            batch=20,
            drains=True,
        ),
        Policy(
            "automatic_checkpoints",
            "Checkpoints that nobody asked for by hand. What they alone needed goes with them.",
            _select_checkpoints,
            _remove_checkpoints,
        ),
        Policy(
            "archived_logs",
            "Events and transcripts of sessions that were archived and have no checkpoint. The session, what it has "
            "used and its files stay.",
            _select_logs,
            _remove_logs,
            batch=50,
            drains=True,
        ),
        Policy(
            "archived_files",
            "Snapshots of the folders of sessions that were archived, unless a checkpoint needs them.",
            _select_files,
            _remove_files,
            batch=50,
        ),
        Policy(
            "cut_entries",
            "Transcript entries that a session cut off when it went back, once no checkpoint leads to them.",
            _select_cut,
            _remove_cut,
            batch=10,
        ),
        Policy(
            "compaction_archives",
            "What conversations were before they were compacted.",
            _select_archives,
            _remove_archives,
            batch=20,
        ),
        Policy(
            "outputs",
            "Files that sessions have put out.",
            _outputs_of("outputs", lambda _: sa.true()),
            _remove_outputs,
        ),
        Policy(
            "ephemeral_outputs",
            "Files that sessions of the hosting pattern ephemeral have put out.",
            _outputs_of("ephemeral_outputs", _ephemeral),
            _remove_outputs,
        ),
        Policy(
            "egress_decisions",
            "Where sessions went in the network, and what was denied.",
            *_covered("egress", *_records("egress_decisions", egress_decisions)),
        ),
        Policy(
            "credential_uses",
            "What became of placeholders of vaults' variables.",
            *_covered("credential", *_records("credential_uses", credential_uses)),
        ),
        Policy(
            "audit_entries",
            "Entries of the audit log, up to a signed checkpoint that is old enough: there it begins from then on.",
            _select_audit,
            _remove_audit,
        ),
        Policy(
            "webhook_deliveries",
            "The log of webhook deliveries that have ended.",
            *_records("webhook_deliveries", webhook_deliveries, more=lambda _: webhook_deliveries.c.state != "pending"),
        ),
        Policy(
            "work_items",
            "Work items of self-hosted environments that have stopped.",
            *_records(
                "work_items",
                work_items,
                work_items.c.stopped_at,
                lambda scope: sa.and_(work_items.c.state == "stopped", scope.of_kept_sessions(work_items.c.session_id)),
            ),
        ),
        Policy(
            "previews",
            "Links to ports that have expired.",
            *_records(
                "previews", previews, previews.c.expires_at, lambda scope: scope.of_kept_sessions(previews.c.session_id)
            ),
        ),
    )
    return {policy.name: policy for policy in every}
