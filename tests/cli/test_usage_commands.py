"""`hostler usage` and `hostler prices`: against a real server, and what they make of hostile names."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cli_processes import Server

from hostler.cli.costplot import Bar, draw
from hostler.cli.usage import harmless, write_csv


def test_what_a_session_cost_is_shown_in_every_form(server: Server, tmp_path: Path) -> None:
    server.hostler("run", "Say hello", "--json")
    rows = server.hostler("usage", "--by", "model", "--by", "session", "--json").json["usage"]
    spent = next(row for row in rows if row["group"]["model"])
    assert spent["requests"] >= 1
    assert Decimal(spent["list_cost_usd"]) > 0
    timed = next(row for row in rows if row["group"]["session"] == spent["group"]["session"] and not row["requests"])
    assert timed["active_seconds"] > 0
    assert Decimal(timed["runtime_cost_usd"]) > 0

    picture = tmp_path / "cost.svg"
    shown = server.hostler("usage", "--since", "1d", "--plot", str(picture))
    assert (shown.code, "together" in shown.out, "Drawn into" in shown.out) == (0, True, True)
    assert ET.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    lines = list(csv.DictReader(io.StringIO(server.hostler("usage", "--by", "day", "--csv").out)))
    assert int(lines[0]["requests"]) >= 1
    assert server.hostler("usage", "--until", "2026-01-01").out.strip() == "Nothing was used."
    assert server.hostler("usage", "--mismatches").out.strip() == "All ledgers agreed."
    assert server.hostler("usage", "--since", "last-2w", "--json").json["usage"]
    nowhere = tmp_path / "nowhere" / "cost.svg"
    for wrong, said in (
        (("--since", "yesterday"), "is no time"),
        (("--since", "2026-02-01", "--until", "2026-01-01"), "try: --since 2026-01-01 --until 2026-02-01"),
        (("--plot", "cost.gif"), "only SVG"),
        (("--plot", str(nowhere)), f"--plot {nowhere}: can't be written: No such file or directory"),
        (("--csv", "--json"), "ask for one"),
        (("--mismatches", "--csv"), "--csv doesn't go with it"),
    ):
        refused = server.hostler("usage", *wrong)
        assert refused.code == 2
        assert said in refused.err
    moon = server.hostler("usage", "--by", "moon")
    assert (moon.code, "try: hostler usage --help" in moon.err) == (1, True)

    prices = server.hostler("prices")
    assert (prices.code, "claude-opus-5-5" in prices.out, "running time: 0.08" in prices.out) == (0, True, True)
    assert server.hostler("prices", "--json").json["type"] == "prices"


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "|x", "%x", "a\n=1", "\u200b=1", "\uff1d1", "\x1b[2J"]
)
def test_no_name_becomes_a_formula(name: str) -> None:
    """Attack E3."""
    assert harmless(name).startswith("'")
    assert not set("\r\n\t\x1b") & set(harmless(name))
    file = io.StringIO()
    numbers: dict[str, Any] = {}
    write_csv(file, ["model"], [_row({"model": name}, numbers)])
    _, line = list(csv.reader(io.StringIO(file.getvalue())))
    assert line[0][0] == "'"


def test_harmless_names_stay_as_they_are() -> None:
    assert harmless("claude-opus-5-5") == "claude-opus-5-5"
    assert harmless("srv/find") == "srv/find"
    assert harmless("") == ""


def test_a_picture_holds_hostile_names_and_any_number_of_groups() -> None:
    bars = [Bar(f"<script>&\x00\u202e{n}", Decimal(n), Decimal(1)) for n in range(200)]
    root = ET.fromstring(draw("<b>", bars))
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert any(text.startswith("<script>&199") for text in texts)
    assert "141 others" in texts
    assert not any(element.tag.endswith("script") for element in root.iter())
    widths = [float(element.get("width", "0")) for element in root.iter() if element.tag.endswith("rect")]
    assert all(0 <= width <= 900 for width in widths)
    # The longest bar ends where the scale does, or before.
    ends = [float(element.get("x1", "0")) for element in root.iter() if element.tag.endswith("line")]
    assert 260 + max(width for width in widths if width < 900) <= max(ends)
    for few in ([], [Bar("a", Decimal(), Decimal())], [Bar("a", Decimal("0.000000001"), Decimal())]):
        ET.fromstring(draw("t", few))


def _row(group: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    from hostler.cli.usage import _NUMBERS

    return {"group": group, **dict.fromkeys(_NUMBERS, 0), **numbers}
