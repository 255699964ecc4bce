"""What may an administrator do with budgets? Make, read, change and remove those of agents and of the workspace.

Each act is written into the audit with it. A session's own budget is the session's, and changed with it.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from sqlalchemy import Connection

from hostler.domain.budgets import CreateBudget, UpdateBudget
from hostler.domain.errors import InvalidRequest, QuotaExceeded
from hostler.domain.principals import Principal
from hostler.domain.sessions import Position
from hostler.store import audit, catalog
from hostler.store import budgets as rows
from hostler.store.budgets import NANOS_OF_A_CENT, BudgetRow
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition

View = dict[str, Any]

MOST: Final = 1_000
"""Budgets of one workspace."""


class Budgets:
    """The budgets of all workspaces. NotFound for another workspace's, and for its agents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, by: Principal, wanted: CreateBudget) -> View:
        """Raises Conflict when there is one for the same agent, or workspace, and period."""
        if (wanted.agent_id is None) == (wanted.scope == "agent"):
            raise InvalidRequest("agent_id: belongs to the scope `agent`, and only to that")

        def unit(conn: Connection) -> View:
            now = self._database.now(conn)
            subject = by.workspace if wanted.agent_id is None else wanted.agent_id
            if wanted.agent_id is not None:
                catalog.get_agent(conn, by.workspace, wanted.agent_id)
            if rows.count(conn, by.workspace) >= MOST:
                raise QuotaExceeded(f"the workspace has {MOST} budgets; remove one first")
            limit = rows.nanos_of(wanted.limit.amount)
            row = rows.create(conn, now, by.workspace, wanted.scope, subject, wanted.period, limit, wanted.warn_at)
            self._record(conn, now, by, "create", row.id, wanted.model_dump(mode="json"))
            return self._view(conn, now, row)

        return await self._database.write(unit)

    async def retrieve(self, workspace: str, budget_id: str) -> View:
        return await self._database.read(
            lambda c: self._view(c, self._database.now(c), rows.get(c, workspace, budget_id))
        )

    async def listed(
        self, workspace: str, *, limit: int, after: Position | None = None, agent_id: str | None = None
    ) -> tuple[list[View], bool]:
        """Newest first, and whether more follow. `agent_id`: only those of this agent."""

        def unit(conn: Connection) -> tuple[list[View], bool]:
            place = None if after is None else StorePosition(*after)
            found = rows.list_budgets(conn, workspace, limit=limit, after=place, subject=agent_id)
            now = self._database.now(conn)
            return [self._view(conn, now, row) for row in found.rows], found.has_next

        return await self._database.read(unit)

    async def update(self, by: Principal, budget_id: str, patch: UpdateBudget) -> View:
        """A limit may be lower than what is used: then the budget is reached. Sessions that wait for it go on when it
        has room for them."""
        for name in patch.model_fields_set:
            if getattr(patch, name) is None:
                raise InvalidRequest(f"{name}: can't be null; leave it out to keep it")

        def unit(conn: Connection) -> View:
            now = self._database.now(conn)
            row = rows.change(
                conn,
                now,
                by.workspace,
                budget_id,
                limit_nanos=None if patch.limit is None else rows.nanos_of(patch.limit.amount),
                warn_at=patch.warn_at,
            )
            self._record(conn, now, by, "update", budget_id, patch.model_dump(mode="json", exclude_unset=True))
            return self._view(conn, now, row)

        return await self._database.write(unit)

    async def delete(self, by: Principal, budget_id: str) -> View:
        """Nothing is limited by it any more; sessions that wait for it go on."""

        def unit(conn: Connection) -> None:
            rows.delete(conn, by.workspace, budget_id)
            self._record(conn, self._database.now(conn), by, "delete", budget_id, {})

        await self._database.write(unit)
        return {"id": budget_id, "type": "budget_deleted"}

    @staticmethod
    def _record(
        conn: Connection,
        now: float,
        by: Principal,
        act: Literal["create", "update", "delete"],
        budget_id: str,
        details: dict[str, Any],
    ) -> None:
        audit.record_act(
            conn,
            now,
            actor=by.actor,
            act=f"budget.{act}",
            target_id=budget_id,
            workspace_id=by.workspace,
            details=details,
        )

    @staticmethod
    def _view(conn: Connection, now: float, stored: BudgetRow) -> View:
        row = stored.at(rows.month_of(now))
        left = row.limit_nanos - row.spent_nanos - row.uncertain_nanos - row.reserved_nanos
        return {
            "id": row.id,
            "type": "budget",
            "scope": row.scope,
            "agent_id": row.subject if row.scope == "agent" else None,
            "period": row.period,
            "month": row.month or None,
            "limit": {"amount": str(row.limit_nanos // NANOS_OF_A_CENT), "currency": "USD"},
            "spent_nanos": row.spent_nanos,
            "uncertain_nanos": row.uncertain_nanos,
            "reserved_nanos": row.reserved_nanos,
            "available_nanos": max(0, left),
            "warn_at": row.warn_at,
            "warned_at": row.warned or None,
            "paused_sessions": rows.paused_by(conn, row.id),
            "created_at": row.created_at,
            "updated_at": row.updated_at,
        }
