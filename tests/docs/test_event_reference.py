"""The reference of events names every event that the server makes, with exactly the fields that it has."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
from docpages import DOCS

from hostler.domain import events as ev
from hostler.domain import inputs
from hostler.domain.sessions import EVENT_TYPES

PAGE = (DOCS / "reference" / "events.md").read_text("utf-8")
EVERYWHERE = {"id", "type", "processed_at"}
SAMPLES: dict[str, Any] = {
    "stop_reason": {"type": "end_turn"},
    "error_type": "unknown_error",
    "type_": "unknown_error",
    "texts": ["Hello."],
    "content": [],
    "input_": {},
    "is_error": False,
    "totals": {},
    "tokens": {},
    "changed": {"title": "t", "metadata": {}, "agent": {}},
    "permission": "allow",
    "evaluation": {"type": "always_allow"},
    "stop_details": None,
    "details": {},
    "limit": None,
}


def section(type_: str) -> str:
    found = re.search(rf"^### {re.escape(type_)}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/reference/events.md has no section for {type_}"
    return found[1]


def fields_in_page(type_: str) -> set[str]:
    """The first table of a section is that of the fields."""
    table = re.search(r"^\| field \| \|\n\| --- \| --- \|\n((?:\|.*\n)*)", section(type_), re.MULTILINE)
    return set(re.findall(r"^\| `(\w+)` \|", table[1], re.MULTILINE)) if table else set()


def constructors() -> list[Callable[..., ev.Event]]:
    return [
        function
        for name, function in inspect.getmembers(ev, inspect.isfunction)
        if not name.startswith("_") and get_type_hints(function).get("return") is ev.Event
    ]


def made_by(constructor: Callable[..., ev.Event]) -> list[ev.Event]:
    """One event for each kind that the constructor makes."""
    given = {name: SAMPLES.get(name, "x") for name in inspect.signature(constructor).parameters}
    kinds = get_args(get_type_hints(constructor)["kind"]) if "kind" in given else (None,)
    return [constructor(**({**given, "kind": kind} if kind else given)) for kind in kinds]


def test_every_constructor_is_found() -> None:
    assert len(constructors()) >= 18


@pytest.mark.parametrize("constructor", constructors(), ids=lambda constructor: constructor.__name__)
def test_events_have_the_fields_that_the_page_says(constructor: Callable[..., ev.Event]) -> None:
    for event in made_by(constructor):
        assert fields_in_page(event.type) == set(event.body) - EVERYWHERE


@pytest.mark.parametrize(
    "model",
    [
        inputs.UserMessage,
        inputs.UserInterrupt,
        inputs.UserToolConfirmation,
        inputs.UserCustomToolResult,
        inputs.UserToolResult,
    ],
)
def test_input_has_the_fields_that_the_page_says(model: type[inputs.UserMessage]) -> None:
    (type_,) = get_args(model.model_fields["type"].annotation)
    assert fields_in_page(type_) == set(model.model_fields) - {"type"}


def test_page_has_no_section_for_what_is_not_made() -> None:
    made = {event.type for constructor in constructors() for event in made_by(constructor)}
    said = {"user.message", "user.interrupt", "user.tool_confirmation", "user.custom_tool_result", "user.tool_result"}
    sections = set(re.findall(r"^### (\S+)$", PAGE, re.MULTILINE))
    assert sections == made | said
    assert sections - {"session.deleted"} <= EVENT_TYPES
