"""Who removes what is over, when, and how is it known what that would be?

Every server looks at every workspace now and then; taking a row of the workspace forward makes it one of them. What is
over is removed by a run: a row that says from which moment days are counted, how far it got, and what it has removed
so far. A run goes on in small transactions, each of which finds the run to be this server's still, removes, and writes
down that it did; between them it rests as long as the last one took, so that others get at the database. A server that
dies leaves a run that the next one goes on with. A dry run is the same without the removing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy import Connection

from hostler.domain.clock import rfc3339_of
from hostler.domain.errors import Busy, HostlerError, PermissionDenied
from hostler.domain.principals import Principal, looked_after
from hostler.domain.retention import HARMLESS, POLICIES, Days, PolicyName, RunRetention, SetRetention
from hostler.domain.sessions import Position
from hostler.engine.measures import Measures
from hostler.store import audit, keys
from hostler.store import retention as rows
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition
from hostler.store.retention import Results, RunRow
from hostler.store.retention_policies import drain, policies
from hostler.store.retention_scope import Found, Policy, Scope

log = logging.getLogger("hostler.retention")
View = dict[str, Any]

SAMPLE: Final = 5
"""Ids that are shown of what a policy removes."""
_LONGEST_REST: Final = 1.0
"""Seconds between two transactions of a run."""


class DeletesSessions(Protocol):
    """What deleting a session from outside does, in two parts (`engine.sessions.Sessions`)."""

    def delete_in(self, connection: Connection, workspace: str, session_id: str) -> str: ...

    def announce_deleted(self, session_id: str, at: str) -> None: ...


@dataclass(frozen=True, slots=True)
class RetentionTerms:
    """days: of workspaces that have none of their own. every_seconds: between two looks at a workspace; 0: only when
    somebody asks."""

    days: Days
    every_seconds: float = 3600.0
    patience_seconds: float = 20.0
    """How long a request waits for the end of the run that it asked for."""


DEFAULT_TERMS: Final = RetentionTerms(HARMLESS)


class Retention:
    """Of all workspaces. `run` beside the rest of a server until it is cancelled; the other methods answer requests."""

    def __init__(
        self,
        owner: str,
        database: Database,
        sessions: DeletesSessions,
        measures: Measures,
        terms: RetentionTerms = DEFAULT_TERMS,
        *,
        rest: Callable[[float], float] = lambda took: min(took, _LONGEST_REST),
    ) -> None:
        """`owner`: the name of this server, the same in its next life. `rest`: how long to let others, in seconds,
        after a transaction that took that long."""
        self._owner = owner
        self._database = database
        self._sessions = sessions
        self._measures = measures
        self._terms = terms
        self._rest = rest
        self._wake = asyncio.Event()
        self._ended: set[asyncio.Event] = set()
        self._deleted: list[tuple[str, str]] = []
        """Sessions of the transaction in hand, and when."""
        self.policies: Mapping[PolicyName, Policy] = policies(self._remove_sessions)
        database.signals.on(rows.SIGNAL, self._told)

    # -- what is wanted

    async def show(self, by: Principal, workspace_id: str | None) -> View:
        """The policies that hold for a workspace. Raises NotFound for one that the principal doesn't look after."""
        workspace = looked_after(by, workspace_id)
        return await self._database.read(lambda conn: self._shown(conn, workspace))

    async def set(self, by: Principal, wanted: SetRetention) -> View:
        """Raises PermissionDenied unless the principal administers the installation, as for quotas."""
        workspace = looked_after(by, wanted.workspace_id)
        if not by.administers_installation:
            raise PermissionDenied(
                "only an admin key of the default workspace may set what is removed; this one administers its own "
                "workspace"
            )

        def unit(conn: Connection) -> View:
            keys.get_workspace(conn, workspace, open_only=True)
            before = rows.get_overrides(conn, workspace)
            after = wanted.onto(before)
            if after != before:
                rows.put_overrides(conn, workspace, after)
                details = {"overrides": after, "before": before}
                self._note(conn, by, "retention.set", workspace, workspace, details)
            return self._shown(conn, workspace)

        return await self._database.write(unit)

    def _shown(self, conn: Connection, workspace: str) -> View:
        keys.get_workspace(conn, workspace)
        overrides, days = rows.get_overrides(conn, workspace), self._days(conn, workspace)
        return {
            "type": "retention",
            "workspace_id": workspace,
            "every_seconds": self._terms.every_seconds,
            "policies": [
                {
                    "name": policy.name,
                    "removes": policy.what,
                    "days": days[policy.name],
                    "default_days": self._terms.days.get(policy.name),
                    "overridden": policy.name in overrides,
                }
                for policy in self.policies.values()
            ],
            "never_removed": ["model_requests"],
        }

    def _days(self, conn: Connection, workspace: str) -> dict[PolicyName, int | None]:
        found = {**dict.fromkeys(POLICIES), **self._terms.days, **rows.get_overrides(conn, workspace)}
        return {name: found[name] for name in POLICIES}

    # -- runs, as requests ask for them

    async def ask(self, by: Principal, wanted: RunRetention) -> View:
        """The run, ended or, when it takes long, still running. Raises Conflict while another one removes here."""
        workspace = looked_after(by, wanted.workspace_id)
        ended = asyncio.Event()
        self._ended.add(ended)
        try:

            def unit(conn: Connection) -> RunRow:
                keys.get_workspace(conn, workspace)
                now, days = self._database.now(conn), self._days(conn, workspace)
                row = rows.begin(conn, now, workspace, days=days, dry_run=wanted.dry_run, cause="asked", actor_id=by.id)
                if not wanted.dry_run:
                    self._note(conn, by, "retention.run", row.id, workspace, {"days": days})
                return row

            row = await self._database.write(unit)
            run_id = row.id
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._terms.patience_seconds):
                    while row.state == "running":
                        await ended.wait()
                        ended.clear()
                        row = await self._database.read(lambda conn: rows.get_run(conn, workspace, run_id))
        finally:
            self._ended.discard(ended)
        return run_view(row)

    async def get_run(self, by: Principal, run_id: str) -> View:
        only = None if by.administers_installation else by.workspace
        return run_view(await self._database.read(lambda conn: rows.get_run(conn, only, run_id)))

    async def list_runs(
        self, by: Principal, workspace_id: str | None, *, limit: int, after: Position | None
    ) -> tuple[list[View], bool]:
        """Newest first, and whether more follow."""
        workspace = looked_after(by, workspace_id)
        place = StorePosition(*after) if after else None

        def unit(conn: Connection) -> tuple[list[View], bool]:
            keys.get_workspace(conn, workspace)
            found = rows.page_of_runs(conn, workspace, limit=limit, after=place)
            return [run_view(row) for row in found.rows], found.has_next

        return await self._database.read(unit)

    def _note(
        self, conn: Connection, by: Principal, act: str, target: str, workspace: str, details: Mapping[str, Any]
    ) -> None:
        now = self._database.now(conn)
        audit.record_act(
            conn, now, actor=by.actor, act=act, target_id=target, workspace_id=workspace, details=dict(details)
        )

    def _told(self) -> None:
        self._wake.set()
        for ended in self._ended:
            ended.set()

    # -- the work

    async def run(self) -> None:
        """What a server of this name had in hand when it ended is gone on with at once."""
        await self._database.write(lambda conn: rows.release_own(conn, self._owner))
        while True:
            self._wake.clear()
            try:
                await self.look()
            except (HostlerError, OSError):
                log.exception("retention_failed")
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _pause(self) -> float:
        """Also how long the run of a dead server may go unnoticed."""
        every = self._terms.every_seconds
        return min(rows.LEASE_SECONDS, every) if every else rows.LEASE_SECONDS

    async def look(self) -> None:
        """Everything that is asked for, left by others, or due."""
        await self._work_off()
        if not self._terms.every_seconds:
            return

        def late(conn: Connection) -> tuple[list[str], float]:
            before = self._database.now(conn) - self._terms.every_seconds
            return rows.due(conn, before), before

        found, before = await self._database.read(late)
        for workspace in found:
            await self._look_after(workspace, before)
            await self._work_off()

    async def _look_after(self, workspace: str, before: float) -> None:
        """A run, if there is anything to remove; and fresh figures."""
        if not await self._database.write(lambda c: rows.take(c, self._database.now(c), workspace, before)):
            return

        def anything(conn: Connection) -> bool:
            scope = Scope(workspace, self._database.now(conn), self._days(conn, workspace))
            return any(_first(conn, scope, policy) for policy in self.policies.values())

        if await self._database.read(anything):

            def begin(conn: Connection) -> None:
                days = self._days(conn, workspace)
                rows.begin(
                    conn,
                    self._database.now(conn),
                    workspace,
                    days=days,
                    dry_run=False,
                    cause="schedule",
                    actor_id=self._owner,
                )

            try:
                await self._database.write(begin)
            except HostlerError as error:  # one is on its way
                log.info("retention_not_begun", extra={"workspace": workspace, "reason": str(error)})
        await self._measures.measure(workspace)

    async def _work_off(self) -> None:
        while True:
            row = await self._database.write(lambda c: rows.claim(c, self._database.now(c), self._owner))
            if row is None:
                return
            log.info("retention_run", extra={"run": row.id, "workspace": row.workspace_id, "dry_run": row.dry_run})
            try:
                while True:
                    began = time.monotonic()
                    if not await self._piece(row.id):
                        break
                    await asyncio.sleep(self._rest(time.monotonic() - began))
            except (Busy, OSError):  # the lease runs out, and somebody tries again
                raise
            except Exception as error:
                log.exception("retention_run_failed", extra={"run": row.id})
                reason = error.message if isinstance(error, HostlerError) else type(error).__name__
                await self._fail(row.id, reason)

    async def _fail(self, run_id: str, reason: str) -> None:
        """What the transactions before have removed stays removed, and is in the run."""

        def unit(conn: Connection) -> None:
            now = self._database.now(conn)
            if rows.hold(conn, now, run_id, self._owner) is not None:
                rows.end(conn, now, run_id, "failed", reason)

        await self._database.write(unit)

    async def _piece(self, run_id: str) -> bool:
        """One transaction of a run. False: it has ended, or is somebody else's by now."""

        def look(conn: Connection) -> tuple[Scope, Policy, Sequence[Found], Any] | None:
            row = rows.get_run(conn, None, run_id)
            return self._select(conn, row)

        def unit(conn: Connection) -> bool:
            self._deleted = []
            now = self._database.now(conn)
            row = rows.hold(conn, now, run_id, self._owner)
            if row is None:
                return False
            changed = not row.dry_run and row.days != self._days(conn, row.workspace_id)
            if changed and row.draining is None:  # what has lost some of its log already goes all the same
                rows.end(conn, now, run_id, "stopped")
                return False
            selected = seen if row.dry_run else self._select(conn, row)
            if selected is None:
                rows.end(conn, now, run_id, "completed")
                return False
            scope, policy, found, after = selected
            over = after is None
            if not row.dry_run and policy.drains and found:
                if drain(conn, found[0].id, with_archives=policy.name == "archived_sessions"):
                    note = functools.partial(rows.note, done=row.done, after=row.after, draining=found[0].id)
                    note(conn, now, run_id, results=row.results)
                    return True
                if row.draining is not None:
                    found, after, over = found[:1], row.after, False
            if not row.dry_run and found:
                policy.remove(conn, scope, found)
            results = _added(row.results, policy.name, found)
            rows.note(conn, now, run_id, done=row.done + over, after=after, results=results)
            return True

        # What only looks must not keep others from writing.
        dry = await self._database.read(lambda conn: rows.get_run(conn, None, run_id).dry_run)
        seen = await self._database.read(look) if dry else None
        more = await self._database.write(unit)
        for session_id, at in self._deleted:
            self._sessions.announce_deleted(session_id, at)
        self._deleted = []
        return more

    def _select(self, conn: Connection, row: RunRow) -> tuple[Scope, Policy, Sequence[Found], Any] | None:
        """What the run comes to next. None: it has been through all policies."""
        wanted = [policy for policy in self.policies.values() if row.days.get(policy.name) is not None]
        if row.done >= len(wanted):
            return None
        policy = wanted[row.done]
        scope = Scope(row.workspace_id, row.moment, row.days)
        selected = policy.select(conn, scope, None if row.after is None else tuple(row.after), policy.batch)
        return scope, policy, selected.found, selected.after

    def _remove_sessions(self, conn: Connection, scope: Scope, found: Sequence[Found]) -> None:
        for one in found:
            self._deleted.append((one.id, self._sessions.delete_in(conn, scope.workspace_id, one.id)))


def _first(conn: Connection, scope: Scope, policy: Policy) -> bool:
    """Whether there is anything to do for a policy."""
    after = None
    while True:
        if scope.days.get(policy.name) is None:
            return False
        selected = policy.select(conn, scope, after, policy.batch)
        if selected.found or selected.after is None:
            return bool(selected.found)
        after = selected.after


def _added(results: Results, name: str, found: Sequence[Found]) -> Results:
    before = results.get(name) or {"items": 0, "bytes": 0, "oldest": None, "sample": []}
    moments = [one.at for one in found] + ([before["oldest"]] if before["oldest"] else [])
    return {
        **results,
        name: {
            "items": before["items"] + sum(one.items for one in found),
            "bytes": before["bytes"] + sum(one.bytes for one in found),
            "oldest": min(moments, default=None),
            "sample": [*before["sample"], *(one.id for one in found)][:SAMPLE],
        },
    }


def run_view(row: RunRow) -> View:
    """As `/hostler/v1` shows it."""
    days, results = row.days, row.results
    removed = [
        {"policy": name, "days": days[name], **(results.get(name) or _added({}, name, ())[name])}
        for name in POLICIES
        if days.get(name) is not None
    ]
    return {
        "id": row.id,
        "type": "retention_run",
        "workspace_id": row.workspace_id,
        "dry_run": row.dry_run,
        "cause": row.cause,
        "actor_id": row.actor_id,
        "state": row.state,
        "reason": row.reason,
        "counted_from": rfc3339_of(row.moment),
        "removed": removed,
        "items": sum(one["items"] for one in removed),
        "bytes": sum(one["bytes"] for one in removed),
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }
