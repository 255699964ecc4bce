"""`hostler budget`: make, list, change and remove budgets, on a running server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.oversight import rows_of
from hostler.cli.problem import WRONG, Problem, spelled

_PATH = "/hostler/v1/budgets"


def create(
    address: Address, dollars: str, *, agent: str | None, period: str, warn_at: Sequence[int], as_json: bool
) -> None:
    """JSON: the budget as the API shows it."""
    wanted: dict[str, Any] = {
        "scope": "workspace" if agent is None else "agent",
        "period": period,
        "limit": _amount(dollars),
        "warn_at": sorted(set(warn_at)),
    }
    if agent is not None:
        wanted["agent_id"] = agent
    _print(_post(address, _PATH, wanted), as_json=as_json)


def list_all(address: Address, *, limit: int, as_json: bool) -> None:
    """JSON: `{"budgets": [<budget of the API>, …]}`, newest first."""
    rows = rows_of(address, _PATH, limit)
    if as_json:
        print(json.dumps({"budgets": rows}))
        return
    if not rows:
        terminal.out().print(f"No budgets yet. Try: {spelled('hostler budget create 50 --warn-at 80')}")
        return
    _table(rows)


def show(address: Address, budget: str, *, as_json: bool) -> None:
    """JSON: the budget as the API shows it."""
    with connected(address) as client:
        found: Any = client.get(_of(budget), cast_to=object)
    _print(found, as_json=as_json)


def change(address: Address, budget: str, dollars: str | None, *, warn_at: Sequence[int] | None, as_json: bool) -> None:
    """JSON: the budget as the API shows it."""
    wanted: dict[str, Any] = {}
    if dollars is not None:
        wanted["limit"] = _amount(dollars)
    if warn_at:
        wanted["warn_at"] = sorted(set(warn_at))
    if not wanted:
        raise Problem(
            "nothing was said to change", next_command=f"hostler budget change {budget} --limit 100", code=WRONG
        )
    _print(_post(address, _of(budget), wanted), as_json=as_json)


def remove(address: Address, budget: str, *, as_json: bool) -> None:
    """JSON: `{"id", "type": "budget_deleted"}`."""
    with connected(address) as client:
        done: Any = client.delete(_of(budget), cast_to=object)
    if as_json:
        print(json.dumps(done))
    else:
        terminal.out().print(f"{budget} is removed.", highlight=False)


def _of(budget: str) -> str:
    return f"{_PATH}/{quote(budget, safe='')}"


def _amount(dollars: str) -> dict[str, str]:
    try:
        cents = Decimal(dollars.removeprefix("$")) * 100
        whole = int(cents)
    except (InvalidOperation, ValueError, OverflowError):
        cents, whole = Decimal(0), 0
    if whole <= 0 or whole != cents:
        raise Problem(
            f"{dollars!r} is no amount of dollars and whole cents above 0",
            next_command="hostler budget create 12.50",
            code=WRONG,
        )
    return {"amount": str(whole), "currency": "USD"}


def _post(address: Address, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    with connected(address) as client:
        answer: Any = client.post(path, body=dict(body), cast_to=object)
    return dict(answer)


def _print(budget: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(budget))
    else:
        _table([budget])


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("budget", "of", "period", "limit", "spent", "maybe spent", "set aside", "waiting"):
        table.add_column(title, no_wrap=title == "budget", overflow="fold")
    for row in rows:
        table.add_row(
            row["id"],
            row["agent_id"] or "workspace",
            row["month"] or "total",
            f"${Decimal(row['limit']['amount']) / 100:.2f}",
            *(_dollars(row[name]) for name in ("spent_nanos", "uncertain_nanos", "reserved_nanos")),
            str(row["paused_sessions"]),
        )
    terminal.out().print(table)


def _dollars(nanos: int) -> str:
    return f"${Decimal(nanos) / 1_000_000_000:.4f}"
