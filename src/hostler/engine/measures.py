"""How much is kept, of which limit, and since when is that known? For a workspace, and for the whole installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection

from hostler.domain.clock import rfc3339_of
from hostler.domain.principals import Principal, looked_after
from hostler.engine.quotas import WorkspaceQuotas
from hostler.store import keys, measures
from hostler.store import retention as rows
from hostler.store.database import Database
from hostler.store.measures import Amount

View = dict[str, Any]

FRESH_SECONDS: Final = 10.0
"""Figures this young are not taken anew, whoever asks."""


@dataclass(frozen=True, slots=True)
class Most:
    """A limit of one store."""

    of: Literal["session", "workspace"]
    setting: str
    bytes: int | None = None
    rows: int | None = None


class Measures:
    """limits: by store (`store.growth`), what is not a quota."""

    def __init__(self, database: Database, quotas: WorkspaceQuotas, limits: Mapping[str, Most]) -> None:
        self._database = database
        self._quotas = quotas
        self._limits = limits

    async def measure(self, workspace: str) -> None:
        """Take the figures of a workspace, one query after the other, and keep them."""
        figures: list[View] = []
        for name, measure in measures.MEASURES.items():

            def unit(conn: Connection, measure: measures.Measure = measure) -> Amount:
                return measure(conn, workspace, self._database.now(conn))

            figures.append(self._figure(name, await self._database.read(unit)))
        await self._database.write(lambda c: rows.put_figures(c, self._database.now(c), workspace, figures))

    async def show(self, by: Principal, workspace_id: str | None, *, fresh: bool) -> View:
        """Of a workspace; for who administers the installation, its sums as well. `fresh`: taken now.

        Raises NotFound for a workspace that the principal doesn't look after.
        """
        workspace = looked_after(by, workspace_id)
        await self._database.read(lambda conn: keys.get_workspace(conn, workspace))
        found, now = await self._known(workspace)
        if not found or (fresh and now - found[0][2] > FRESH_SECONDS):
            await self.measure(workspace)
            found, now = await self._known(workspace)
        limits = await self._quotas.limits_of(workspace)
        used = await self._database.read(lambda conn: self._quotas.used_in(conn, now, workspace)["storage_bytes"])
        most = limits["storage_bytes"] or None
        _, stores, measured_at = found[0]
        every = await self._database.read(lambda c: rows.get_figures(c, None)) if by.administers_installation else []
        return {
            "type": "storage",
            "workspace_id": workspace,
            "measured_at": rfc3339_of(measured_at),
            "stores": stores,
            "quota": {"storage_bytes": most, "used_bytes": used, "share": _share(used, most)},
            "installation": _together(every) if every else None,
        }

    async def _known(self, workspace: str) -> tuple[list[tuple[str, list[View], float]], float]:
        return await self._database.read(lambda c: (rows.get_figures(c, workspace), self._database.now(c)))

    def _figure(self, name: str, amount: Amount) -> View:
        limit = self._limits.get(name)
        used: int | None = None
        if limit is not None:
            of_workspace = amount.bytes if limit.bytes is not None else amount.rows
            used = (amount.largest or 0) if limit.of == "session" else of_workspace
        most = None if limit is None else limit.bytes if limit.bytes is not None else limit.rows
        return {
            "store": name,
            "rows": amount.rows,
            "bytes": amount.bytes,
            "largest_session": amount.largest_session,
            "limit": None
            if limit is None
            else {
                "of": limit.of,
                "setting": limit.setting,
                "unit": "bytes" if limit.bytes is not None else "rows",
                "most": most,
                "used": used,
                "share": _share(used, most),
            },
        }


def _share(used: int | None, most: int | None) -> float | None:
    return None if used is None or not most else round(used / most, 4)


def _together(every: Sequence[tuple[str, list[View], float]]) -> View:
    """The sums over workspaces, and how old the oldest of the figures are."""
    stores: dict[str, View] = {}
    for _, figures, _ in every:
        for one in figures:
            into = stores.setdefault(one["store"], {"store": one["store"], "rows": 0, "bytes": None})
            into["rows"] += one["rows"]
            if one["bytes"] is not None:
                into["bytes"] = (into["bytes"] or 0) + one["bytes"]
    return {
        "workspaces": len(every),
        "measured_at": rfc3339_of(min(measured for _, _, measured in every)),
        "stores": list(stores.values()),
    }
