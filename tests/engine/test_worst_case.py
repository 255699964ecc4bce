"""What can a request cost at most? Never less than what it can be charged, and only what can be said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.domain.prices import Prices
from hostler.engine.model_port import NotBounded
from hostler.engine.worst_case import Ask, changes, lowered, nanos
from hostler.engine.worst_case import read as read_with

SEARCH = 10_000_000


def read(fields: dict[str, Any], size: int) -> Ask:
    return read_with(fields, size, SEARCH)


PRICES = Prices()


def price(model: str = "claude-opus-5-5") -> Any:
    found = PRICES.of(model)
    assert found is not None
    return found


def request(**more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}], **more}


CACHED = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"speed": "fast"}, "speed"),
        ({"speed": {}}, "speed"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"fallbacks": [{"model": "x"}]}, "fallbacks"),
        ({"something_new": 1}, "something_new"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"tools": [{"type": "advisor_20260301", "name": "advisor"}]}, "advisor"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "compact"),
    ],
)
def test_what_has_another_price_is_not_bounded(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(NotBounded, match=said):
        read(request(**fields), 100)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "url", "url": "https://x"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "document", "source": {"type": "base64", "data": "aGk="}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"type": "file", "file_id": "file_1"}}]},
    ],
)
def test_what_bytes_do_not_bound_has_to_be_counted(block: dict[str, Any]) -> None:
    asked = read(request(messages=[{"role": "user", "content": [block]}]), 100)
    assert asked.prompt is None
    assert asked.counted(1000).prompt == 1000 + 20 + 256


def test_a_picture_is_more_than_its_bytes() -> None:
    with_one = read(request(messages=[{"role": "user", "content": [PICTURE]}]), 100).prompt
    assert with_one is not None
    assert with_one > 5000


@pytest.mark.parametrize(
    ("where", "write"),
    [
        ({"system": [{"type": "text", "text": "x", "cache_control": CACHED}]}, "5m"),
        ({"system": [{"type": "text", "text": "x", "cache_control": HOUR}]}, "1h"),
        ({"cache_control": HOUR}, "1h"),
        ({"tools": [{"name": "t", "input_schema": {}, "cache_control": CACHED}]}, "5m"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [
            {"type": "text", "text": "x", "cache_control": HOUR}]}]}]}, "1h"),
        ({}, "plain"),
    ],
)  # fmt: skip
def test_the_dearest_cache_that_is_named_anywhere_is_paid(where: dict[str, Any], write: str) -> None:
    assert read(request(**where), 100).write == write


@given(
    prompt=st.integers(0, 300_000),
    output=st.integers(0, 130_000),
    searches=st.integers(0, 8),
    write=st.sampled_from(["plain", "5m", "1h"]),
    model=st.sampled_from(["claude-opus-5-5", "claude-haiku-5-5", "claude-fable-5-1"]),
    data=st.data(),
)
def test_nothing_that_keeps_to_it_costs_more(
    prompt: int, output: int, searches: int, write: Any, model: str, data: st.DataObject
) -> None:
    ask = Ask(prompt, output, searches, write, search_nanos=SEARCH)
    made = data.draw(st.integers(0, searches))
    used = data.draw(st.integers(0, prompt)) * (made + 1) + 20_000 * made * (made + 1) // 2
    written = 0 if write == "plain" else data.draw(st.integers(0, used))
    read_ = 0 if write == "plain" else data.draw(st.integers(0, used - written))
    hour = written if write == "1h" else 0
    cost = PRICES.nanos(
        model,
        input_tokens=used - written - read_,
        output_tokens=data.draw(st.integers(0, output)),
        cache_read=read_,
        cache_write_5m=written - hour,
        cache_write_1h=hour,
        searches=made,
    )
    assert cost is not None
    assert cost <= nanos(price(model), ask)


@given(
    prompt=st.integers(0, 300_000),
    output=st.integers(0, 130_000),
    searches=st.integers(0, 8),
    room=st.integers(0, 10**11),
    thinking=st.sampled_from([None, 1024, 30_000]),
)
def test_what_was_lowered_fits_and_one_token_more_does_not(
    prompt: int, output: int, searches: int, room: int, thinking: int | None
) -> None:
    whole = Ask(prompt, output, searches, "5m", thinking, SEARCH)
    fitting = lowered(price(), whole, room)
    if fitting is None:
        assert nanos(price(), whole.least()) > room
        return
    assert nanos(price(), fitting) <= room
    assert fitting.output >= whole.least_output
    if fitting.output < output:
        more = Ask(prompt, fitting.output + 1, fitting.searches, "5m", thinking, SEARCH)
        assert nanos(price(), more) > room


def test_a_thinking_budget_stays_below_the_lowered_output() -> None:
    fields = request(max_tokens=32_000, thinking={"type": "enabled", "budget_tokens": 31_999})
    whole = read(fields, 100)
    for output in (2_048, 5_000, 31_000):
        paid = Ask(None, output, 0, "plain", 31_999)
        assert 1024 <= changes(fields, whole, paid)["thinking"]["budget_tokens"] < output
    assert changes(fields, whole, Ask(None, 32_000, 0, "plain", 31_999)) == {}


def test_a_thinking_budget_beyond_the_output_is_made_smaller_although_all_is_paid() -> None:
    fields = request(max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 100_000})
    asked = read(fields, 100)
    assert changes(fields, asked, asked) == {"thinking": {"type": "enabled", "budget_tokens": 2000}}


def test_a_search_that_names_no_number_gets_one_and_fewer_are_paid_for_by_fewer_uses() -> None:
    tool = {"type": "web_search_20250305", "name": "web_search"}
    fields = request(tools=[{"name": "t", "input_schema": {}}, tool])
    whole = read(fields, 100)
    assert whole.searches == 5
    assert changes(fields, whole, whole)["tools"][1] == {**tool, "max_uses": 5}
    assert changes(fields, whole, Ask(None, 1000, 2))["tools"][1] == {**tool, "max_uses": 2}
    limited = request(tools=[{**tool, "max_uses": 3}])
    assert changes(limited, read(limited, 100), read(limited, 100)) == {}


def test_a_search_without_a_price_is_not_bounded() -> None:
    tool = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(NotBounded, match="web searches"):
        read_with(request(tools=[tool]), 100, None)
    assert read_with(request(), 100, None).search_nanos == 0
