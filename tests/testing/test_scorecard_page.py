"""The page says what the tests say."""

from __future__ import annotations

from hostler.api.contract import CONTRACT
from hostler.testing.scorecard import render


def test_page_has_a_row_for_every_endpoint_and_names_its_proof() -> None:
    page = render({"agents.create": ["a.py::test_one", "a.py::test_two"]})
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(CONTRACT) == 114
    assert "| `POST /v1/agents` | 1a | `agents.create` | passes | `a.py::test_one`<br>`a.py::test_two` |" in rows
    assert "| `GET /v1/agents` | 1a | `agents.list` | served, not proved |  |" in rows
    assert "| `GET /v1/deployments` | 2 | `deployments.list` | 501 |  |" in rows
    assert "**1 of 114 endpoints pass.**" in page
