"""What is in the shipped table, from which day a price holds, and what a file of prices may say."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.domain.errors import InvalidRequest
from hostler.domain.price_files import read_prices, shipped
from hostler.domain.prices import Prices

GOLDEN = """
claude-haiku-5-5            100   500   10   125   200
claude-haiku-5-5 >100000    500  2500   50   625  1000
claude-fable-5-2           8000 40000  200 10000 16000
claude-sonnet-5-5          2000 10000  100  2500  4000
claude-opus-5-5            4000 20000  200  5000  8000
claude-fable-5-1          10000 50000  250 12500 20000
claude-opus-5              5000 25000  500  6250 10000
claude-sonnet-5            2000 10000  200  2500  4000
claude-fable-5            10000 50000 1000 12500 20000
claude-opus-4-8            5000 25000  500  6250 10000
claude-opus-4-7            5000 25000  500  6250 10000
claude-opus-4-6            5000 25000  500  6250 10000
claude-opus-4-5            5000 25000  500  6250 10000
claude-sonnet-4-6          3000 15000  300  3750  6000
claude-sonnet-4-5          3000 15000  300  3750  6000
claude-haiku-4-5           1000  5000  100  1250  2000
"""
"""Billionths of a dollar for one token: input, output, cache read, write of five minutes, write of an hour."""

KINDS = ("input_tokens", "output_tokens", "cache_read", "cache_write_5m", "cache_write_1h")
NOTHING = dict.fromkeys((*KINDS, "searches"), 0)
LINE = "input = {0}\noutput = 2\ncache_read = 1\ncache_write_5m = 1\ncache_write_1h = 1\n"


def test_each_kind_of_each_model_costs_what_is_listed() -> None:
    prices, lines = Prices(), [line.split() for line in GOLDEN.strip().splitlines()]
    for name, *numbers in lines:
        above = int(numbers.pop(0)[1:]) if numbers[0].startswith(">") else 0
        for kind, each in zip(KINDS, map(int, numbers), strict=True):
            # One token more than the bound is a long prompt; output does not make it longer.
            tokens = {"input_tokens": above + 1, kind: above + 1} if above else {kind: 1}
            whole = prices.nanos(name, **{**NOTHING, **tokens})
            rest = prices.nanos(name, **{**NOTHING, "input_tokens": above + 1}) if above and kind != KINDS[0] else 0
            assert (whole or 0) - (rest or 0) == each * (above + 1), (name, kind)
    assert {name for name, *_ in lines} == set(shipped().models)
    assert prices.nanos("claude-opus-5-5", **{**NOTHING, "searches": 3}) == 30_000_000


def test_every_shipped_row_says_where_it_is_from() -> None:
    table = shipped()
    rows = [row for held in (*table.models.values(), *table.server_tools.values()) for row in held]
    assert all(row.source in table.sources for row in rows)
    assert table.version == datetime.date.fromisoformat(table.version).isoformat()


@given(st.lists(st.tuples(st.sampled_from(sorted(shipped().models)), *[st.integers(0, 2**40)] * 6), max_size=20))
def test_no_sum_of_shipped_prices_is_rounded(requests: list[tuple[str, int, int, int, int, int, int]]) -> None:
    """Each costs exactly what its parts cost, so sums over them are exact, whatever they are taken together by."""
    prices = Prices()
    for model, asked, answered, read, five, hour, searches in requests:
        price = prices.of(model)
        assert price is not None
        if price.long is not None and price.long_above is not None and asked + read + five + hour > price.long_above:
            price = price.long
        parts = [
            price.input * asked,
            price.output * answered,
            price.cache_read * read,
            price.cache_write_5m * five,
            price.cache_write_1h * hour,
        ]
        whole = prices.nanos(
            model,
            input_tokens=asked,
            output_tokens=answered,
            cache_read=read,
            cache_write_5m=five,
            cache_write_1h=hour,
            searches=searches,
        )
        assert whole == 1000 * sum(parts) + 10_000_000 * searches


def seconds(day: str) -> float:
    return datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp()


def test_a_request_costs_what_holds_at_its_moment(tmp_path: Path) -> None:
    rows = [LINE.format(9) + "from = 2027-03-01\n", LINE.format(1), LINE.format(5) + "from = 2027-01-31\n"]
    file = tmp_path / "prices.toml"
    file.write_text("".join(f'[["m"]]\n{row}' for row in rows))
    prices = read_prices(file)

    def cost(day: str | None) -> int | None:
        return prices.nanos("m", **{**NOTHING, "input_tokens": 1}, at=None if day is None else seconds(day))

    days = ["2026-01-01", "2027-01-30", "2027-01-31", "2027-02-28", "2027-03-01", None]
    assert [cost(day) for day in days] == [1000, 1000, 5000, 5000, 9000, 9000]


def test_a_model_that_is_only_listed_from_a_day_on_has_no_price_before(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('["m"]\n' + LINE.format(1) + "from = 2027-01-31\n")
    prices = read_prices(file)
    assert prices.of("m", seconds("2027-01-30")) is None
    assert prices.of("m", seconds("2027-01-31")) is not None


def test_a_table_has_a_version_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('["m"]\n' + LINE.format(1))
    first = read_prices(file).version
    file.write_text('["m"]\n' + LINE.format(2))
    assert len({first, read_prices(file).version, shipped().version}) == 3
    file.write_text('version = "acme-1"\n["m"]\n' + LINE.format(2))
    assert read_prices(file).version == f"{shipped().version}+acme-1"


def test_long_prompts_and_searches_can_be_priced(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    long = "{ input = 2, output = 3, cache_read = 1, cache_write_5m = 1, cache_write_1h = 1 }"
    file.write_text(
        '[server_tools]\nweb_search = { usd_per_1000 = 5, source = "us" }\n[sources]\nus = "Our contract"\n'
        f'["m"]\n{LINE.format(1)}long_above = 10\nlong = {long}\n'
    )
    prices = read_prices(file)
    asked = [prices.nanos("m", **{**NOTHING, "input_tokens": tokens}) for tokens in (10, 11)]
    assert asked == [10_000, 22_000]
    assert prices.nanos("m", **{**NOTHING, "searches": 1}) == 5_000_000
    assert prices.table.sources["us"] == "Our contract"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f'["m"]\n{LINE.format(1)}long_above = 10\n', "long_above and long go together"),
        (f'["m"]\n{LINE.format(1)}source = "gossip"\n', "'gossip' is not in"),
        (f'["m"]\n{LINE.format(1)}from = "soon"\n', "m.from"),
        (f'[["m"]]\n{LINE.format(1)}[["m"]]\n{LINE.format(2)}', "two rows hold from the same day"),
        (f'[["m"]]\n{LINE.format(1)}[["m"]]\n{LINE.format("true")}from = 2027-01-01', "m.1.input"),
        ("[server_tools]\nmagic = { usd_per_1000 = 1 }\n", "server_tools"),
        ("[server_tools]\nweb_search = { usd = 1 }\n", "server_tools.web_search"),
        ("version = 3\n", "version"),
        ('sources = "me"\n', "sources"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=place):
        read_prices(file)
