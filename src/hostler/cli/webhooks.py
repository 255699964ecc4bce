"""`hostler webhook`: make, list and try webhook endpoints, on a running server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import typer
from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.oversight import rows_of
from hostler.cli.problem import FAILED, spelled
from hostler.cli.terminal import plain_line

_PATH = "/hostler/v1/webhook_endpoints"
_EVERYTHING = "*"


def create(address: Address, target: str, *, events: Sequence[str], name: str, as_json: bool) -> None:
    """JSON: the endpoint as the API shows it, with its `signing_secret`, which is shown now and never again."""
    wanted = {"url": target, "enabled_events": list(events) or [_EVERYTHING], "name": name}
    made = _post(address, _PATH, wanted)
    if as_json:
        print(json.dumps(made))
        return
    _show_secret(made, "Try it: " + spelled(f"hostler webhook test {made['id']}"))


def list_all(address: Address, *, limit: int, as_json: bool) -> None:
    """JSON: `{"webhooks": [<endpoint of the API>, …]}`, newest first."""
    rows = rows_of(address, _PATH, limit)
    if as_json:
        print(json.dumps({"webhooks": rows}))
        return
    if not rows:
        terminal.out().print(f"No endpoints yet. Try: {spelled('hostler webhook create https://example.com/hooks')}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("endpoint", "name", "url", "events", "state"):
        table.add_column(title, no_wrap=title == "endpoint", overflow="fold")
    for row in rows:
        state = f"{row['state']} {plain_line(row['disabled_reason'], 60)}".strip()
        events = "all" if row["enabled_events"] == [_EVERYTHING] else ", ".join(row["enabled_events"])
        table.add_row(row["id"], plain_line(row["name"], 40), plain_line(row["url"], 200), events, state)
    terminal.out().print(table)


def test(address: Address, endpoint: str, *, event: str | None, as_json: bool) -> None:
    """JSON: the delivery as the API shows it. Exits with 1 when the endpoint did not take it."""
    delivery = _post(address, f"{_PATH}/{quote(endpoint, safe='')}/test", {} if event is None else {"type": event})
    if as_json:
        print(json.dumps(delivery))
    else:
        terminal.out().print(f"{delivery['event_type']}: {_outcome(delivery)}.", highlight=False)
    if delivery["state"] != "delivered":
        raise typer.Exit(FAILED)


def deliveries(address: Address, endpoint: str, *, limit: int, as_json: bool) -> None:
    """JSON: `{"deliveries": [<delivery of the API>, …]}`, newest first."""
    rows = rows_of(address, f"{_PATH}/{quote(endpoint, safe='')}/deliveries", limit)
    if as_json:
        print(json.dumps({"deliveries": rows}))
        return
    if not rows:
        terminal.out().print("Nothing was sent yet.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("when", "event", "tries", "outcome"):
        table.add_column(title, no_wrap=title == "when", overflow="fold")
    for row in rows:
        pretended = " (test)" if row["test"] else ""
        table.add_row(row["created_at"][:19], row["event_type"] + pretended, str(len(row["attempts"])), _outcome(row))
    terminal.out().print(table)


def rotate(address: Address, endpoint: str, *, grace_seconds: int, as_json: bool) -> None:
    """JSON: the endpoint as the API shows it, with its new `signing_secret`."""
    made = _post(address, f"{_PATH}/{quote(endpoint, safe='')}/rotate_secret", {"grace_seconds": grace_seconds})
    if as_json:
        print(json.dumps(made))
        return
    until = made["old_secret_expires_at"]
    _show_secret(made, f"The old one signs too until {until[:19]}." if until else "The old one is useless now.")


def _post(address: Address, path: str, body: Mapping[str, Any]) -> Any:
    with connected(address) as client:
        return client.post(path, body=dict(body), cast_to=object)


def _show_secret(made: Mapping[str, Any], more: str) -> None:
    print(made["signing_secret"])
    terminal.err().print(
        f"{made['id']} ({plain_line(made['url'], 200)}). Keep the secret now: it can't be shown again. {more}",
        style="dim",
        highlight=False,
    )


def _outcome(delivery: Mapping[str, Any]) -> str:
    """`delivered (204, 12 ms)`, for a person."""
    attempts = delivery["attempts"]
    if not attempts:
        return str(delivery["state"])
    last = attempts[-1]
    how = plain_line(last["error"], 100) if last["error"] else f"HTTP {last['status']}"
    return f"{delivery['state']} ({how}, {last['latency_ms']:.0f} ms)"
