"""How do entries of the audit log come into one chain for each workspace, and what is signed of it?

Entries are written without a place in the chain, each in the transaction of its act. Moments later whoever holds the
chain's row gives them their places, in the order of their moments, and computes their hashes. Numbers of a strand have
no gap, and become visible in their order: so one that is missing when its followers are chained was taken away, and
the chain says so for ever (`audit.gap`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from hostler.domain.auditing import COVERED, WHOLE, Checkpoint, Link, SignerKey, canonical, chained, genesis
from hostler.domain.errors import StoreDamaged
from hostler.store import audit
from hostler.store.acting import SERVER
from hostler.store.moments import moment
from hostler.store.tables import metadata, sessions
from hostler.store.tables_audit import audit_chains, audit_checkpoints, audit_signers, audit_subjects
from hostler.store.tables_tenancy import audit_entries

BATCH: Final = 2_000
"""Entries that are chained in one transaction."""

_LOOSE = audit_entries.c.seq.is_(None)
_LINK = (
    audit_entries.c.workspace_id,
    audit_entries.c.seq,
    audit_entries.c.strand,
    audit_entries.c.number,
    audit_entries.c.id,
    audit_entries.c.created_at,
    audit_entries.c.kind,
    audit_entries.c.act,
    audit_entries.c.actor_kind,
    audit_entries.c.actor_id,
    audit_entries.c.target_id,
    audit_entries.c.subject,
    audit_entries.c.sealed,
    audit_entries.c.details,
)
"""In the order of `Link`."""
WAITING: Final = {
    # By itself SQLite goes through all entries there ever were: of the other index it needs no rows.
    "sqlite": "SELECT DISTINCT workspace_id FROM audit_entries INDEXED BY ix_audit_entries_loose WHERE seq IS NULL",
    "postgresql": "SELECT DISTINCT workspace_id FROM audit_entries WHERE seq IS NULL",
}
_PLACE = {
    "sqlite": "UPDATE audit_entries SET seq = ?, hash = ? WHERE id = ? AND seq IS NULL",
    "postgresql": (
        "UPDATE audit_entries AS entry SET seq = new.seq, hash = new.hash "
        "FROM unnest($1::bigint[], $2::text[], $3::text[]) AS new (seq, hash, id) "
        "WHERE entry.id = new.id AND entry.seq IS NULL"
    ),
}
_COUNT = {
    "sqlite": "UPDATE audit_subjects SET chained = ? WHERE workspace_id = ? AND subject = ?",
    "postgresql": (
        "UPDATE audit_subjects AS strand SET chained = new.chained "
        "FROM unnest($1::bigint[], $3::text[]) AS new (chained, subject) "
        "WHERE strand.workspace_id = $2 AND strand.subject = new.subject"
    ),
}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain as its row says it is."""

    workspace_id: str
    seq: int
    hash: bytes
    signed_seq: int
    signed_at: float
    start_seq: int


@dataclass(frozen=True, slots=True)
class Linked:
    """What one transaction has done."""

    entries: int
    more: bool
    """There may be more to do."""
    gaps: tuple[tuple[str, int, int], ...] = ()
    """Entries that somebody has taken away: strand, first number, last number."""
    checkpoint: Checkpoint | None = None


def with_loose(conn: Connection) -> list[str]:
    """Workspaces with entries that wait for their place."""
    return sorted(conn.exec_driver_sql(WAITING[conn.dialect.name]).scalars())


def with_unsigned(conn: Connection, before: float) -> list[str]:
    """Workspaces whose chain grew since their newest checkpoint, which is from before that second."""
    late = sa.and_(audit_chains.c.seq > audit_chains.c.signed_seq, audit_chains.c.signed_at < before)
    return sorted(conn.execute(sa.select(audit_chains.c.workspace_id).where(late)).scalars())


def link(
    conn: Connection,
    now: float,
    workspace_id: str,
    sign: Callable[[Checkpoint], Checkpoint],
    *,
    every: int,
    seconds: float,
    wait: bool = False,
    batch: int = BATCH,
) -> Linked:
    """Give the oldest entries that have none their places, and sign where that is due.

    sign     completes a checkpoint with `signer` and `signature`.
    every    entries after which a checkpoint is due; `seconds`: after which it is, too.
    wait     for another server that does the same. Else it does nothing then.
    """
    held = _hold(conn, now, workspace_id, wait=wait)
    if held is None:
        return Linked(0, more=False)
    query = sa.select(*_LINK).where(audit_entries.c.workspace_id == workspace_id, _LOOSE)
    order = (audit_entries.c.created_at, audit_entries.c.strand, audit_entries.c.number)
    # Nobody who writes holds the rows that are seen here: they are committed.
    found = conn.execute(query.order_by(*order).limit(batch)).all()
    gaps: list[tuple[str, int, int]] = []
    at, head = held.seq, held.hash
    if found:
        counted = _counted(conn, workspace_id, {row[2] for row in found})
        places = []
        for row in found:
            entry = Link._make(row)
            at += 1
            head = chained(head, canonical(entry._replace(seq=at)).encode("utf-8", "surrogatepass"))
            places.append((at, head.hex(), entry.id))
            before = counted.get(entry.strand, 0)
            if entry.number > before + 1:
                gaps.append((entry.strand, before + 1, entry.number - 1))
            counted[entry.strand] = max(before, entry.number)
        _write(conn, workspace_id, places, counted)
        for strand, first, last in gaps:
            details = {"strand": strand, "first": first, "last": last}
            audit.record_act(
                conn,
                now,
                actor=SERVER,
                act="audit.gap",
                target_id=strand,
                workspace_id=workspace_id,
                details=details,
                kind="integrity",
            )
    due = at > held.signed_seq and (at - held.signed_seq >= every or now - held.signed_at >= seconds)
    checkpoint = _signed(conn, now, workspace_id, at, head, sign) if due else None
    values: dict[str, Any] = {"seq": at, "hash": head.hex()}
    if checkpoint is not None:
        values |= {"signed_seq": at, "signed_at": now}
    if found or checkpoint is not None:
        mine = audit_chains.c.workspace_id == workspace_id
        conn.execute(audit_chains.update().where(mine).values(**values))
    return Linked(len(found), len(found) == batch or bool(gaps), tuple(gaps), checkpoint)


def _hold(conn: Connection, now: float, workspace_id: str, *, wait: bool) -> Chain | None:
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    mine = audit_chains.c.workspace_id == workspace_id
    query = sa.select(*audit_chains.c).where(mine).with_for_update(skip_locked=not wait)
    row = conn.execute(query).first()
    if row is None:
        fresh = dialect.insert(audit_chains).values(
            workspace_id=workspace_id,
            seq=0,
            hash=genesis(workspace_id).hex(),
            signed_seq=0,
            signed_at=now,
            start_seq=0,
        )
        made = conn.execute(fresh.on_conflict_do_nothing()).rowcount
        if not made and not wait:
            return None
        row = conn.execute(query).first()
    return None if row is None else _chain(row)


def _counted(conn: Connection, workspace_id: str, strands: set[str]) -> dict[str, int]:
    """How many entries of each are chained."""
    query = sa.select(audit_subjects.c.subject, audit_subjects.c.chained).where(
        audit_subjects.c.workspace_id == workspace_id, audit_subjects.c.subject.in_(sorted(strands))
    )
    return {row[0]: row[1] for row in conn.execute(query)}


def _write(
    conn: Connection, workspace_id: str, places: Sequence[tuple[int, str, str]], counted: dict[str, int]
) -> None:
    name = conn.dialect.name
    strands = sorted(counted)
    if name == "sqlite":
        conn.exec_driver_sql(_PLACE[name], list(places))
        conn.exec_driver_sql(_COUNT[name], [(counted[strand], workspace_id, strand) for strand in strands])
    else:
        conn.exec_driver_sql(_PLACE[name], tuple(list(column) for column in zip(*places, strict=True)))
        conn.exec_driver_sql(_COUNT[name], ([counted[strand] for strand in strands], workspace_id, strands))


def _signed(
    conn: Connection,
    now: float,
    workspace_id: str,
    seq: int,
    head: bytes,
    sign: Callable[[Checkpoint], Checkpoint],
) -> Checkpoint:
    made = sign(Checkpoint(workspace_id, seq, head.hex(), moment(now), ""))
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    row = dialect.insert(audit_checkpoints).values(
        workspace_id=workspace_id,
        seq=seq,
        hash=made.hash,
        created_at=made.at,
        signer=made.signer,
        signature=made.signature,
    )
    # Where there is one already, somebody has set the chain back. What was signed first stays, and shows it.
    conn.execute(row.on_conflict_do_nothing())
    return made


def sign_now(conn: Connection, now: float, workspace_id: str, sign: Callable[[Checkpoint], Checkpoint]) -> Linked:
    """Everything that is committed by now gets its place and is under a signature, in pieces: call it until there is
    no `more`."""
    return link(conn, now, workspace_id, sign, every=1, seconds=0.0, wait=True)


def put_signers(conn: Connection, signers: Sequence[SignerKey]) -> None:
    """Public keys that checkpoints are signed with; those that are known stay as they are."""
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    for one in signers:
        values = {name: getattr(one, name) for name in SignerKey.__slots__}
        conn.execute(dialect.insert(audit_signers).values(**values).on_conflict_do_nothing())


# ------------------------------------------------------------------------------------------------- reading it again


def get_signers(conn: Connection) -> list[SignerKey]:
    """Oldest first."""
    columns = [audit_signers.c[name] for name in SignerKey.__slots__]
    query = sa.select(*columns).order_by(audit_signers.c.created_at, audit_signers.c.id)
    return [SignerKey(*row) for row in conn.execute(query)]


def get_chain(conn: Connection, workspace_id: str) -> Chain | None:
    """None: nothing was ever chained."""
    row = conn.execute(sa.select(*audit_chains.c).where(audit_chains.c.workspace_id == workspace_id)).first()
    return None if row is None else _chain(row)


def _chain(row: Sequence[Any]) -> Chain:
    try:
        hash_ = bytes.fromhex(row[2])
    except ValueError:
        raise StoreDamaged(f"the hash of the audit's chain of {row[0]} is none: somebody has changed it") from None
    return Chain(row[0], row[1], hash_, row[3], row[4], row[5])


def get_checkpoints(
    conn: Connection, workspace_id: str, *, first: int = 0, last: int | None = None, limit: int | None = None
) -> list[Checkpoint]:
    """From the place `first` to `last`, in their order."""
    at = audit_checkpoints.c
    query = sa.select(at.workspace_id, at.seq, at.hash, at.created_at, at.signer, at.signature)
    query = query.where(at.workspace_id == workspace_id, at.seq >= first)
    if last is not None:
        query = query.where(at.seq <= last)
    return [Checkpoint(*row) for row in conn.execute(query.order_by(at.seq).limit(limit))]


def newest_checkpoint(conn: Connection, workspace_id: str) -> Checkpoint | None:
    at = audit_checkpoints.c
    query = sa.select(at.workspace_id, at.seq, at.hash, at.created_at, at.signer, at.signature)
    row = conn.execute(query.where(at.workspace_id == workspace_id).order_by(at.seq.desc()).limit(1)).first()
    return None if row is None else Checkpoint(*row)


def read_links(conn: Connection, workspace_id: str, after: int, limit: int) -> list[tuple[Link, str]]:
    """Entries behind a place, and their hashes as they are stored."""
    mine = (audit_entries.c.workspace_id == workspace_id, audit_entries.c.seq > after)
    order = (audit_entries.c.seq, audit_entries.c.id)
    query = sa.select(audit_entries.c.hash, *_LINK).where(*mine).order_by(*order).limit(limit)
    return [(Link._make(row[1:]), row[0] or "") for row in conn.execute(query)]


def read_rows(conn: Connection, kind: str, entries: Sequence[str]) -> dict[str, list[tuple[Any, ...]]]:
    """By entry: the rows that it answers for, in the order of their ids."""
    name, columns = COVERED[kind]
    table = metadata.tables[name]
    query = sa.select(table.c.audit_id, *(table.c[column] for column in columns))
    query = query.where(table.c.audit_id.in_(list(entries))).order_by(table.c.id)
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in conn.execute(query) if entries else ():
        found.setdefault(row[0], []).append(tuple(row[1:]))
    return found


def vanished(conn: Connection, workspace_id: str) -> list[tuple[str, int, int]]:
    """Entries that were counted, are not chained, and are not there: strand, first number, last number.

    One statement, so one moment: an entry and its count are committed together.
    """
    waits = sa.select(sa.func.max(audit_entries.c.number)).where(
        audit_entries.c.workspace_id == workspace_id, audit_entries.c.strand == audit_subjects.c.subject, _LOOSE
    )
    there = sa.func.coalesce(waits.scalar_subquery(), audit_subjects.c.chained)
    query = sa.select(audit_subjects.c.subject, there, audit_subjects.c.entries).where(
        audit_subjects.c.workspace_id == workspace_id,
        audit_subjects.c.entries > audit_subjects.c.chained,
        there < audit_subjects.c.entries,
    )
    rows = conn.execute(query.order_by(audit_subjects.c.subject)).all()
    return [(row[0], int(row[1]) + 1, int(row[2])) for row in rows]


def strays(conn: Connection, workspace_id: str, kind: str, since: str, limit: int) -> list[tuple[Any, ...]]:
    """Rows from `since` on that no entry answers for: nobody wrote them through `append`."""
    name, columns = COVERED[kind]
    table = metadata.tables[name]
    answered = sa.exists().where(audit_entries.c.id == table.c.audit_id, audit_entries.c.kind == kind)
    query = sa.select(*(table.c[column] for column in columns)).where(
        table.c.workspace_id == workspace_id, table.c.created_at > since, sa.not_(answered)
    )
    return [tuple(row) for row in conn.execute(query.order_by(table.c.id).limit(limit))]


# ------------------------------------------------------------------------------------------------------ old entries


def removed_since(conn: Connection, workspace_id: str, seq: int) -> bool:
    """Whether retention has removed anything since the chain went up to there."""
    at = audit_entries.c
    later = sa.or_(at.seq > seq, at.seq.is_(None))
    query = sa.select(at.id).where(at.workspace_id == workspace_id, later, at.kind == "integrity")
    return conn.execute(query.limit(1)).first() is not None


def removable(conn: Connection, workspace_id: str, before: str) -> Checkpoint | None:
    """The newest checkpoint from before that moment: everything up to it may be removed, and it is the new start."""
    at = audit_checkpoints.c
    query = sa.select(at.workspace_id, at.seq, at.hash, at.created_at, at.signer, at.signature)
    query = query.where(at.workspace_id == workspace_id, at.created_at < before)
    row = conn.execute(query.order_by(at.seq.desc()).limit(1)).first()
    return None if row is None else Checkpoint(*row)


def start_at(conn: Connection, now: float, checkpoint: Checkpoint) -> None:
    """The log of the workspace begins behind this checkpoint from now on, and says so itself. Entries before it may be
    removed afterwards, in pieces."""
    workspace_id = checkpoint.workspace
    mine = (audit_chains.c.workspace_id == workspace_id, audit_chains.c.start_seq < checkpoint.seq)
    if conn.execute(audit_chains.update().where(*mine).values(start_seq=checkpoint.seq)).rowcount:
        audit.record_act(
            conn,
            now,
            actor=SERVER,
            act="audit.prune",
            target_id=workspace_id,
            workspace_id=workspace_id,
            details={"through": checkpoint.seq, "hash": checkpoint.hash},
            kind="integrity",
        )
        older = (audit_checkpoints.c.workspace_id == workspace_id, audit_checkpoints.c.seq < checkpoint.seq)
        conn.execute(audit_checkpoints.delete().where(*older))


def forget_subjects(conn: Connection, workspace_id: str, before: str) -> None:
    """Sessions that are gone, with all their entries: nothing has to be counted or read for them any more."""
    at = audit_subjects.c
    left = sa.exists().where(audit_entries.c.workspace_id == workspace_id, audit_entries.c.strand == at.subject)
    lives = sa.exists().where(sessions.c.id == at.subject)
    gone = sa.and_(at.entries > 0, at.entries == at.chained, at.subject != WHOLE, at.last_at < before)
    conn.execute(audit_subjects.delete().where(at.workspace_id == workspace_id, gone, sa.not_(left), sa.not_(lives)))
