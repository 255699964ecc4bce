"""Who of those that wait gets a place for a process, and whose process makes room?

A place needs three things: that the session's environment has fewer live sessions than it may have (over all servers
that share the database), that this server has a slot, and that the memory that the process is expected to use is there.
`Admission.take` decides in the transaction that takes the leases, so that two servers never exceed an environment's
limit together. What is lacking it says in `Lack`s: the worker then ends processes that are idle, never one that works.

Whoever is next in the fair order and lacks a slot or memory is waited for: a small one never passes it. Whoever lacks
a place in its environment is passed by those of other environments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Final

from sqlalchemy import Connection

from hostler.engine.fair_queue import FairQueue
from hostler.engine.memory_use import EXPECTED_BYTES
from hostler.engine.waiting_turns import Reason, Wait
from hostler.store import admission as rows
from hostler.store import work
from hostler.store.admission import WaitingRow
from hostler.store.work import Claimed

_MORE: Final = 8
"""Of each environment so many are looked at besides those that could be taken: to know for how many room is needed."""
_AT_ONCE: Final = 4
"""For so many at once is memory made free."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a server can take now."""

    places: int
    """Slots that are free."""
    errands: int
    """Sessions that could be taken for something that needs no process."""
    headroom: int | None = None
    """Bytes that new processes may use; None: nobody knows."""
    reserve: int = 0
    """Bytes that are to stay free besides."""
    alone: bool = False
    """Nothing is live here: then the first one may use the reserve."""
    expected: Callable[[str], int] = field(default=lambda _: EXPECTED_BYTES)
    """Bytes that a process of an environment will use."""


@dataclass(frozen=True, slots=True)
class Lack:
    """What keeps those that wait from being taken."""

    reason: Reason
    count: int
    """For how many a place is lacking here."""
    environment_id: str | None = None
    """With `environment_limit`: whose."""
    missing_bytes: int = 0
    """With `memory`."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of one look at the queue."""

    at: float
    """The database's clock."""
    placed: Sequence[tuple[Claimed, WaitingRow]] = ()
    """In the order in which they were chosen."""
    errands: Sequence[Claimed] = ()
    lacks: Sequence[Lack] = ()
    left: bool = False
    """Somebody waits for a place who did not get one."""
    overdue: AbstractSet[str] = frozenset()
    """Of the errands: those that have waited for too long."""


class Admission:
    """Of one server. Use from one event loop."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self.short: Reason = "server_limit"
        """What was lacking here last, apart from limits of environments."""

    def take(
        self,
        conn: Connection,
        now: float,
        owner: str,
        room: Room,
        *,
        ttl: float,
        held: Collection[str] = (),
        overdue: Mapping[str, float] = MappingProxyType({}),
    ) -> Taken:
        """Leases what there is room for. May run again in a new transaction; `taken` afterwards.

        held     sessions that this worker has, or is just letting go.
        overdue  sessions that have waited for too long, and since when: taken without a place if they don't get one.
        """
        waiting = rows.waiting(conn, now, most=max(room.places, room.errands, 0) + _MORE, exclude=held, worker=owner)
        if not waiting:
            return Taken(now)
        turns = [row for row in waiting if row.need == "turn"]
        free = _Free(conn, now, [row for row in waiting if row.need != "errand"], lock=room.places > 0)
        chosen, lacks = self._choose(turns, free, room)
        if all(lack.reason == "environment_limit" for lack in lacks):
            chosen += self._standing_by(waiting, free, room, chosen)
        ids = {row.session_id for row in chosen}
        over = {row.session_id for row in waiting if overdue.get(row.session_id) == row.since} - ids
        errands = [row.session_id for row in waiting if row.need == "errand" or row.session_id in over]
        won = work.claim(conn, now, owner, ttl=ttl, limit=len(ids), only=ids) if ids else []
        sent = errands[: max(room.errands, 0)]
        run = work.claim(conn, now, owner, ttl=ttl, limit=len(sent), only=sent, live=False) if sent else []
        got = {claimed.session_id: claimed for claimed in (*won, *run)}
        return Taken(
            now,
            [(got[row.session_id], row) for row in chosen if row.session_id in got],
            run,
            lacks,
            any(row.session_id not in got for row in turns),
            over,
        )

    def _choose(self, turns: Sequence[WaitingRow], free: _Free, room: Room) -> tuple[list[WaitingRow], list[Lack]]:
        chosen: list[WaitingRow] = []
        lacks: list[Lack] = []
        left = room.headroom
        order = self.queue.order(turns, free.is_full)
        for row in order:
            need = room.expected(row.environment_id)
            if len(chosen) >= room.places:
                lacks.append(Lack("server_limit", 1 + sum(1 for _ in order)))
                break
            if left is not None and not _fits(need, left, room, first=not chosen):
                behind = [room.expected(other.environment_id) for other in islice(order, _AT_ONCE - 1)]
                lacks.append(Lack("memory", 1 + len(behind), missing_bytes=need + sum(behind) - left))
                break
            chosen.append(row)
            free.take(row)
            left = None if left is None else left - need
        taken = {row.session_id for row in chosen}
        for environment_id in free.full():
            count = sum(1 for row in turns if row.environment_id == environment_id and row.session_id not in taken)
            if count:
                lacks.append(Lack("environment_limit", count, environment_id))
        return chosen, lacks

    def _standing_by(
        self, waiting: Sequence[WaitingRow], free: _Free, room: Room, chosen: Sequence[WaitingRow]
    ) -> list[WaitingRow]:
        """Processes that are to be there although there is nothing to do get what nobody else needs."""
        found: list[WaitingRow] = []
        left = room.headroom
        if left is not None:
            left -= sum(room.expected(row.environment_id) for row in chosen)
        for row in waiting:
            if row.need != "stand_by" or free.is_full(row):
                continue
            need = room.expected(row.environment_id)
            if len(chosen) + len(found) >= room.places or (left is not None and need > left):
                break
            found.append(row)
            free.take(row)
            left = None if left is None else left - need
        return found

    def taken(self, taken: Taken) -> None:
        """After the commit."""
        for _, row in taken.placed:
            if row.need == "turn":
                self.queue.granted(row.workspace_id, taken.at)
        for lack in taken.lacks:
            if lack.reason != "environment_limit":
                self.short = lack.reason

    def waits(self, conn: Connection, now: float, *, most: int) -> list[tuple[WaitingRow, Wait]]:
        """Every turn that waits for a place, at most `most` of each environment, in the order in which they get one."""
        turns = [row for row in rows.waiting(conn, now, most=most) if row.need == "turn"]
        free = _Free(conn, now, turns, lock=False)
        found: list[tuple[WaitingRow, Wait]] = []

        def is_full(row: WaitingRow) -> bool:
            if not free.is_full(row):
                return False
            behind.setdefault(row.environment_id, []).append(row)
            return True

        behind: dict[str, list[WaitingRow]] = {}
        for place, row in enumerate(self.queue.order(turns, is_full), 1):
            free.take(row)
            found.append((row, Wait(self.short, place)))
        for environment_id, blocked in behind.items():
            limit = free.limits[environment_id]
            found += [(row, Wait("environment_limit", n, limit)) for n, row in enumerate(blocked, 1)]
        return found


class _Free:
    """How many more sessions of each environment may be live. `lock`: what is counted stays true."""

    def __init__(self, conn: Connection, now: float, waiting: Sequence[WaitingRow], *, lock: bool) -> None:
        self.limits = limits_of(rows.bodies(conn, {row.environment_id for row in waiting})) if waiting else {}
        if self.limits and lock:
            self.limits = limits_of(rows.bodies(conn, self.limits, lock=True))
        counts = rows.live_counts(conn, now, self.limits) if self.limits else {}
        self._left = {found: limit - counts.get(found, 0) for found, limit in self.limits.items()}

    def is_full(self, row: WaitingRow) -> bool:
        return self._left.get(row.environment_id, 1) <= 0

    def take(self, row: WaitingRow) -> None:
        if row.environment_id in self._left:
            self._left[row.environment_id] -= 1

    def full(self) -> list[str]:
        return [environment_id for environment_id, left in self._left.items() if left <= 0]


def limits_of(bodies: Mapping[str, str]) -> dict[str, int]:
    """How many sessions of each environment may be live, where that is limited."""
    found = {}
    for environment_id, body in bodies.items():
        limit = (json.loads(body).get("config", {}).get("hosting") or {}).get("max_live_sessions")
        if limit is not None:
            found[environment_id] = int(limit)
    return found


def _fits(need: int, left: int, room: Room, *, first: bool) -> bool:
    if need <= left:
        return True
    # Where nothing is live nothing can make room, so it is begun as long as it can be at all.
    return first and room.alone and min(need, EXPECTED_BYTES) <= left + room.reserve
