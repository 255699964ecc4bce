"""`hostler limits`: rate limits on the road to the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.problem import WRONG, Problem
from hostler.cli.terminal import plain_line

_PATH = "/hostler/v1/rate_limits"


def show(address: Address, workspace: str | None, *, as_json: bool) -> None:
    """JSON: the limits, as the API shows them."""
    with connected(address) as client:
        found: dict[str, Any] = client.get(_PATH, cast_to=dict[str, Any], options={"params": _of(workspace)})
    _print(found, as_json=as_json)


def set_limits(
    address: Address, wanted: Mapping[str, str | None], agent: str | None, workspace: str | None, *, as_json: bool
) -> None:
    """JSON: the limits that follow, as the API shows them."""
    body: dict[str, Any] = _of(workspace)
    if agent is not None:
        body["agent_id"] = agent
    given = {name: text for name, text in wanted.items() if text is not None}
    if not given:
        raise Problem("nothing to set", next_command="hostler limits set --requests 50", code=WRONG)
    for name, text in given.items():
        if text != "none" and not (text.isascii() and text.isdigit() and int(text) > 0):
            option = f"--{name.replace('_', '-')}"
            raise Problem(
                f"{option} {text!r} is no whole number above 0, and not none",
                next_command=f"hostler limits set {option} 50",
                code=WRONG,
            )
        body[f"{name}_per_minute"] = None if text == "none" else int(text)
    with connected(address) as client:
        found: dict[str, Any] = client.post(_PATH, body=body, cast_to=dict[str, Any])
    _print(found, as_json=as_json)


def _print(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    console = terminal.out()
    own = [(f"workspace {found['workspace_id']}", found["limits"])]
    own += [(f"agent {each['agent_id']}", each["limits"]) for each in found["agents"]]
    table = _table("limits a minute of", "requests", "input tokens", "output tokens")
    for whose, limits in own:
        numbers = (limits[f"{kind}_per_minute"] for kind in ("requests", "input_tokens", "output_tokens"))
        table.add_row(whose, *("none" if number is None else f"{number:,}" for number in numbers))
    console.print(table)
    if found["buckets"]:
        console.print()
        table = _table("in use", "counts", "a minute", "left", "set", "learned", "closed until")
        for row in found["buckets"]:
            table.add_row(
                plain_line(_whose(row), 100),
                row["kind"].replace("_", " "),
                _number(row["per_minute"]),
                _number(row["level"]),
                _number(row["configured"]),
                _number(row["learned"]) + (f" ({row['learned_at'][:19]})" if row["learned_at"] else ""),
                (row["closed_until"] or "")[:19],
            )
        console.print(table)
    for row in found["waiting"]:
        console.print(
            f"{row['requests']:,} requests of {row['workspace_id']} wait for {plain_line(row['upstream'], 60)}, "
            f"the longest for {row['longest_seconds']:.0f} s.",
            markup=False,
        )
    if not found["complete"]:
        console.print("There are more than are shown.", style="dim")


def _whose(row: Mapping[str, Any]) -> str:
    match row["scope"]:
        case "upstream":
            return f"upstream {row['upstream']}"
        case "model":
            return f"{row['model']} at {row['upstream']}"
        case "agent":
            return f"agent {row['agent_id']}"
        case _:
            return f"workspace {row['workspace_id']}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _of(workspace: str | None) -> dict[str, Any]:
    return {} if workspace is None else {"workspace_id": workspace}


def _table(first: str, *names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    for name in names:
        table.add_column(name, overflow="fold", justify="left" if name in ("counts", "learned") else "right")
    return table
