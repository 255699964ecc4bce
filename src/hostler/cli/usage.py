"""`hostler usage` and `hostler prices`: what was used and what it cost, as a table, JSON, CSV or a picture."""

from __future__ import annotations

import csv
import json
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.costplot import Bar, draw
from hostler.cli.oversight import rows_of
from hostler.cli.problem import WRONG, Problem
from hostler.cli.terminal import plain, plain_line
from hostler.domain.clock import SystemClock, parse_rfc3339, rfc3339

_PAGE = 1000
_NUMBERS = (
    "requests",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_5m_input_tokens",
    "cache_creation_1h_input_tokens",
    "web_search_requests",
    "unpriced_requests",
    "result_bytes",
    "active_seconds",
    "model_cost_usd",
    "runtime_cost_usd",
    "list_cost_usd",
)
_NONE = "—"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the report is about."""

    by: tuple[str, ...]
    since: str | None
    until: str | None
    filters: Mapping[str, str | None]
    limit: int


def show(address: Address, asked: Asked, *, as_json: bool, as_csv: bool, plot: Path | None) -> None:
    """JSON: `{"usage": [<row of the API>, …], "more"}`. CSV: a column for each key and number."""
    if plot is not None and plot.suffix.lower() != ".svg":
        raise Problem(
            f"--plot {plot.name}: only SVG is drawn; any browser shows it, and Inkscape makes a PNG of it",
            next_command=f"--plot {plot.with_suffix('.svg')}",
            code=WRONG,
        )
    rows, more = _rows(address, asked)
    if plot is not None:
        try:
            plot.write_text(draw(_title(asked), [_bar(row) for row in rows]), "utf-8")
        except OSError as error:
            raise Problem(
                f"--plot {plot}: can't be written: {error.strerror}", next_command=f"--plot {plot.name}", code=WRONG
            ) from error
    if as_json:
        print(json.dumps({"usage": rows, "more": more}))
    elif as_csv:
        write_csv(sys.stdout, asked.by, rows)
    else:
        _table(asked, rows)
    console = terminal.err() if as_json or as_csv else terminal.out()
    if more:
        console.print(f"There are more groups than {asked.limit}: narrow it down, or raise --limit.", style="dim")
    if plot is not None:
        console.print(f"Drawn into {plot}", style="dim")


def write_csv(file: Any, by: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """One line for each group. Names are from inside sandboxes: none of them becomes a formula of a spreadsheet."""
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow([*by, *_NUMBERS])
    for row in rows:
        keys = [harmless(row["group"][key] or "") for key in by]
        lines.writerow([*keys, *(row[name] for name in _NUMBERS)])


def harmless(text: str) -> str:
    """The text as a spreadsheet shows it, and never runs it, and as a terminal may be told it (attack E3)."""
    shown = plain(text).replace("\n", " ").replace("\t", " ")
    # Some take the wide forms of these signs for them, too.
    first = unicodedata.normalize("NFKC", shown[:64]).lstrip()
    return "'" + shown if first.startswith(("=", "+", "-", "@", "|", "%")) or shown != text else shown


def show_mismatches(address: Address, workspace: str | None, session: str | None, *, limit: int, as_json: bool) -> None:
    """JSON: `{"mismatches": [<row of the API>, …]}`."""
    rows = rows_of(address, "/hostler/v1/usage/mismatches", limit, workspace_id=workspace, session_id=session)
    if as_json:
        print(json.dumps({"mismatches": rows}))
        return
    console = terminal.out()
    if not rows:
        console.print("All ledgers agreed.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("when", "session", "kind", "difference"):
        table.add_column(title, no_wrap=title != "difference", overflow="fold")
    for row in rows:
        difference = ", ".join(f"{name} {number:+d}" for name, number in row["details"].items())
        table.add_row(row["created_at"][:19], row["session_id"], row["kind"], plain_line(difference, 300))
    console.print(table)


def show_prices(address: Address, *, as_json: bool) -> None:
    """JSON: the answer of the API."""
    with connected(address) as client:
        found: Any = client.get("/hostler/v1/prices", cast_to=object)
    if as_json:
        print(json.dumps(found))
        return
    console = terminal.out()
    console.print(f"List prices {plain_line(found['version'], 80)}, USD for a million tokens")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model", no_wrap=True)
    table.add_column("from")
    for title in ("input", "output", "cache read", "write 5m", "write 1h"):
        table.add_column(title, justify="right")
    table.add_column("source")
    for row in found["models"]:
        kinds = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
        name, source = plain_line(row["model"], 60), plain_line(row["source"], 40)
        table.add_row(name, row["from"] or "", *(row[kind] for kind in kinds), source)
        if row["long"] is not None:
            table.add_row(f"  above {row['long_above']} tokens", "", *(row["long"][kind] for kind in kinds), "")
    console.print(table)
    for tool in found["server_tools"]:
        each = Decimal(tool["usd_per_1000"]).normalize()
        since = f" from {tool['from']}" if tool["from"] else ""
        console.print(f"{tool['tool']}: {each:f} for a thousand{since} ({plain_line(tool['source'], 40)})")
    console.print(f"running time: {Decimal(found['runtime_usd_per_hour']).normalize():f} an hour")
    for name, said in found["sources"].items():
        console.print(f"{plain_line(name, 40)}: {plain_line(said, 300)}", style="dim")


def moment(text: str | None, option: str, now: datetime) -> str | None:
    """A day, a moment or an age, as the API wants it."""
    if text is None:
        return None
    if found := re.fullmatch(r"(?:last-)?([0-9]{1,5})([wdhm])", text):
        unit = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes"}[found[2]]
        return rfc3339(now - timedelta(**{unit: int(found[1])}))
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return rfc3339(datetime.fromisoformat(text).replace(tzinfo=UTC))
        return rfc3339(parse_rfc3339(text))
    except (ValueError, OverflowError):
        wrong = f"{option} {text!r} is no time: write 2026-01-31, 2026-01-31T12:00:00Z, or 7d, 12h, 30m for an age"
        raise Problem(wrong, next_command=f"{option} 7d", code=WRONG) from None


def _rows(address: Address, asked: Asked) -> tuple[list[dict[str, Any]], bool]:
    """The groups over all pages, at most as many as asked for, and whether there are more."""
    now = SystemClock().now()
    filters: dict[str, Any] = {name: value for name, value in asked.filters.items() if value is not None}
    since, until = moment(asked.since, "--since", now), moment(asked.until, "--until", now)
    if since is not None and until is not None and parse_rfc3339(since) >= parse_rfc3339(until):
        wrong = (
            f"nothing is between --since {asked.since} and --until {asked.until}: the first is not before the second"
        )
        raise Problem(wrong, next_command=f"--since {asked.until} --until {asked.since}", code=WRONG)
    filters |= {f"created_at[{name}]": at for name, at in (("gte", since), ("lt", until)) if at is not None}
    rows: list[dict[str, Any]] = []
    after: str | None = None
    with connected(address) as client:
        while len(rows) < asked.limit:
            query = {**filters, "group_by": list(asked.by), "limit": min(_PAGE, asked.limit - len(rows))}
            if after is not None:
                query["page"] = after
            answer: Any = client.get("/hostler/v1/usage", cast_to=object, options={"params": query})
            rows += answer["data"]
            after = answer["next_page"]
            if after is None:
                return rows, False
    return rows, True


def _table(asked: Asked, rows: Sequence[Mapping[str, Any]]) -> None:
    console = terminal.out()
    if not rows:
        console.print("Nothing was used.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim", show_footer=True)
    sums = {name: sum((Decimal(str(row[name])) for row in rows), Decimal()) for name in _NUMBERS}
    tools = "tool" in asked.by
    for place, key in enumerate(asked.by):
        table.add_column(key, footer="together" if place == 0 else "", overflow="fold")
    table.add_column("requests", justify="right", footer="" if tools else f"{sums['requests']:,f}")
    written = ("cache_creation_5m_input_tokens", "cache_creation_1h_input_tokens")
    table.add_column("input", justify="right", footer=f"{sums['input_tokens']:,f}")
    table.add_column("read", justify="right", footer=f"{sums['cache_read_input_tokens']:,f}")
    table.add_column("written", justify="right", footer=f"{sum(sums[name] for name in written):,f}")
    table.add_column("output", justify="right", footer=f"{sums['output_tokens']:,f}")
    table.add_column("hours", justify="right", footer=f"{sums['active_seconds'] / 3600:.2f}")
    table.add_column("USD", justify="right", footer=f"{sums['list_cost_usd']:.4f}")
    for row in rows:
        table.add_row(
            *(plain_line(row["group"][key] or _NONE, 60) for key in asked.by),
            f"{row['requests']:,}",
            f"{row['input_tokens']:,}",
            f"{row['cache_read_input_tokens']:,}",
            f"{sum(row[name] for name in written):,}",
            f"{row['output_tokens']:,}",
            f"{row['active_seconds'] / 3600:.2f}",
            f"{Decimal(row['list_cost_usd']):.4f}" + ("+?" if row["unpriced_requests"] else ""),
        )
    console.print(table)
    if sums["unpriced_requests"]:
        console.print("+?: and requests to models without a price. Give them one: prices.file", style="dim")


def _title(asked: Asked) -> str:
    times = [f"{word} {text}" for word, text in (("since", asked.since), ("until", asked.until)) if text]
    return " ".join([f"Cost by {' and '.join(asked.by)}", *times])


def _bar(row: Mapping[str, Any]) -> Bar:
    name = " · ".join(value or _NONE for value in row["group"].values())
    return Bar(name, Decimal(row["model_cost_usd"]), Decimal(row["runtime_cost_usd"]))
