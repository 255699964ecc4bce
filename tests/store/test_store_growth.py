"""Nothing that grows is forgotten: every table has its place in the list, and the page is made of the list."""

from __future__ import annotations

from pathlib import Path

from hostler.config import Settings
from hostler.domain.retention import HARMLESS, POLICIES
from hostler.store.growth import PAGE, STORES, page
from hostler.store.measures import MEASURES
from hostler.store.schema import metadata

TOP = Path(__file__).parents[2]


def test_every_table_is_in_the_list_once() -> None:
    named = [table for store in STORES for table in store.tables]
    assert sorted(named) == sorted(metadata.tables), (
        "say in store.growth what the new table grows with and what limits it"
    )


def test_every_figure_and_every_policy_belongs_to_a_store() -> None:
    assert set(MEASURES) <= {store.name for store in STORES}
    assert {policy for store in STORES for policy in store.policies} == set(POLICIES)
    assert all(store.limit and store.grows for store in STORES)


def test_the_bill_has_no_policy() -> None:
    (bill,) = [store for store in STORES if "model_requests" in store.tables]
    assert bill.tables == ("model_requests", "request_tools")
    assert bill.policies == ()


def test_the_page_is_made_of_the_list() -> None:
    text = (TOP / PAGE).read_text("utf-8")
    assert page(text) == text, "scripts/generate-docs"


def test_the_defaults_of_the_settings_are_the_harmless_ones() -> None:
    told = Settings(state_dir=Path("/nowhere")).retention
    assert {name: getattr(told, f"{name}_days") or None for name in POLICIES} == HARMLESS
