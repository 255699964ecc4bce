"""Which sessions want a worker, and who may act on each?

Every session has one row here. A worker claims it and gets a lease: the right to act until a moment, with an epoch
that grows at every claim. Whoever writes as the worker shows the lease, and the store compares it in the same
transaction: a worker that slept through its lease can do no harm. The database's clock (`now`, from `Database.now`)
decides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import LeaseLost
from hostler.store.tables import work
from hostler.store.tables_rooms import room_members

Need = Literal["turn", "stand_by", "errand"]
"""What a worker is wanted for. turn: a turn is to run, which takes a place for a process. stand_by: a process is to be
there although there is nothing to do. errand: something that needs no process, such as an interrupt."""


AT_ONCE: Final = 0.0
"""For `available_at`. Not the moment of asking: the server that is told of it may believe that it is a round trip
earlier, and would wait for its next look."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on one session. Valid while its owner and epoch are the row's and its time has not run out."""

    session_id: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A lease that was just won."""

    session_id: str
    owner: str
    epoch: int
    lease_until: float
    enqueued_at: float

    @property
    def lease(self) -> Lease:
        return Lease(self.session_id, self.owner, self.epoch)


@dataclass(frozen=True, slots=True)
class WorkStats:
    """The queue at one moment. Every wanted session is in exactly one of the first three."""

    ready: int
    """Could be claimed now."""
    delayed: int
    """Has to wait for its moment."""
    leased: int
    """Somebody acts on it."""
    oldest_ready_at: float | None
    """Since when the oldest ready one has been wanted."""


_FREE = sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= sa.bindparam("now"))
_READY = sa.and_(work.c.wanted, work.c.available_at <= sa.bindparam("now"), _FREE)


def claim(
    conn: Connection,
    now: float,
    owner: str,
    *,
    ttl: float,
    limit: int,
    exclude: Collection[str] = (),
    only: Collection[str] | None = None,
    live: bool = True,
) -> list[Claimed]:
    """Lease up to `limit` sessions that want a worker and have none, those that have waited longest first.

    ttl      seconds until the lease runs out, unless it is extended.
    exclude  sessions not to take (those that this worker is just letting go).
    only     take none but these. None: whichever.
    live     whether there may be a process under this lease (`store.admission` counts those).

    Rows that another transaction holds at this moment are passed over, not waited for. So are sessions whose room is at
    home on another worker.
    """
    query = sa.select(work.c.session_id).where(_READY, sa.not_(elsewhere(owner)))
    if exclude:
        query = query.where(work.c.session_id.not_in(sorted(exclude)))
    if only is not None:
        query = query.where(work.c.session_id.in_(sorted(only)))
    query = query.order_by(work.c.enqueued_at, work.c.session_id).limit(limit)
    # MATERIALIZED: a subquery with SKIP LOCKED that runs twice would lock, and lease, more than `limit` rows.
    due = (
        query.with_for_update(skip_locked=True, key_share=True)
        .cte("due")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return _lease(conn, now, owner, ttl, work.c.session_id.in_(sa.select(due.c.session_id)), live=live)


def claim_one(conn: Connection, now: float, owner: str, session_id: str, *, ttl: float) -> Claimed | None:
    """Lease this one session, if it wants a worker and has none; otherwise None."""
    found = _lease(conn, now, owner, ttl, sa.and_(work.c.session_id == session_id, _READY))
    return found[0] if found else None


def claim_free(conn: Connection, now: float, owner: str, session_id: str, *, ttl: float) -> Claimed | None:
    """Lease this session whether it wants a worker or not: to look after what it has left here. None: somebody has it.

    Whoever gives it back tells those who wait for work, for it may have begun to want a worker meanwhile.
    """
    found = _lease(conn, now, owner, ttl, sa.and_(work.c.session_id == session_id, _FREE))
    return found[0] if found else None


def extend(conn: Connection, now: float, lease: Lease, *, ttl: float) -> bool:
    """Let the lease run until `now + ttl`. False: it is lost, also when it merely ran out. Then stop the sandbox."""
    held = work.update().where(*_held_by(lease), work.c.lease_until > now)
    return conn.execute(held.values(lease_until=now + ttl)).rowcount == 1


def release(conn: Connection, lease: Lease) -> bool:
    """Give the lease back. Whether the session wants a worker stays as it is. False: it was somebody else's by now."""
    return conn.execute(work.update().where(*_held_by(lease)).values(owner=None, lease_until=None)).rowcount == 1


def postpone(conn: Connection, lease: Lease, until: float) -> bool:
    """Nobody may claim the session before `until`. False: the lease was somebody else's by now."""
    return conn.execute(work.update().where(*_held_by(lease)).values(available_at=until)).rowcount == 1


def want(conn: Connection, now: float, session_id: str) -> bool:
    """Ask for a worker, at once, for something that needs no process. False: no such session.

    Who was waiting already keeps the place in the queue; a turn that waits stays one.
    """
    place = sa.case((work.c.wanted, work.c.enqueued_at), else_=now)
    need = sa.case((sa.and_(work.c.wanted, work.c.need == "turn"), work.c.need), else_="errand")
    asked = work.update().where(work.c.session_id == session_id)
    return conn.execute(asked.values(wanted=True, available_at=AT_ONCE, enqueued_at=place, need=need)).rowcount == 1


def check(conn: Connection, now: float, lease: Lease) -> None:
    """Raise LeaseLost unless the lease is valid; if it is, nobody can take it before this transaction ends."""
    query = sa.select(work.c.lease_until).where(*_held_by(lease)).with_for_update(read=True)
    until = conn.execute(query).scalar()
    if until is None or until <= now:
        raise lost(lease)


def expired(conn: Connection, now: float) -> list[Lease]:
    """Leases that ran out and were neither released nor taken over yet."""
    query = sa.select(work.c.session_id, work.c.owner, work.c.epoch).where(work.c.lease_until <= now)
    return [Lease(*row) for row in conn.execute(query.order_by(work.c.lease_until))]


def leases(conn: Connection, owner: str) -> list[Lease]:
    """Every lease that carries this owner's name, run out or not: what a restarted worker finds of its former self."""
    query = sa.select(work.c.session_id, work.c.owner, work.c.epoch).where(
        work.c.owner == owner, work.c.lease_until.is_not(None)
    )
    return [Lease(*row) for row in conn.execute(query.order_by(work.c.session_id))]


def next_ready_at(conn: Connection, now: float) -> float | None:
    """The earliest moment, `now` or later, at which something could be claimed if nobody does anything. None: never."""
    free_at = sa.func.coalesce(work.c.lease_until, 0.0)
    ready_at = sa.case((work.c.available_at > free_at, work.c.available_at), else_=free_at)
    found: float | None = conn.execute(sa.select(sa.func.min(ready_at)).where(work.c.wanted)).scalar()
    return None if found is None else max(found, now)


def open_work(conn: Connection, now: float) -> WorkStats:
    """Count the queue."""
    free = sa.or_(work.c.lease_until.is_(None), work.c.lease_until <= now)
    ready = sa.and_(free, work.c.available_at <= now)
    delayed = sa.and_(free, work.c.available_at > now)

    def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)

    oldest = sa.func.min(sa.case((ready, work.c.enqueued_at)))
    row = conn.execute(sa.select(count(ready), count(delayed), count(sa.not_(free)), oldest).where(work.c.wanted)).one()
    return WorkStats(int(row[0]), int(row[1]), int(row[2]), row[3])


def lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"epoch {lease.epoch} of session {lease.session_id} is no longer {lease.owner}'s")


def elsewhere(owner: str) -> sa.ColumnElement[bool]:
    """The session is in a room that is at home on another worker now: that one serves it, or nobody."""
    mine, other, theirs = room_members.alias("mine"), room_members.alias("other"), work.alias("theirs")
    return (
        sa.exists()
        .where(
            mine.c.session_id == work.c.session_id,
            other.c.room_id == mine.c.room_id,
            theirs.c.session_id == other.c.session_id,
            theirs.c.epoch == other.c.entered_epoch,
            theirs.c.owner != owner,
            theirs.c.lease_until > sa.bindparam("now"),
        )
        .correlate(work)
    )


def _held_by(lease: Lease) -> Sequence[sa.ColumnElement[bool]]:
    return (work.c.session_id == lease.session_id, work.c.owner == lease.owner, work.c.epoch == lease.epoch)


def _lease(
    conn: Connection, now: float, owner: str, ttl: float, which: sa.ColumnElement[bool], *, live: bool = False
) -> list[Claimed]:
    statement = (
        work.update()
        .where(which)
        .values(owner=owner, epoch=work.c.epoch + 1, lease_until=now + ttl, live=live, leased_at=now)
        .returning(work.c.session_id, work.c.owner, work.c.epoch, work.c.lease_until, work.c.enqueued_at)
    )
    won = [Claimed(*row) for row in conn.execute(statement, {"now": now})]
    return sorted(won, key=lambda claimed: (claimed.enqueued_at, claimed.session_id))


def is_held(conn: Connection, now: float, session_id: str) -> bool:
    """Whether a worker has the session's lease."""
    query = sa.select(work.c.lease_until).where(work.c.session_id == session_id, work.c.owner.is_not(None))
    until = conn.execute(query).scalar()
    return until is not None and until > now
