"""Which endpoints of the contract work, and which test says so? Writes `docs/reference/compatibility.md`.

`python -m hostler.testing.scorecard` writes the page from the `endpoint` markers of the tests; with `--check` it only
compares, and fails when the page is stale. Run it in the project's directory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

from hostler.api.app import served_methods
from hostler.api.contract import BY_METHOD, CONTRACT, Endpoint

PAGE: Final = Path("docs/reference/compatibility.md")
SHOWN_TESTS: Final = 3
_TIERS: Final = {
    "1a": "the core loop",
    "1b": "data that agents work with",
    "2": "operations",
    "3": "advanced",
    "X": "only meaningful in Anthropic's cloud",
}


class StrayMarker(Exception):
    """A test names an endpoint that is not in the contract, or one that is not served."""


def proofs(tests: Path) -> dict[str, list[str]]:
    """Tests by the SDK method that they prove, as `file::test`. Raises StrayMarker, or SystemExit when nothing can be
    collected."""
    import pytest

    found: dict[str, list[str]] = {}

    class Collector:
        def pytest_collection_modifyitems(self, items: Sequence[Any]) -> None:
            for item in items:
                name = item.nodeid.partition("[")[0]
                for marker in item.iter_markers("endpoint"):
                    for method in marker.args:
                        known = found.setdefault(method, [])
                        if name not in known:
                            known.append(name)

    # This process has imported what pytest would like to rewrite; for collecting that doesn't matter.
    quiet = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    with redirect_stdout(StringIO()) as said:
        status = pytest.main(["--collect-only", "-qq", *quiet, str(tests)], plugins=[Collector()])
    if status != 0:
        raise SystemExit(f"{said.getvalue()}\nscorecard: the tests can't be collected (pytest said {status})")
    stray = sorted(set(found) - served_methods())
    if stray:
        reason = "is not in the contract" if stray[0] not in BY_METHOD else "is not served"
        raise StrayMarker(f"{found[stray[0]][0]} is marked for {stray[0]}, which {reason}")
    return {method: sorted(names) for method, names in found.items()}


def render(proved: Mapping[str, Sequence[str]]) -> str:
    """The page."""
    served = served_methods()
    passing = [row for row in CONTRACT if row.method in proved]
    lines = [
        "# Compatibility with the Claude Managed Agents API",
        "",
        "Made by `scripts/scorecard` from the tests; `scripts/scorecard --check` fails when it is stale. One row",
        "for each endpoint of the contract.",
        "",
        f"**{len(passing)} of {len(CONTRACT)} endpoints pass.** *passes*: at least one test drives the endpoint with",
        "the official client and strict validation. *501*: the endpoint answers that it is not built.",
        "",
        "| tier | meaning | passes | of |",
        "| --- | --- | --- | --- |",
    ]
    for tier, meaning in _TIERS.items():
        rows = [row for row in CONTRACT if row.tier == tier]
        lines.append(f"| {tier} | {meaning} | {sum(row in passing for row in rows)} | {len(rows)} |")
    lines += ["", "| endpoint | tier | method | state | proved by |", "| --- | --- | --- | --- | --- |"]
    for row in CONTRACT:
        lines.append(_row(row, proved.get(row.method, ()), row.method in served))
    return "\n".join(lines) + "\n"


def _row(row: Endpoint, tests: Sequence[str], served: bool) -> str:
    state = "passes" if tests else "served, not proved" if served else "501"
    shown = [f"`{name}`" for name in tests[:SHOWN_TESTS]]
    if len(tests) > SHOWN_TESTS:
        shown.append(f"and {len(tests) - SHOWN_TESTS} more")
    return f"| `{row.verb} {row.path}` | {row.tier} | `{row.method}` | {state} | {'<br>'.join(shown)} |"


def main(arguments: Sequence[str]) -> int:
    """0: written, or up to date; 1: stale or a stray marker; 2: wrong arguments."""
    if list(arguments) not in ([], ["--check"]):
        print("usage: scorecard [--check]", file=sys.stderr)
        return 2
    try:
        page = render(proofs(Path("tests")))
    except StrayMarker as error:
        print(f"scorecard: {error}", file=sys.stderr)
        return 1
    if not arguments:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page)
        print(f"{PAGE} written")
        return 0
    if not PAGE.exists() or PAGE.read_text() != page:
        print(f"scorecard: {PAGE} is stale; run scripts/scorecard", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
