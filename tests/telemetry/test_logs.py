"""What does a log line say, and what never?"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from hostler.config import load
from hostler.engine.about import About, begin, end
from hostler.telemetry import log_table
from hostler.telemetry.logs import LineFormatter

SECRET = 'pass/"word"-1234'
KEY = "sk-ant-api03-" + "k" * 40


@pytest.fixture
def in_a_turn() -> Iterator[About]:
    about = About(workspace_id="wrkspc_1", session_id="sesn_1", trace_id="ab" * 16, span_id="cd" * 8, sampled=True)
    token = begin(about)
    yield about
    end(token)


def line(message: str = "lease_lost", *, name: str = "hostler.runner", as_json: bool = True, **fields: Any) -> str:
    record = logging.makeLogRecord(
        {"name": name, "levelname": "WARNING", "levelno": 30, "msg": message, "created": 1.5, **fields}
    )
    return LineFormatter(as_json=as_json, secrets=[SECRET]).format(record)


def test_every_line_says_what_it_is_about(in_a_turn: About) -> None:
    assert json.loads(line(session="sesn_1", reason="late")) == {
        "time": "1970-01-01T00:00:01.500000Z",
        "level": "warning",
        "event": "lease_lost",
        "logger": "hostler.runner",
        "session_id": "sesn_1",
        "reason": "late",
        "workspace_id": "wrkspc_1",
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
    }


def test_what_the_line_says_itself_counts(in_a_turn: About) -> None:
    assert json.loads(line(session="sesn_other"))["session_id"] == "sesn_other"


def test_a_line_outside_of_everything_has_no_such_fields() -> None:
    assert set(json.loads(line())) == {"time", "level", "event", "logger"}


def test_text_is_one_line_too(in_a_turn: About) -> None:
    said = line(as_json=False, reason="two\nlines")
    assert said.startswith('1970-01-01T00:00:01.500000Z warning lease_lost reason="two\\nlines" session_id=sesn_1')
    assert "\n" not in said


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    ("said", "never"),
    [
        (f"connect with {SECRET}", SECRET),
        (f"postgresql://u:{'pass%2F%22word%22-1234'}@h/db", "pass%2F%22word%22-1234"),
        (f"header x-api-key: {KEY}", "k" * 20),
        ("Authorization: Bearer abc.def-ghi", "abc.def"),
        ("hk-" + "A" * 43, "A" * 20),
        ("whsec_c2VjcmV0", "c2VjcmV0"),
    ],
)
def test_secrets_are_in_no_field(said: str, never: str, as_json: bool) -> None:
    try:
        raise ValueError(said)
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    for found in (
        line(as_json=as_json, reason=said),
        line(as_json=as_json, nested={"deep": [said]}),
        line(as_json=as_json, odd=ValueError(said)),
        line(as_json=as_json, exc_info=info),
        line(said, name="some.library", as_json=as_json),
    ):
        assert never not in found
        assert json.dumps(never)[1:-1] not in found
        assert "[redacted]" in found


def test_ids_are_no_secrets() -> None:
    assert "hk-short" in line(key="hk-short")
    assert "[redacted]" not in line(path="/v1/sessions/sesn_GPband6XWfSH2xhj1QvsQe9f/events")


def test_the_configuration_knows_its_secrets() -> None:
    settings = load(
        {"HOME": "/nonexistent"},
        model__api_key="model-key-1",
        secrets__key="master-key-1",
        telemetry__headers="authorization=collector-key-1",
        store__url="postgresql://u:database-key-1@h/db",
        secrets__previous_keys=["older-key-1"],
    )
    known = settings.secrets_known
    assert {"model-key-1", "master-key-1", "collector-key-1", "database-key-1", "older-key-1"} <= {*known}


def test_the_reference_lists_every_event() -> None:
    text = log_table.PAGE.read_text("utf-8")
    assert log_table.page(text) == text, "run scripts/generate-docs"
    assert len(log_table.lines()) > 100
