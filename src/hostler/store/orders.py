"""What is the worker of a session asked to do between two turns, and what came of it?

An order is a row that somebody waits for. Whoever does it writes its outcome in the transaction that does it, so it is
done once or not at all, whoever dies in between. An order that nobody waits for any more is not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.ids import new_id
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.signals import News, raise_signal, tell
from hostler.store.tables_checkpoints import orders
from hostler.store.work import want

SIGNAL: Final = "orders"
"""Raised when an order got its outcome."""
_KEPT: Final = 3_600.0
"""Seconds after which an order with an outcome is forgotten."""

Act = Literal["checkpoint", "rewind", "keep"]
"""keep: take a snapshot of the files, and nothing else."""


@dataclass(frozen=True, slots=True)
class Order:
    id: str
    session_id: str
    act: Act
    params: Mapping[str, Any]


def give(conn: Connection, now: float, session_id: str, act: Act, params: Mapping[str, Any], *, seconds: float) -> str:
    """Ask the session's worker. The caller holds the session's row, and wakes the worker after the commit."""
    conn.execute(orders.delete().where(orders.c.session_id == session_id, orders.c.expires_at < now - _KEPT))
    order_id = new_id("order")
    conn.execute(
        orders.insert().values(
            id=order_id,
            session_id=session_id,
            act=act,
            params=encode(dict(params)),
            expires_at=now + seconds,
            created_at=moment(now),
        )
    )
    want(conn, now, session_id)
    tell(conn, News("session", session_id, wanted=True))
    return order_id


def first_open(conn: Connection, now: float, session_id: str) -> Order | None:
    """The oldest that somebody still waits for."""
    query = sa.select(orders.c.id, orders.c.session_id, orders.c.act, orders.c.params).where(
        orders.c.session_id == session_id, orders.c.outcome.is_(None), orders.c.expires_at > now
    )
    row = conn.execute(query.order_by(orders.c.created_at, orders.c.id).limit(1)).first()
    return None if row is None else Order(row[0], row[1], row[2], decode(row[3]))


def close(conn: Connection, now: float, order_id: str, outcome: Mapping[str, Any]) -> bool:
    """Write the outcome. False: it has one already, or nobody waits any more; then do nothing of it."""
    still = (orders.c.id == order_id, orders.c.outcome.is_(None), orders.c.expires_at > now)
    done = conn.execute(orders.update().where(*still).values(outcome=encode(dict(outcome)))).rowcount == 1
    if done:
        raise_signal(conn, SIGNAL)
    return done


def outcome_of(conn: Connection, order_id: str) -> dict[str, Any] | None:
    """None: there is none yet, or the session is gone with its orders."""
    text: str | None = conn.execute(sa.select(orders.c.outcome).where(orders.c.id == order_id)).scalar()
    found: dict[str, Any] | None = None if text is None else decode(text)
    return found
