"""What does a worker do between two turns of its session that is not a turn? What it was asked for, and what is due.

The one place where a checkpoint is taken and where a session goes back: by the worker that holds the lease, when
nothing of the session runs, in one transaction that finds the lease holding. An order that was not carried out when
the worker died is found by the next one; one that was is closed, in the same transaction.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection

from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import Conflict, HostlerError, InvalidRequest, LeaseLost, NotFound
from hostler.domain.isolation import KEPT_AUTOMATIC, AutomaticCheckpoints
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.points import Points, refuse_unless_a_point
from hostler.engine.records import Applied, Records
from hostler.engine.snapshot_port import SnapshotTooLarge
from hostler.store import checkpoints as rows
from hostler.store import eventlog, orders
from hostler.store.database import Database
from hostler.store.orders import Order
from hostler.store.sessions import SessionRow, get_session, lock_session
from hostler.store.work import Lease, check

log = logging.getLogger("hostler.boundary")

ERRORS: dict[str, type[HostlerError]] = {
    "conflict": Conflict,
    "invalid": InvalidRequest,
    "not_found": NotFound,
    "failed": HostlerError,
}
"""How an outcome names what whoever waits for it is to be told."""


class Files(Protocol):
    """The session's files, as the worker that holds its lease has them."""

    async def kept(self, session: SessionRow) -> str | None:
        """Everything that the session has written is kept: its memory, its outputs, its files in the snapshot of this
        id. Nothing of it writes meanwhile. None: this server keeps no snapshots. Raises what taking one raises."""
        ...

    async def stilled(self) -> None:
        """Nothing of the session runs on this host any more."""
        ...

    async def abandoned(self) -> None:
        """After `stilled` and `kept`: nobody looks at the session's files here again before they were compared with
        its latest snapshot."""
        ...


@dataclass(frozen=True, slots=True)
class Boundary:
    """For all sessions of a worker."""

    database: Database
    records: Records
    points: Points

    async def asked(self, session_id: str) -> bool:
        """Whether somebody waits for something that is done here."""
        return await self._open_order(session_id) is not None

    async def look(self, lease: Lease, files: Files, ended: SessionRow | None) -> bool:
        """Do what is asked and what is due. `ended`: the session as it was when a run had just ended; None: none has.

        True: the session went back, and its files were left: whoever goes on with it begins anew. Raises LeaseLost.
        """
        while (order := await self._open_order(lease.session_id)) is not None:
            if await self._carry_out(order, lease, files):
                return True
        if ended is not None:
            await self._take_when_due(lease, files, ended)
        return False

    # -- orders

    async def _open_order(self, session_id: str) -> Order | None:
        return await self.database.read(lambda c: orders.first_open(c, self.database.now(c), session_id))

    async def _carry_out(self, order: Order, lease: Lease, files: Files) -> bool:
        try:
            session = await self.database.read(lambda c: get_session(c, None, order.session_id))
            refuse_unless_a_point(session, _WHAT[order.act])
            if order.act == "rewind":
                await files.stilled()
            snapshot_id = await files.kept(session)
            if order.act == "rewind":
                await files.abandoned()
                return await self._go_back(order, lease, snapshot_id)
            if order.act == "keep":
                await self._close(order, lease, {"id": snapshot_id})
            else:
                await self._take(order, lease, snapshot_id)
        except LeaseLost:
            raise
        except HostlerError as error:
            await self._refuse(order, lease, error)
        except SnapshotTooLarge as error:
            await self._refuse(order, lease, InvalidRequest(str(error)))
        except ObjectsUnavailable as error:
            log.warning("order_failed", extra={"session": order.session_id, "act": order.act, "reason": str(error)})
            await self._refuse(order, lease, Conflict(f"The files can't be kept now: {error}"))
        except Exception as error:
            log.exception("order_failed", extra={"session": order.session_id, "act": order.act})
            await self._refuse(order, lease, HostlerError(f"{_WHAT[order.act]} failed: {error}"))
        return False

    async def _take(self, order: Order, lease: Lease, snapshot_id: str | None) -> None:
        params = order.params

        def unit(conn: Connection) -> None:
            now = self.database.now(conn)
            session = self._held(conn, now, lease)
            _refuse_if_it_went_on(conn, order)
            row = self.points.take(
                conn, now, session, name=params["name"], reason=params["reason"], snapshot_id=snapshot_id
            )
            if orders.close(conn, now, order.id, {"id": row.id}):
                rows.prune(conn, now, session.id, automatic_of(session).keep)
            else:
                rows.drop_checkpoint(conn, session.id, row.id)

        await self.database.write(unit)

    async def _go_back(self, order: Order, lease: Lease, snapshot_id: str | None) -> bool:
        params = order.params

        def unit(conn: Connection) -> Applied | None:
            now = self.database.now(conn)
            session = self._held(conn, now, lease)
            _refuse_if_it_went_on(conn, order)
            done = self.points.go_back(
                conn,
                now,
                session,
                params["checkpoint_id"],
                lease=lease,
                snapshot_id=snapshot_id,
                force=params["force"],
            )
            if not orders.close(conn, now, order.id, {"id": done.rewind.id}):
                raise _NobodyWaits
            rows.prune(conn, now, session.id, automatic_of(session).keep)
            return done.applied

        try:
            applied = await self.database.write(unit)
        except _NobodyWaits:
            return False
        if applied is not None:
            self.records.announce(order.session_id, applied, by_worker=True)
        return True

    async def _refuse(self, order: Order, lease: Lease, error: HostlerError) -> None:
        kind = next(name for name, class_ in ERRORS.items() if isinstance(error, class_))
        await self._close(order, lease, {"error": kind, "message": error.message, "code": error.code})

    async def _close(self, order: Order, lease: Lease, outcome: dict[str, Any]) -> None:
        def unit(conn: Connection) -> None:
            now = self.database.now(conn)
            check(conn, now, lease)
            orders.close(conn, now, order.id, outcome)

        await self.database.write(unit)

    def _held(self, conn: Connection, now: float, lease: Lease) -> SessionRow:
        """The session, which nobody else changes before the end of this transaction. Raises LeaseLost."""
        workspace = get_session(conn, None, lease.session_id).workspace_id
        session = lock_session(conn, workspace, lease.session_id)
        check(conn, now, lease)
        return session

    # -- what is due

    async def _take_when_due(self, lease: Lease, files: Files, session: SessionRow) -> None:
        """Of the end of the turn, even if the next message is there already: nothing was done about it yet."""
        wanted = automatic_of(session)
        if wanted.every_turns is None and wanted.every_minutes is None:
            return
        try:
            if refuse_unless_a_point(session, "a checkpoint").turn is not None:
                return
        except HostlerError:
            return
        if not await self.database.read(lambda c: self._is_due(c, session, wanted)):
            return

        def unit(conn: Connection) -> None:
            now = self.database.now(conn)
            self._held(conn, now, lease)
            self.points.take(conn, now, session, name=None, reason="automatic", snapshot_id=snapshot_id)
            rows.prune(conn, now, session.id, wanted.keep)

        try:
            snapshot_id = await files.kept(session)
            await self.database.write(unit)
        except LeaseLost:
            raise
        except Exception:  # the session goes on; the next turn's end tries again
            log.exception("checkpoint_not_taken", extra={"session": lease.session_id})

    def _is_due(self, conn: Connection, session: SessionRow, wanted: AutomaticCheckpoints) -> bool:
        last = rows.last_taken(conn, session.id)
        seq, since = (0, session.created_at) if last is None else last
        if wanted.every_minutes is not None:
            passed = self.database.now(conn) - parse_rfc3339(since).timestamp()
            if passed >= wanted.every_minutes * 60:
                return True
        return wanted.every_turns is not None and rows.turns_ended(conn, session.id, seq) >= wanted.every_turns


def automatic_of(session: SessionRow) -> AutomaticCheckpoints:
    """What the session's environment says of automatic checkpoints. When it says nothing, none are due."""
    hosting = (session.environment.get("config") or {}).get("hosting") or {}
    said = hosting.get("checkpoints")
    if said is None:
        return AutomaticCheckpoints.model_construct(every_turns=None, every_minutes=None, keep=KEPT_AUTOMATIC)
    return AutomaticCheckpoints.model_validate(said)


class _NobodyWaits(Exception):
    """Whoever asked has given up: undo it."""


_WHAT = {"checkpoint": "a checkpoint", "rewind": "going back", "keep": "keeping the files"}


def _refuse_if_it_went_on(conn: Connection, order: Order) -> None:
    """Raises Conflict when the session has begun a turn since it was asked: it is at another point now."""
    if eventlog.count_after(conn, order.session_id, order.params["seq"], "session.status_running"):
        raise Conflict(
            f"This session went on before {_WHAT[order.act]} could be done; nothing was changed. "
            "Wait for session.status_idle, then ask again."
        )
