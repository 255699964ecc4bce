"""Which rate limits are there on the road to the model, what is left of them, and who may set them?

An administrator sets those of the agents of their workspace. Those of a workspace are set by administrators of the
installation: nobody raises their own. Those of upstreams are the operator's, and are shown to administrators of the
installation only, because what is left of them is about all workspaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from sqlalchemy import Connection

from hostler.domain.errors import PermissionDenied
from hostler.domain.principals import Principal, looked_after
from hostler.domain.rates import Kind, SetRateLimits
from hostler.engine.throttle import WaitingHere
from hostler.store import audit, keys
from hostler.store import rates as rows
from hostler.store.catalog import get_agent
from hostler.store.database import Database
from hostler.store.rates import BucketRow

View = dict[str, Any]
MOST: Final = 1_000
"""Agents, and buckets, of one answer."""


class Limited(Protocol):
    """Who waits on this server."""

    def waiting(self) -> list[WaitingHere]: ...


class RateLimits:
    """Every method raises NotFound for a workspace that the principal does not look after."""

    def __init__(self, database: Database, throttle: Limited) -> None:
        self._database = database
        self._throttle = throttle

    async def show(self, by: Principal, workspace_id: str | None) -> View:
        """What is in force for a workspace, and who waits; None: the workspace of the key that asks."""
        workspace = looked_after(by, workspace_id)

        def unit(conn: Connection) -> View:
            keys.get_workspace(conn, workspace)
            return self._shown(conn, self._database.now(conn), workspace, upstreams=by.administers_installation)

        return await self._database.read(unit)

    async def set(self, by: Principal, wanted: SetRateLimits) -> View:
        """Raises PermissionDenied for a workspace's own unless the principal administers the installation, and NotFound
        for an agent of another workspace."""
        workspace = looked_after(by, wanted.workspace_id)
        agent = wanted.agent_id or ""
        if not agent and not by.administers_installation:
            raise PermissionDenied(
                "only an admin key of the default workspace may set the rate limits of a workspace; this one "
                "administers its own workspace, and may set those of its agents (agent_id)"
            )

        def unit(conn: Connection) -> View:
            now = self._database.now(conn)
            keys.get_workspace(conn, workspace, open_only=True)
            if agent:
                get_agent(conn, workspace, agent, for_update=True)
            before = rows.get_limits(conn, workspace, agent, lock=True)
            after = wanted.onto(before)
            if after != before:
                rows.put_limits(conn, workspace, agent, after)
                audit.record_act(
                    conn,
                    now,
                    actor=by.actor,
                    act="rate_limits.set",
                    target_id=agent or workspace,
                    workspace_id=workspace,
                    details={"limits": _limits(after), "before": _limits(before)},
                )
            return self._shown(conn, now, workspace, upstreams=by.administers_installation)

        return await self._database.write(unit)

    def _shown(self, conn: Connection, now: float, workspace: str, *, upstreams: bool) -> View:
        agents = rows.limits_of_agents(conn, workspace, MOST + 1)
        found = rows.buckets(conn, now, workspace, upstreams=upstreams, most=MOST + 1)
        waiting = [each for each in self._throttle.waiting() if upstreams or each.workspace_id == workspace]
        return {
            "type": "rate_limits",
            "workspace_id": workspace,
            "limits": _limits(rows.get_limits(conn, workspace)),
            "agents": [{"agent_id": agent, "limits": _limits(rates)} for agent, rates in agents[:MOST]],
            "buckets": [_bucket(row) for row in found[:MOST]],
            "complete": len(agents) <= MOST and len(found) <= MOST,
            "waiting": [_waiting(each) for each in waiting],
        }


_NAMES: Final[tuple[Kind, ...]] = ("requests", "input_tokens", "output_tokens")


def _limits(rates: Mapping[Kind, int]) -> dict[str, int | None]:
    return {f"{kind}_per_minute": rates.get(kind) for kind in _NAMES}


def _bucket(row: BucketRow) -> View:
    bucket = row.bucket
    upstream, _, model = bucket.subject.partition("/") if bucket.scope in ("upstream", "model") else ("", "", "")
    return {
        "scope": bucket.scope,
        "upstream": upstream or None,
        "model": model or None,
        "workspace_id": bucket.workspace_id or None,
        "agent_id": bucket.subject if bucket.scope == "agent" else None,
        "kind": bucket.kind,
        "per_minute": _rounded(row.per_minute),
        "configured": _rounded(row.configured),
        "learned": _rounded(row.learned),
        "learned_at": row.learned_at,
        "capacity": _rounded(row.capacity),
        "level": _rounded(row.level),
        "closed_until": row.closed_until,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _waiting(each: WaitingHere) -> View:
    return {
        "upstream": each.upstream,
        "workspace_id": each.workspace_id,
        "requests": each.requests,
        "longest_seconds": round(each.longest_seconds, 3),
    }
