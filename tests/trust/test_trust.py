"""Programs in a sandbox take the certificates of their session's authority, and only because they were told to."""

from __future__ import annotations

from pathlib import Path

import pytest
from trustkit import ABSENT, CLIENTS, PAGE, Client, egress_road, open_bench, variable_rows

from hostler.engine.trust import VARIABLES

QUICK = ("curl", "git", "Python urllib")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page."""
    lines = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_page_names_the_variables_and_programs_of_the_code() -> None:
    assert [f"| {' | '.join(row)} |" for row in rows("Variables")] == variable_rows()
    measured = rows("What was measured")
    assert [row[0] for row in measured] == [client.name for client in CLIENTS]
    assert [row[3] for row in measured] == [", ".join(f"`{name}`" for name in client.variables) for client in CLIENTS]
    assert {row[2] for row in measured if row[1] != ABSENT} == {"yes"}
    assert {row[2] for row in measured if row[1] == ABSENT} <= {""}
    assert {name for client in CLIENTS for name in client.variables} <= {variable.name for variable in VARIABLES}


async def _check(root: Path, clients: list[Client], *, trusting: bool) -> None:
    async with open_bench(root, egress_road, trusting=trusting) as bench:
        for client in clients:
            found = await bench.measure(client)
            assert found.version is None or found.works is trusting, found


@pytest.mark.parametrize("trusting", [True, False], ids=["told", "not told"])
async def test_common_programs_take_the_certificate_when_they_are_told(tmp_path: Path, trusting: bool) -> None:
    await _check(tmp_path, [client for client in CLIENTS if client.name in QUICK], trusting=trusting)


@pytest.mark.ladder
@pytest.mark.parametrize("trusting", [True, False], ids=["told", "not told"])
async def test_every_program_takes_the_certificate_when_it_is_told(tmp_path: Path, trusting: bool) -> None:
    await _check(tmp_path, list(CLIENTS), trusting=trusting)
