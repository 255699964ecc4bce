"""What was used, what did it cost, at which prices, and did the ledgers agree? For people and their reports.

Sums are exact: US dollars with nine decimals, as text, because a number of JSON may lose some.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from hostler.domain.clock import rfc3339_of
from hostler.domain.prices import NANOS_OF_A_DOLLAR, Price, Prices
from hostler.domain.principals import Principal, looked_after
from hostler.domain.sessions import Position
from hostler.store import keys, reconcile, usage_report
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition
from hostler.store.reconcile import MismatchRow
from hostler.store.usage_report import Filters, GroupKey, UsageGroup

View = dict[str, Any]


class UsageReports:
    """Answers for `/hostler/v1/usage` and `/hostler/v1/prices`; changes nothing."""

    def __init__(self, database: Database, prices: Prices, runtime_nanos_per_hour: int = 0) -> None:
        """`prices` and the price of an hour of running time: those that requests and time are booked with."""
        self._database = database
        self._prices = prices
        self._rate = runtime_nanos_per_hour

    async def report(
        self, by: Principal, group_by: Sequence[GroupKey], filters: Filters, *, limit: int, after: Sequence[str] | None
    ) -> tuple[list[View], bool]:
        """The sums of each group, in the order of the groups, and whether more follow.

        Of the principal's workspace, or of the one that `filters` names. For who administers the installation, of all
        workspaces when it groups by workspace and names none. Raises NotFound for a workspace that it doesn't look
        after.
        """
        workspace = filters.workspace_id
        if workspace is None and not ("workspace" in group_by and by.administers_installation):
            filters = replace(filters, workspace_id=by.workspace)
        elif workspace is not None:
            await self._known(by, workspace)
        groups, more = await self._database.read(
            lambda conn: usage_report.report(conn, group_by, filters, limit=limit, after=after)
        )
        return [usage_view(group_by, group) for group in groups], more

    async def mismatches(
        self,
        by: Principal,
        workspace_id: str | None,
        session_id: str | None,
        *,
        limit: int,
        after: Position | None,
    ) -> tuple[list[View], bool]:
        """What did not agree, newest first. Raises NotFound, like `report`."""
        workspace = workspace_id or by.workspace
        await self._known(by, workspace)
        position = None if after is None else StorePosition(*after)

        def unit(conn: Connection) -> Any:
            return reconcile.page_of_mismatches(conn, workspace, limit=limit, after=position, session_id=session_id)

        found = await self._database.read(unit)
        return [_mismatch(row) for row in found.rows], found.has_next

    def prices(self) -> View:
        """The table that requests are booked with, the newest row of a model last."""
        table = self._prices.table
        rows = [
            {"model": model, "from": _day(row.since), **_price(row.price), "source": row.source}
            for model, held in table.models.items()
            for row in held
        ]
        tools = [
            {
                "tool": tool,
                "from": _day(row.since),
                "usd_per_1000": dollars(row.nanos * 1000),
                "source": row.source,
            }
            for tool, uses in table.server_tools.items()
            for row in uses
        ]
        return {
            "type": "prices",
            "version": table.version,
            "runtime_usd_per_hour": dollars(self._rate),
            "models": rows,
            "server_tools": tools,
            "sources": dict(table.sources),
        }

    async def _known(self, by: Principal, workspace: str) -> None:
        looked_after(by, workspace)
        await self._database.read(lambda conn: keys.get_workspace(conn, workspace))


def dollars(nanos: int) -> str:
    """`1.234567890`: exact."""
    return f"{'-' if nanos < 0 else ''}{abs(nanos) // NANOS_OF_A_DOLLAR}.{abs(nanos) % NANOS_OF_A_DOLLAR:09d}"


def usage_view(group_by: Sequence[GroupKey], group: UsageGroup) -> View:
    """As the API shows it. A key that a group has none of is null."""
    used = group.usage
    return {
        "type": "usage",
        "group": {key: value or None for key, value in zip(group_by, group.keys, strict=True)},
        "requests": group.requests,
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cache_read_input_tokens": used.cache_read_input_tokens,
        "cache_creation_5m_input_tokens": used.cache_creation_5m_input_tokens,
        "cache_creation_1h_input_tokens": used.cache_creation_1h_input_tokens,
        "web_search_requests": used.web_search_requests,
        "unpriced_requests": used.unpriced_requests,
        "result_bytes": group.result_bytes,
        "active_seconds": group.active_us / 1_000_000,
        "model_cost_usd": dollars(used.list_cost_nanos),
        "runtime_cost_usd": dollars(group.runtime_nanos),
        "list_cost_usd": dollars(used.list_cost_nanos + group.runtime_nanos),
    }


def _mismatch(row: MismatchRow) -> View:
    return {
        "id": row.id,
        "type": "usage_mismatch",
        "session_id": row.session_id,
        "kind": row.kind,
        "details": json.loads(row.details),
        "created_at": row.created_at,
    }


def _price(price: Price) -> View:
    kinds = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
    long = None if price.long is None else {kind: str(getattr(price.long, kind)) for kind in kinds}
    return {**{kind: str(getattr(price, kind)) for kind in kinds}, "long_above": price.long_above, "long": long}


def _day(since: float | None) -> str | None:
    return None if since is None else rfc3339_of(since)[:10]
