"""`hostler routing` and `hostler sessions requests`: which model answered or would answer, why, and for how much."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.oversight import rows_of
from hostler.cli.problem import WRONG, Problem
from hostler.cli.terminal import plain_line


def rules_of(path: Path) -> dict[str, Any]:
    """An agent's `routing`: alone, in an agent, or only its rules. Raises Problem for a file that holds none."""
    try:
        found = json.loads(sys.stdin.read() if str(path) == "-" else path.read_text())
    except (OSError, ValueError) as error:
        raise _wrong(f"--rules {path} can't be read as JSON: {error}") from error
    if isinstance(found, list):
        return {"rules": found}
    if isinstance(found, dict):
        routing = found.get("routing", found)
        if isinstance(routing, dict):
            return routing
    raise _wrong(f"--rules {path} must hold an object with `rules`, or an array of rules")


def tags_of(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise _wrong(f"--tag {pair!r} has no value; write KEY=VALUE")
    return {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}


def explain(address: Address, body: Mapping[str, Any], *, as_json: bool) -> None:
    """JSON: the answer of the API."""
    answer = _post(address, "/hostler/v1/routing/explain", body)
    if as_json:
        print(json.dumps(answer))
        return
    console = terminal.out()
    console.print(f"{answer['model']} answers a request for {answer['requested_model']}.")
    console.print(plain_line(f"Why: {answer['why']}", 500))
    if answer["fallbacks"]:
        console.print(f"If it can't: {', '.join(answer['fallbacks'])}")
    if answer["rules"]:
        table = _table("rule", "outcome", "why")
        for rule in answer["rules"]:
            table.add_row(rule["rule"], rule["outcome"], plain_line(rule["why"], 300))
        console.print(table)


def compare(address: Address, body: Mapping[str, Any], names: Sequence[str], *, as_json: bool) -> None:
    """JSON: the answer of the API."""
    answer = _post(address, "/hostler/v1/routing/compare", body)
    if as_json:
        print(json.dumps(answer))
        return
    console = terminal.out()
    table = _table("rules", "cost in USD", "against recorded", "other model", "without a price")
    recorded = answer["recorded"]
    for name, sums in (("as recorded", recorded), *zip(names, answer["sets"], strict=True)):
        table.add_row(
            plain_line(name, 60),
            dollars(sums["cost_nanos"]),
            _share(sums["cost_nanos"], recorded["cost_nanos"]),
            f"{sums['changed']} of {sums['attempts']}",
            str(sums["unpriced_attempts"]),
        )
    console.print(table)
    for name, sums in zip(names, answer["sets"], strict=True):
        models = ", ".join(f"{m['model']} {m['attempts']} ({dollars(m['cost_nanos'])})" for m in sums["by_model"])
        console.print(plain_line(f"{name}: {models}", 500), style="dim")
    console.print(f"{answer['since'][:19]} to {answer['until'][:19]}. {answer['caveat']}", style="dim")
    if answer["without_tags"]:
        console.print(
            f"{answer['without_tags']} attempts are of sessions that were deleted: their tags are not known.",
            style="yellow",
        )
    if not answer["complete"]:
        console.print(
            f"Only the newest {answer['attempts']} attempts were looked at; choose a later --since.", style="yellow"
        )


def requests(address: Address, session: str, *, limit: int, as_json: bool) -> None:
    """JSON: `{"requests": [<request of the API>, …]}`."""
    rows = rows_of(address, f"/hostler/v1/sessions/{session}/requests", limit)
    if as_json:
        print(json.dumps({"requests": rows}))
        return
    console = terminal.out()
    if not rows:
        console.print("No model request is recorded.")
        return
    table = _table("when", "thread", "model", "upstream", "status", "USD", "rule", "why")
    for row in rows:
        thread = row["thread"] if row["purpose"] == "turn" else f"{row['thread']}, {row['purpose']}"
        model = row["model"]
        if row["requested_model"] != model:
            model = f"{model} (asked: {row['requested_model']})"
        table.add_row(
            row["created_at"][:19],
            plain_line(thread, 40),
            plain_line(model, 100),
            plain_line(row["upstream"], 30),
            (str(row["status"]) if row["status"] else "no answer")
            + (f" (attempt {row['attempt']})" if row["attempt"] > 1 else ""),
            "unknown" if row["cost_nanos"] is None else dollars(row["cost_nanos"]),
            plain_line(row["rule"] or "", 64),
            plain_line(row["why"], 300),
        )
    console.print(table)


def dollars(nanos: int) -> str:
    """Six decimals: small requests cost millionths."""
    return f"{Decimal(nanos).scaleb(-9):.6f}"


def _share(nanos: int, of: int) -> str:
    return f"{100 * nanos / of:.0f} %" if of else "-"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(title, no_wrap=title in ("when", "rule", "outcome", "USD"), overflow="fold")
    return table


def _post(address: Address, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    with connected(address) as client:
        answer: Any = client.post(path, cast_to=object, body=body)
    return dict(answer)


def _wrong(message: str) -> Problem:
    return Problem(message, next_command="hostler routing --help", code=WRONG)
