"""May this workspace have one more? Limits of the server and of the workspace, and what is counted against them.

What is counted (sessions, bytes) is compared inside the transaction that adds to it. Rates of requests are not counted
here: `api.throttle` asks for the limits and keeps buckets in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, QuotaExceeded
from hostler.domain.quotas import UNLIMITED, LimitName, Quotas
from hostler.store import quotas as rows
from hostler.store.database import Database
from hostler.store.quotas import StorageCounter


class WorkspaceQuotas:
    """The quotas of every workspace.

    defaults  the server's limits, for what a workspace has no limit of its own.
    storage   what counts as storage: one counter for each kind of thing that keeps bytes. A new kind adds its own here.
    """

    def __init__(
        self, database: Database, defaults: Quotas = UNLIMITED, storage: Sequence[StorageCounter] = ()
    ) -> None:
        self._database = database
        self._defaults = defaults
        self._storage = tuple(storage)

    async def limits_of(self, workspace: str) -> Quotas:
        """The limits that hold for this workspace now."""
        return await self._database.read(lambda conn: self.limits_in(conn, workspace))

    def limits_in(self, conn: Connection, workspace: str) -> Quotas:
        """The same within a transaction."""
        return {**self._defaults, **rows.get_overrides(conn, workspace)}

    def admit_session(self, conn: Connection, now: float, workspace: str) -> None:
        """Within the transaction that makes a session, before its row is there. Raises QuotaExceeded.

        Creations of one workspace come one after the other while one of the two limits is set. Days are those of UTC;
        counting begins when a limit is set.
        """
        limits = self.limits_in(conn, workspace)
        per_day, live = limits["sessions_per_day"], limits["live_sessions"]
        if not per_day and not live:
            return
        made = rows.count_session(conn, workspace, day_of(now))
        if per_day and made > per_day:
            raise QuotaExceeded(
                f"this workspace may make {per_day} sessions a day (UTC) and has made them; "
                "try again tomorrow, or have an administrator raise sessions_per_day",
                code="sessions_per_day_exceeded",
            )
        if live and rows.live_sessions(conn, workspace, live) >= live:
            raise QuotaExceeded(
                f"this workspace has {live} sessions that are not archived, and may not have more; "
                "archive or delete some, or have an administrator raise live_sessions",
                code="live_sessions_exceeded",
            )

    def admit_bytes(self, conn: Connection, workspace: str, adding: int) -> None:
        """Within the transaction that keeps `adding` more bytes, before they are counted.

        Raises InvalidRequest (`storage_quota_exceeded`). Additions of one workspace come one after the other while the
        limit is set.
        """
        limit = self.limits_in(conn, workspace)["storage_bytes"]
        if not limit:
            return
        rows.hold(conn, workspace)
        used = rows.storage_used(conn, workspace, self._storage)
        if used + adding > limit:
            raise InvalidRequest(
                f"this would make {used + adding} bytes of the {limit} that this workspace may keep; "
                "delete something, or have an administrator raise storage_bytes",
                code="storage_quota_exceeded",
            )

    def used_in(self, conn: Connection, now: float, workspace: str) -> dict[LimitName, int]:
        """What is counted against the limits that are not rates. Sessions of a day count only while they are limited"""
        return {
            "sessions_per_day": rows.sessions_made(conn, workspace, day_of(now)),
            "live_sessions": rows.live_sessions(conn, workspace),
            "storage_bytes": rows.storage_used(conn, workspace, self._storage),
        }


def day_of(now: float) -> str:
    """`2026-01-02`, in UTC, of seconds since 1970."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
