"""Who brings the recorded webhooks to their endpoints? Every server, each taking what no other has taken.

It looks when a commit says that there is something, when a waiting attempt is due, and, for what a dead server left
behind, now and then. Without anything to deliver it does nothing in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError
from hostler.engine.webhook_courier import Courier
from hostler.store import webhook_deliveries as queue
from hostler.store import webhooks
from hostler.store.database import Database
from hostler.store.webhook_deliveries import Leased
from hostler.store.webhooks import SIGNAL

log = logging.getLogger("hostler.webhooks")


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    at_once: int = 32
    """Deliveries of this server at the same time."""
    at_once_each: int = 4
    """Of them, to one endpoint: a slow one must not keep the others waiting."""
    at_once_workspace: int = 8
    """Of them, of one workspace: with many slow endpoints it must not keep the other workspaces waiting."""
    most_waiting: int = 50_000
    """An endpoint that is slower than its events come is disabled when more wait: the table must not grow for ever."""
    lease_seconds: float = 60.0
    """After that a delivery is somebody else's. Longer than any attempt takes."""
    look_seconds: float = 30.0
    """How long what a dead server left behind may go unnoticed."""


class WebhookDispatcher:
    """Delivers until it is cancelled. `run` once."""

    def __init__(
        self, owner: str, database: Database, courier: Courier, settings: DispatcherSettings | None = None
    ) -> None:
        self._owner = owner
        self._database = database
        self._courier = courier
        self._settings = settings or DispatcherSettings()
        self._look = asyncio.Event()
        self._busy: Counter[str] = Counter()
        self._busy_workspaces: Counter[str] = Counter()
        self._counted_at = 0.0
        database.signals.on(SIGNAL, self._look.set)

    async def run(self) -> None:
        """What was on its way when a server of this name died is delivered again: at least once, never lost."""
        await self._database.write(lambda connection: queue.release_own(connection, self._owner))
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._look.clear()
                pause = self._settings.look_seconds
                try:
                    while taken := await self._take():
                        for leased in taken:
                            self._busy[leased.endpoint.id] += 1
                            self._busy_workspaces[leased.endpoint.workspace_id] += 1
                            tasks.create_task(self._deliver(leased))
                    pause = await self._pause()
                except (HostlerError, OSError):
                    log.exception("webhooks_not_read")
                try:
                    async with asyncio.timeout(pause):
                        await self._look.wait()
                except TimeoutError:
                    continue

    async def _take(self) -> list[Leased]:
        settings = self._settings
        room = settings.at_once - self._busy.total()
        if room <= 0:
            return []
        full = {endpoint for endpoint, count in self._busy.items() if count >= settings.at_once_each}
        closed = {of for of, count in self._busy_workspaces.items() if count >= settings.at_once_workspace}
        database = self._database
        found = await database.read(lambda c: queue.due(c, database.now(c), full=full, full_workspaces=closed))
        chosen: list[str] = []
        each, together = Counter(self._busy), Counter(self._busy_workspaces)
        for delivery, endpoint, workspace in found:
            room_here = each[endpoint] < settings.at_once_each and together[workspace] < settings.at_once_workspace
            if len(chosen) < room and room_here:
                each[endpoint] += 1
                together[workspace] += 1
                chosen.append(delivery)
        if not chosen:
            return []

        def unit(connection: Connection) -> list[Leased]:
            return queue.lease(connection, database.now(connection), self._owner, chosen, ttl=settings.lease_seconds)

        return await database.write(unit)

    async def _pause(self) -> float:
        """Seconds until there may be something to do although nobody says so."""
        database = self._database

        def unit(connection: Connection) -> tuple[float, float | None]:
            now = database.now(connection)
            return now, queue.next_due_at(connection, now)

        now, due_at = await database.read(unit)
        longest = self._settings.look_seconds
        if now - self._counted_at > longest:
            self._counted_at = now
            await self._close_overfull()
        return longest if due_at is None else max(0.001, min(longest, due_at - now))

    async def _close_overfull(self) -> None:
        most, database = self._settings.most_waiting, self._database
        reason = f"more than {most} events waited for this endpoint, which was slower than they came"
        for workspace, endpoint in await database.read(lambda c: queue.overfull(c, most)):

            def unit(connection: Connection, workspace: str = workspace, endpoint: str = endpoint) -> bool:
                now = database.now(connection)
                return webhooks.disable_endpoint(connection, now, workspace, endpoint, reason)

            if await database.write(unit):
                log.warning("webhook_endpoint_disabled", extra={"endpoint": endpoint, "reason": reason})

    async def _deliver(self, leased: Leased) -> None:
        try:
            await self._courier.attempt(leased)
        except Exception:
            # The lease runs out, and somebody tries again.
            log.exception("webhook_not_recorded", extra={"delivery": leased.delivery.id})
        finally:
            self._busy[leased.endpoint.id] -= 1
            if self._busy[leased.endpoint.id] <= 0:
                del self._busy[leased.endpoint.id]
            self._busy_workspaces[leased.endpoint.workspace_id] -= 1
            if self._busy_workspaces[leased.endpoint.workspace_id] <= 0:
                del self._busy_workspaces[leased.endpoint.workspace_id]
            self._look.set()
