"""`hostler storage` and `hostler retention`: how much a running server keeps, and what it removes."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.oversight import rows_of
from hostler.cli.problem import WRONG, Problem
from hostler.cli.terminal import plain_line

_LOOK_SECONDS = 0.5
_PATH = "/hostler/v1/retention"


def show(address: Address, workspace: str | None, *, as_json: bool) -> None:
    """JSON: the policies, as the API shows them."""
    with connected(address) as client:
        found: dict[str, Any] = client.get(_PATH, cast_to=dict[str, Any], options={"params": _of(workspace)})
    _print_policies(found, as_json=as_json)


def set_days(address: Address, policy: str, days: str, workspace: str | None, *, as_json: bool) -> None:
    """JSON: the policies that follow, as the API shows them."""
    wanted: int | None
    if days == "default":
        wanted = None
    elif days == "never":
        wanted = 0
    elif days.isdigit() and int(days) > 0:
        wanted = int(days)
    else:
        raise Problem(f"{days!r} is no number of days", next_command=f"hostler retention set {policy} 30", code=WRONG)
    body = {policy: wanted, **_of(workspace)}
    with connected(address) as client:
        found: dict[str, Any] = client.post(_PATH, body=body, cast_to=dict[str, Any])
    _print_policies(found, as_json=as_json)


def _print_policies(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    table = _table("policy", "after", "removes")
    for row in found["policies"]:
        after = "never" if row["days"] is None else f"{row['days']} d"
        table.add_row(row["name"], after + (" (its own)" if row["overridden"] else ""), row["removes"])
    console = terminal.out()
    console.print(table)
    every = found["every_seconds"]
    when = f"every {every / 60:g} minutes" if every else "only when somebody asks"
    console.print(f"Looked for {when}. The bill is never removed.", style="dim")


def run(address: Address, workspace: str | None, *, dry_run: bool, as_json: bool) -> int:
    """JSON: the run, as the API shows it. Gives the exit code."""
    body = {"dry_run": dry_run, **_of(workspace)}
    with connected(address) as client:
        done: dict[str, Any] = client.post(f"{_PATH}/runs", body=body, cast_to=dict[str, Any])
        while done["state"] == "running":
            time.sleep(_LOOK_SECONDS)
            done = client.get(f"{_PATH}/runs/{done['id']}", cast_to=dict[str, Any])
    if as_json:
        print(json.dumps(done))
    else:
        _print_run(done)
    return 0 if done["state"] == "completed" else 1


def _print_run(done: dict[str, Any]) -> None:
    console = terminal.out()
    rows = [row for row in done["removed"] if row["items"]]
    if rows:
        table = _table("policy", "older than", "items", "bytes", "oldest", "such as")
        for row in rows:
            sizes = (f"{row['items']:,}", f"{row['bytes']:,}", (row["oldest"] or "")[:19])
            table.add_row(row["policy"], f"{row['days']} d", *sizes, plain_line(", ".join(row["sample"][:2]), 70))
        console.print(table)
    what = f"{done['items']:,} items, {done['bytes']:,} bytes"
    if done["state"] == "completed":
        said = "would be removed. Nothing was." if done["dry_run"] else "were removed."
        console.print(f"{what} {said}" if rows else "Nothing is over.")
    elif done["state"] == "stopped":
        console.print(f"Stopped after {what}: the days were changed meanwhile. The next run takes the new ones.")
    else:
        console.print(plain_line(f"Failed after {what}: {done['reason']}", 500), markup=False)


def history(address: Address, workspace: str | None, *, limit: int, as_json: bool) -> None:
    """Newest first. JSON: `{"runs": [<run of the API>, …]}`."""
    rows = rows_of(address, f"{_PATH}/runs", limit, workspace_id=workspace)
    if as_json:
        print(json.dumps({"runs": rows}))
        return
    if not rows:
        terminal.out().print("Nothing was removed yet.")
        return
    table = _table("when", "run", "why", "how it went", "items", "bytes")
    for row in rows:
        state = row["state"] + (" (dry)" if row["dry_run"] else "")
        table.add_row(row["created_at"][:19], row["id"], row["cause"], state, f"{row['items']:,}", f"{row['bytes']:,}")
    terminal.out().print(table)


def storage(address: Address, workspace: str | None, *, fresh: bool, as_json: bool) -> None:
    """JSON: the figures, as the API shows them."""
    query = {**_of(workspace), **({"fresh": "true"} if fresh else {})}
    with connected(address) as client:
        found: dict[str, Any] = client.get("/hostler/v1/storage", cast_to=dict[str, Any], options={"params": query})
    if as_json:
        print(json.dumps(found))
        return
    table = _table("what", "rows", "bytes", "limit", "used of it", "everywhere")
    everywhere = {row["store"]: row for row in (found["installation"] or {"stores": []})["stores"]}
    for row in found["stores"]:
        limit = row["limit"]
        of = "" if limit is None else f"{limit['most']:,} {limit['unit']} of a {limit['of']}"
        share = "" if limit is None or limit["share"] is None else f"{limit['share']:.1%}"
        total = everywhere.get(row["store"], {}).get("rows")
        table.add_row(
            row["store"], f"{row['rows']:,}", _size(row["bytes"]), of, share, "" if total is None else f"{total:,} rows"
        )
    console = terminal.out()
    console.print(table)
    quota = found["quota"]
    most = "no limit" if quota["storage_bytes"] is None else f"{quota['storage_bytes']:,} allowed"
    console.print(f"Counted as storage_bytes: {quota['used_bytes']:,}, {most}. Taken {found['measured_at'][:19]}.")


def _size(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _of(workspace: str | None) -> dict[str, Any]:
    return {} if workspace is None else {"workspace_id": workspace}


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        number = name in ("rows", "bytes", "items", "used of it")
        table.add_column(name, overflow="fold", justify="right" if number else "left")
    return table
