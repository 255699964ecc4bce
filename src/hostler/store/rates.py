"""How much room is left in each rate limit, and who takes it? Token buckets that all servers share.

A bucket holds a minute's worth (or what the operator says) and fills up evenly. `take` is one statement: it takes from
every bucket that counts, or from none and says how long until there is room. What turns out otherwise afterwards is
put right in the same statement (`Wish.back`), so a bucket may be in debt, and nobody is let in before the debt is
paid. Between servers, who was refused gets a turn before whoever was served last: a request that needs much is not
passed for ever by those that need little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from hostler.domain.rates import Bucket, Kind, Rates
from hostler.store.jsontext import plain
from hostler.store.moments import moment
from hostler.store.signals import raise_signal
from hostler.store.tables import agents, sessions, workspaces
from hostler.store.tables_rates import rate_buckets, rate_limits

SIGNAL: Final = "rates"
"""Raised when limits were set, or when an upstream said something new of its own."""
UNLIMITED: Final = 1e15
"""As much a minute as nobody asks for. Still exact to a fraction of a token."""
TURN_SECONDS: Final = 1.0
"""How long a turn outlasts the moment at which there is room: its server may be gone."""
IDLE_SECONDS: Final = 86_400.0
"""A bucket that nobody asked for this long is full, or as good as new."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of one bucket."""

    bucket: Bucket
    cost: float
    back: float = 0.0
    """Given back whatever becomes of the rest. Less than nothing: used, and not taken yet."""
    configured: float | None = None
    """A minute's worth, as the operator or an administrator says. None: only what the upstream says counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a wish."""

    bucket: str
    taken: bool
    """The same for all wishes of one call."""
    wait: float
    """Seconds until this bucket has room, as far as is known. 0: it has now."""
    ahead: float
    """Taken besides, for what comes next."""
    level: float
    per_minute: float
    """`UNLIMITED`: no limit, only closed at times."""
    capacity: float
    closed: float
    """Seconds until the upstream wants to be asked again."""


# Per bucket, in this order: name, cost, back, configured. Before them: now, server, seconds of a minute's worth that a
# bucket holds, share of it that is taken ahead.
_STATE = """
WITH given(at_now, me, hold, share) AS (VALUES ({0})),
wanted(bucket, cost, back, configured) AS (VALUES {1}),
held AS {materialized} (
  SELECT b.bucket, b.level, b.at, b.closed_until, b.turn, b.turn_until, b.served, w.cost, w.back, w.configured,
         {least}(coalesce(w.configured, {unlimited}), coalesce(b.learned, {unlimited})) AS per_minute
  FROM rate_buckets b JOIN wanted w ON w.bucket = b.bucket
  {lock}
),
sized AS (SELECT held.*, {greatest}(1.0, per_minute * hold / 60.0) AS capacity FROM held, given),
filled AS (
  SELECT sized.*,
         -- What flowed over is gone: it pays no debt.
         {least}(
           capacity, {least}(capacity, level + {greatest}(0.0, at_now - at) * per_minute / 60.0) + back
         ) AS filled,
         {greatest}(0.0, closed_until - at_now) AS closed,
         turn <> '' AND turn <> me AND turn_until > at_now AS passed
  FROM sized, given
),
short AS (
  SELECT filled.*,
         CASE WHEN {least}(cost, capacity) - filled > 1e-6
              THEN ({least}(cost, capacity) - filled) * 60.0 / per_minute ELSE 0.0 END AS lacks
  FROM filled
),
waits AS (
  SELECT short.*,
         {greatest}(lacks, closed, CASE WHEN passed THEN {least}(0.25, turn_until - at_now) ELSE 0.0 END) AS wait
  FROM short, given
),
verdict AS (SELECT max(wait) <= 0.0 AND count(*) = {count} AS taken, max(wait) AS longest FROM waits),
state AS {materialized} (
  SELECT waits.*, verdict.taken, verdict.taken AND me <> '' AS served_me,
         CASE WHEN verdict.taken AND filled - cost - share * capacity >= capacity / 2.0
              THEN share * capacity ELSE 0.0 END AS ahead,
         NOT verdict.taken AND me <> '' AND lacks > 0.0 AND wait >= verdict.longest AND NOT passed AND served <> me
           AS claims
  FROM waits, verdict, given
)
"""
_SET = """
  level = state.filled - CASE WHEN state.taken THEN state.cost + state.ahead ELSE 0.0 END,
  at = {greatest}(state.at, given.at_now),
  configured = state.configured,
  per_minute = state.per_minute,
  capacity = state.capacity,
  turn = CASE WHEN state.served_me THEN '' WHEN state.claims THEN given.me ELSE state.turn END,
  turn_until = CASE WHEN state.claims THEN given.at_now + state.wait + {turn} ELSE state.turn_until END,
  served = CASE WHEN state.served_me THEN given.me ELSE state.served END
FROM state, given WHERE rate_buckets.bucket = state.bucket
"""
_SHOW = "SELECT bucket, taken, wait, ahead, filled, per_minute, capacity, closed FROM state"
_texts: dict[tuple[str, int], tuple[str, ...]] = {}


def _statements(dialect: str, count: int) -> tuple[str, ...]:
    """What is run for so many buckets, one after the other; the first one gives the rows."""
    found = _texts.get((dialect, count))
    if found is not None:
        return found
    if dialect == "postgresql":
        given = "$1::float8, $2::text, $3::float8, $4::float8"
        types = ("text", "float8", "float8", "float8")
        rows = [", ".join(f"${5 + 4 * n + k}::{types[k]}" for k in range(4)) for n in range(count)]
        words = {"least": "least", "greatest": "greatest", "lock": "ORDER BY b.bucket FOR UPDATE OF b"}
    else:
        given, rows = "?, ?, ?, ?", ["?, ?, ?, ?"] * count
        words = {"least": "min", "greatest": "max", "lock": ""}
    state = _STATE.format(
        given,
        ", ".join(f"({row})" for row in rows),
        **words,
        materialized="MATERIALIZED",
        unlimited=repr(UNLIMITED),
        count=count,
    )
    put = _SET.format(**words, turn=TURN_SECONDS)
    if dialect == "postgresql":
        texts: tuple[str, ...] = (f"{state}, changed AS (UPDATE rate_buckets SET {put})\n{_SHOW}",)
    else:
        # Its UPDATE can't say what it read, so the same is asked first. Nobody writes in between: a transaction that
        # may write holds SQLite's only lock from its beginning.
        texts = (state + _SHOW, f"{state} UPDATE rate_buckets SET {put}")
    _texts[(dialect, count)] = texts
    return texts


def take(
    conn: Connection, now: float, wishes: Sequence[Wish], *, server: str, hold_seconds: float = 60.0, share: float = 0.0
) -> list[Outcome]:
    """Take what is wished from every bucket, or from none. Puts right what is given back in either case.

    wishes        at least one, of different buckets.
    server        who asks; empty: nobody wants anything, and it is only about what is given back.
    hold_seconds  how much a bucket holds: what flows in during this time.
    share         part of what a bucket holds that is taken ahead of later requests, where half of it stays.

    A cost of more than a bucket holds is let in when the bucket is full.
    """
    wishes = sorted(wishes, key=lambda wish: wish.bucket.key)
    rows = _run(conn, now, wishes, server, hold_seconds, share)
    if len(rows) < len(wishes):
        known = {row[0] for row in rows}
        for wish in wishes:
            if wish.bucket.key not in known:
                _add(conn, now, wish.bucket)
        # What was given back to the others is there by now.
        again = [
            Wish(wish.bucket, wish.cost, 0.0 if wish.bucket.key in known else wish.back, wish.configured)
            for wish in wishes
        ]
        rows = _run(conn, now, again, server, hold_seconds, share)
    return [Outcome(row[0], bool(row[1]), *map(float, row[2:])) for row in rows]


def _run(
    conn: Connection, now: float, wishes: Sequence[Wish], server: str, hold_seconds: float, share: float
) -> Sequence[Sequence[Any]]:
    values: list[Any] = [now, server, hold_seconds, share]
    for wish in wishes:
        values += (plain(wish.bucket.key), wish.cost, wish.back, wish.configured)
    first, *others = _statements(conn.dialect.name, len(wishes))
    rows = conn.exec_driver_sql(first, tuple(values)).all()
    for text in others:
        conn.exec_driver_sql(text, tuple(values))
    return rows


def _add(conn: Connection, now: float, bucket: Bucket, **fields: Any) -> None:
    """A full one, unless it is there."""
    row = _insert(conn, rate_buckets).values(
        bucket=bucket.key,
        scope=bucket.scope,
        kind=bucket.kind,
        subject=bucket.subject,
        workspace_id=bucket.workspace_id,
        level=UNLIMITED,
        at=now,
        **fields,
    )
    conn.execute(row.on_conflict_do_nothing())


# ------------------------------------------------------------------------------------------- what upstreams say


@dataclass(frozen=True, slots=True)
class Said:
    """What an upstream said of one limit."""

    bucket: Bucket
    per_minute: float | None = None
    """None: nothing of how much it is."""
    remaining: float | None = None
    closed: float = 0.0
    """Seconds for which it wants not to be asked."""
    configured: float | None = None
    """As in `Wish`."""


def learn(conn: Connection, now: float, said: Sequence[Said]) -> None:
    """Write down what upstreams said. A level only falls by it, and a bucket is never opened earlier."""
    changed = False
    for each in sorted(said, key=lambda each: each.bucket.key):
        _add(conn, now, each.bucket)
        table = rate_buckets.c
        mine = table.bucket == each.bucket.key
        before = conn.execute(
            sa.select(table.learned, table.closed_until, table.configured).where(mine).with_for_update()
        ).one()
        values: dict[str, Any] = {}
        if each.per_minute is not None:
            values |= {"learned": each.per_minute, "learned_at": now}
            changed = changed or before.learned != each.per_minute
        if each.remaining is not None:
            least = sa.func.least if conn.dialect.name == "postgresql" else sa.func.min
            greatest = sa.func.greatest if conn.dialect.name == "postgresql" else sa.func.max
            limits = (each.per_minute, each.configured, before.learned, before.configured)
            per_minute = min((limit for limit in limits if limit), default=UNLIMITED)
            grown = table.level + greatest(0.0, now - table.at) * per_minute / 60.0
            values |= {"level": least(grown, each.remaining), "at": greatest(table.at, now)}
        if each.closed > 0 and now + each.closed > before.closed_until:
            values["closed_until"] = now + each.closed
            changed = True
        if values:
            conn.execute(rate_buckets.update().where(mine).values(**values))
    if changed:
        raise_signal(conn, SIGNAL)


@dataclass(frozen=True, slots=True)
class Learned:
    bucket: Bucket
    per_minute: float | None
    closed: float
    """Seconds."""


def unlearn(conn: Connection) -> None:
    """No upstream's word on its limits counts any more."""
    table = rate_buckets.c
    conn.execute(rate_buckets.update().where(table.learned.is_not(None)).values(learned=None, learned_at=None))


def learned(conn: Connection, now: float) -> list[Learned]:
    """Every bucket of which an upstream said something that still holds."""
    table = rate_buckets.c
    query = sa.select(table.scope, table.subject, table.kind, table.workspace_id, table.learned, table.closed_until)
    query = query.where(sa.or_(table.learned.is_not(None), table.closed_until > now))
    query = query.where(table.scope.in_(("upstream", "model")))
    return [
        Learned(Bucket(scope, subject, kind, workspace_id), per_minute, max(0.0, closed_until - now))
        for scope, subject, kind, workspace_id, per_minute, closed_until in conn.execute(query)
    ]


# --------------------------------------------------------------------------------- limits of workspaces and agents

_LIMITED: Final[tuple[Kind, ...]] = ("requests", "input_tokens", "output_tokens")


def get_limits(conn: Connection, workspace_id: str, agent_id: str = "", *, lock: bool = False) -> dict[Kind, int]:
    """Of an agent, or of the workspace itself."""
    query = sa.select(*(rate_limits.c[kind] for kind in _LIMITED)).where(
        rate_limits.c.workspace_id == workspace_id, rate_limits.c.agent_id == agent_id
    )
    row = conn.execute(query.with_for_update() if lock else query).first()
    return {} if row is None else _rates(row)


def put_limits(conn: Connection, workspace_id: str, agent_id: str, rates: Rates) -> None:
    """Replace them. The workspace must exist."""
    raise_signal(conn, SIGNAL)
    mine = (rate_limits.c.workspace_id == workspace_id, rate_limits.c.agent_id == agent_id)
    if not rates:
        conn.execute(rate_limits.delete().where(*mine))
        return
    values = {kind: rates.get(kind) for kind in _LIMITED}
    row = _insert(conn, rate_limits).values(workspace_id=workspace_id, agent_id=agent_id, **values)
    conn.execute(row.on_conflict_do_update(index_elements=["workspace_id", "agent_id"], set_=values))


def all_limits(conn: Connection) -> dict[tuple[str, str], dict[Kind, int]]:
    """Of every workspace, and of every agent: by both ids, that of the agent empty for a workspace's own."""
    table = rate_limits.c
    query = sa.select(table.workspace_id, table.agent_id, *(table[kind] for kind in _LIMITED))
    return {(row[0], row[1]): _rates(row[2:]) for row in conn.execute(query)}


def limits_of_agents(conn: Connection, workspace_id: str, most: int) -> list[tuple[str, dict[Kind, int]]]:
    """Of the agents of a workspace that have any, by id; at most so many."""
    table = rate_limits.c
    query = sa.select(table.agent_id, *(table[kind] for kind in _LIMITED))
    query = query.where(table.workspace_id == workspace_id, table.agent_id != "").order_by(table.agent_id).limit(most)
    return [(row[0], _rates(row[1:])) for row in conn.execute(query)]


def _rates(row: Sequence[int | None]) -> dict[Kind, int]:
    return {kind: value for kind, value in zip(_LIMITED, row, strict=True) if value is not None}


# ------------------------------------------------------------------------------------------- what is shown, and goes


@dataclass(frozen=True, slots=True)
class BucketRow:
    """A bucket at a moment."""

    bucket: Bucket
    configured: float | None
    learned: float | None
    learned_at: str | None
    per_minute: float | None
    """None: no limit, only closed at times."""
    capacity: float | None
    level: float | None
    """Less than nothing: a debt. None where there is no limit."""
    closed_until: str | None


def buckets(conn: Connection, now: float, workspace_id: str, *, upstreams: bool, most: int) -> list[BucketRow]:
    """Those of the workspace, and with `upstreams` those of the installation; at most so many, by name."""
    table = rate_buckets.c
    whose = (workspace_id, "") if upstreams else (workspace_id,)
    names: tuple[str, ...] = ("scope", "subject", "kind", "workspace_id", "configured", "learned", "learned_at")
    names += ("per_minute", "capacity", "level", "at", "closed_until")
    query = sa.select(*(table[name] for name in names)).where(table.workspace_id.in_(whose))
    return [_shown(row, now) for row in conn.execute(query.order_by(table.bucket).limit(most))]


def _shown(row: Any, now: float) -> BucketRow:
    known = [limit for limit in (row.configured, row.learned) if limit is not None]
    per_minute = min(known) if known else None
    capacity = level = None
    if per_minute is not None:
        capacity = per_minute if row.capacity is None or row.per_minute != per_minute else row.capacity
        level = min(capacity, row.level + max(0.0, now - row.at) * per_minute / 60.0)
    return BucketRow(
        Bucket(row.scope, row.subject, row.kind, row.workspace_id),
        row.configured,
        row.learned,
        None if row.learned_at is None else moment(row.learned_at),
        per_minute,
        capacity,
        level,
        moment(row.closed_until) if row.closed_until > now else None,
    )


def sweep(conn: Connection, now: float) -> int:
    """Remove buckets that are as good as new, and limits of those who can't ask any more. Says how many went.

    An archived agent's limits stay while it has a session that is not archived.
    """
    table = rate_buckets.c
    paid = sa.or_(table.per_minute.is_(None), table.level + IDLE_SECONDS / 60.0 * table.per_minute >= 0)
    idle = rate_buckets.delete().where(table.at < now - IDLE_SECONDS, table.closed_until < now, paid)
    gone = conn.execute(idle).rowcount
    closed = sa.select(workspaces.c.id).where(workspaces.c.archived_at.is_not(None))
    live = sa.select(sessions.c.agent_id).where(sessions.c.archived_at.is_(None))
    dead = sa.select(agents.c.id).where(agents.c.archived_at.is_not(None), agents.c.id.not_in(live))
    limits = rate_limits.delete().where(
        sa.or_(rate_limits.c.workspace_id.in_(closed), rate_limits.c.agent_id.in_(dead))
    )
    gone += conn.execute(limits).rowcount
    left = rate_buckets.delete().where(
        sa.or_(
            sa.and_(table.scope == "workspace", table.workspace_id.in_(closed)),
            sa.and_(table.scope == "agent", sa.or_(table.workspace_id.in_(closed), table.subject.in_(dead))),
        )
    )
    return int(gone + conn.execute(left).rowcount)


def _insert(conn: Connection, table: sa.Table) -> Any:
    return (postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert)(table)
