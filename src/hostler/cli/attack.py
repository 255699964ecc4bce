"""`hostler doctor --attack`: which attacks does this host withstand?

Exit code 1 when an attack succeeded where it was promised that it fails, or a critical one could not be made. JSON:
`{"ok": bool, "runs": [a result as it is kept], "left_out": {technology: why}}`.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from hostler.cli import terminal
from hostler.cli.problem import FAILED
from hostler.cli.terminal import plain_line

if TYPE_CHECKING:
    from hostler.attacks.cases import Outcome
    from hostler.attacks.runner import Report
    from hostler.config import Settings
    from hostler.engine.sandbox_port import Technology

_STYLES = {"held": "green", "broken": "bold red", "not_run": "yellow", "not_promised": "dim"}


def attack(settings: Settings, *, technology: Technology | None, as_json: bool) -> int:
    from hostler.compose.attacks import attack_host
    from hostler.compose.terminable import run

    console = terminal.nowhere() if as_json else terminal.out()
    at = ""

    def told(target: str, outcome: Outcome) -> None:
        nonlocal at
        if target != at:
            at = target
            console.print(Text(f"attacking {target} …", style="dim"))
        if outcome.verdict in ("broken", "not_run"):
            console.print(_line(outcome))

    reports, left_out = run(attack_host(settings, technology=technology, told=told))
    failed = any(report.broken() or _unknown(report) for report in reports)
    if as_json:
        print(json.dumps({"ok": not failed, "runs": _runs(reports), "left_out": left_out}))
    else:
        console.print(_table(reports))
        for name, why in left_out.items():
            if technology is None:
                console.print(Text(f"{name} was left out: {plain_line(why, 300)}", style="dim"))
        console.print(_sum(reports, failed=failed))
    return FAILED if failed else 0


def _unknown(report: Report) -> bool:
    return any(outcome.case.severity == "critical" for outcome in report.unproved())


def _line(outcome: Outcome) -> Text:
    case = outcome.case
    line = Text(f"{outcome.verdict.replace('_', ' '):<8}", style=_STYLES[outcome.verdict])
    line.append(f"{case.id} ", style="bold")
    line.append(f"{case.title} ({case.severity}): {plain_line('; '.join(outcome.found), 300)}")
    return line


def _runs(reports: Sequence[Report]) -> list[dict[str, object]]:
    from hostler.attacks.results import as_json
    from hostler.domain.clock import SystemClock, rfc3339

    version, at = importlib.metadata.version("hostler"), rfc3339(SystemClock().now())
    return [as_json(report, version, at) for report in reports]


def _table(reports: Sequence[Report]) -> Table:
    from hostler.attacks.cases import CLASSES

    table = Table(title=None, show_edge=False, pad_edge=False)
    table.add_column("class")
    table.add_column("attack")
    for report in reports:
        table.add_column(report.target, justify="right")
    for name, title in CLASSES.items():
        cells = [_cell(report, name) for report in reports]
        if any(cell.plain for cell in cells):
            table.add_row(name, title, *cells)
    return table


def _cell(report: Report, attack_class: str) -> Text:
    """`12` held; `11, 1 broken`; `9, 3 not promised`."""
    counts: dict[str, int] = {}
    for outcome in report.outcomes:
        if outcome.case.attack_class == attack_class:
            counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
    parts = []
    for verdict in ("held", "broken", "not_run", "not_promised"):
        if verdict in counts:
            words = f"{counts[verdict]}" if verdict == "held" else f"{counts[verdict]} {verdict.replace('_', ' ')}"
            parts.append(Text(words, style=_STYLES[verdict]))
    return Text(", ").join(parts)


def _sum(reports: Sequence[Report], *, failed: bool) -> Text:
    total: Mapping[str, int] = {
        verdict: sum(outcome.verdict == verdict for report in reports for outcome in report.outcomes)
        for verdict in _STYLES
    }
    said = ", ".join(f"{number} {verdict.replace('_', ' ')}" for verdict, number in total.items() if number)
    return Text(said, style="bold red" if failed else "green")
