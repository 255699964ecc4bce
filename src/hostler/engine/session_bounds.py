"""How large may one session grow? Bounds of what would otherwise grow for as long as somebody talks to it.

They are looked at where something begins, so that nothing is left half-done: a message is taken or refused, a session
goes back or stays. A turn that has begun may go over a bound, by as much as one turn adds; what only answers a turn is
refused at twice the bound, when even turns that go on for ever have had their share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest
from hostler.store import cut_entries
from hostler.store.sessions import SessionRow
from hostler.store.tables import transcripts

_OVER_FOR_ANSWERS: Final = 2


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Of one session."""

    events: int = 200_000
    log_bytes: int = 512 << 20
    transcript_bytes: int = 512 << 20
    cut_bytes: int = 256 << 20
    """Of what was cut off by going back, and a checkpoint leads to."""


class SessionBounds:
    """Asked inside the transactions of others."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        self.limits = limits or SessionLimits()

    def admit_input(self, conn: Connection, session: SessionRow, bodies: Sequence[Mapping[str, Any]]) -> None:
        """Before a session, whose row the caller holds, takes input. Interrupts are always taken.

        Raises InvalidRequest (`session_full`).
        """
        types = {body["type"] for body in bodies} - {"user.interrupt"}
        if not types:
            return
        times = 1 if "user.message" in types else _OVER_FOR_ANSWERS
        instead = "" if "user.message" in types else " End the turn with user.interrupt."
        limits = self.limits
        if session.last_seq >= limits.events * times:
            raise _full(f"{session.last_seq} events, and {limits.events} are allowed", "max_events", instead)
        if session.log_bytes >= limits.log_bytes * times:
            raise _full(
                f"a log of {session.log_bytes} bytes, and {limits.log_bytes} are allowed", "max_log_mb", instead
            )
        query = sa.select(sa.func.coalesce(sa.func.sum(transcripts.c.bytes), 0))
        size = int(conn.execute(query.where(transcripts.c.project_key == session.id)).scalar_one())
        if size >= limits.transcript_bytes * times:
            raise _full(
                f"transcripts of {size} bytes, and {limits.transcript_bytes} are allowed", "max_transcript_mb", instead
            )

    def admit_cut(self, conn: Connection, session_id: str) -> None:
        """After a session went back, in the same transaction. What no checkpoint leads to goes before anything else.

        Raises InvalidRequest (`session_full`).
        """
        limit = self.limits.cut_bytes
        if cut_entries.kept_bytes(conn, session_id) <= limit:
            return
        cut_entries.drop(conn, session_id, cut_entries.unneeded(conn, session_id))
        size = cut_entries.kept_bytes(conn, session_id)
        if size > limit:
            raise InvalidRequest(
                f"Going back would make {size} bytes of conversation that this session has cut off and that its "
                f"checkpoints lead to, and {limit} are allowed: nothing was changed. Delete checkpoints that you don't "
                "need, fork the session from the checkpoint instead, or have the operator raise sessions.max_cut_mb.",
                code="session_full",
            )


def _full(what: str, setting: str, instead: str) -> InvalidRequest:
    return InvalidRequest(
        f"This session is full: it has {what}. Nothing was taken.{instead} Go on in a new session, or in a fork of an "
        f"earlier checkpoint, or have the operator raise sessions.{setting}.",
        code="session_full",
    )
