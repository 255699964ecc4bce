"""What does a model request cost at list price? A table of prices, and the sum for what one request used.

The built-in prices are ESTIMATES: what Anthropic listed publicly, as the Claude Code release pinned by this version
carries it (read on 21 November 2026), at standard speed. What is billed can differ: discounts, batch and fast rates,
and changes since then are not in it. `prices.file` replaces them. A model
that is not in the table has no price, rather than a guessed one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hostler.domain.errors import InvalidRequest

NANOS_OF_A_DOLLAR: Final = 1_000_000_000
SEARCH_NANOS: Final = 10 * NANOS_OF_A_DOLLAR // 1000
"""One web search: 10 USD for a thousand."""


@dataclass(frozen=True, slots=True)
class Price:
    """List price of one model. USD for a million tokens."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    long_above: int | None = None
    """Prompts of more tokens than this, cached ones included, cost what `long` says."""
    long: Price | None = None


def _price(*dollars: str, long_above: int | None = None, long: Price | None = None) -> Price:
    in_, out, read, write_5m, write_1h = (Decimal(dollar) for dollar in dollars)
    return Price(in_, out, read, write_5m, write_1h, long_above, long)


_TIER_3_15 = _price("3", "15", "0.30", "3.75", "6")
_TIER_5_25 = _price("5", "25", "0.50", "6.25", "10")

BUILT_IN: Final[Mapping[str, Price]] = {
    "claude-haiku-5-5": _price(
        "0.10", "0.50", "0.01", "0.125", "0.20",
        long_above=100_000, long=_price("0.50", "2.50", "0.05", "0.625", "1"),
    ),
    "claude-fable-5-2": _price("8", "40", "0.20", "10", "16"),
    "claude-sonnet-5-5": _price("2", "10", "0.10", "2.50", "4"),
    "claude-opus-5-5": _price("4", "20", "0.20", "5", "8"),
    "claude-fable-5-1": _price("10", "50", "0.25", "12.50", "20"),
    "claude-opus-5": _TIER_5_25,
    "claude-sonnet-5": _price("2", "10", "0.20", "2.50", "4"),
    "claude-fable-5": _price("10", "50", "1", "12.50", "20"),
    "claude-opus-4-8": _TIER_5_25,
    "claude-opus-4-7": _TIER_5_25,
    "claude-opus-4-6": _TIER_5_25,
    "claude-opus-4-5": _TIER_5_25,
    "claude-sonnet-4-6": _TIER_3_15,
    "claude-sonnet-4-5": _TIER_3_15,
    "claude-haiku-4-5": _price("1", "5", "0.10", "1.25", "2"),
}  # fmt: skip


class Prices:
    """A price table. Names are model ids; a date behind one (`-20251001`) and a suffix in brackets make no difference,
    unless the table has the name with it."""

    def __init__(self, table: Mapping[str, Price] = BUILT_IN) -> None:
        self._table = dict(table)

    def of(self, model: str) -> Price | None:
        """None: no price is known."""
        plain = model.partition("[")[0]
        for name in (model, plain, re.sub(r"-[0-9]{8}$", "", plain)):
            if name in self._table:
                return self._table[name]
        return None

    def nanos(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read: int,
        cache_write_5m: int,
        cache_write_1h: int,
        searches: int,
    ) -> int | None:
        """Billionths of a dollar, rounded up; None for a model without a price."""
        price = self.of(model)
        if price is None:
            return None
        prompt = input_tokens + cache_read + cache_write_5m + cache_write_1h
        if price.long is not None and price.long_above is not None and prompt > price.long_above:
            price = price.long
        # A dollar for a million tokens is a thousand nanos for each.
        tokens = 1000 * (
            price.input * input_tokens
            + price.output * output_tokens
            + price.cache_read * cache_read
            + price.cache_write_5m * cache_write_5m
            + price.cache_write_1h * cache_write_1h
        )
        whole = int(tokens)
        return whole + (whole < tokens) + SEARCH_NANOS * searches


_Dollars = Field(ge=0, le=1_000_000, max_digits=12, decimal_places=6, allow_inf_nan=False)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    input: Decimal = _Dollars
    output: Decimal = _Dollars
    cache_read: Decimal = _Dollars
    cache_write_5m: Decimal = _Dollars
    cache_write_1h: Decimal = _Dollars


def read_prices(file: Path) -> Prices:
    """The built-in table with the models of a TOML file in their place.

    One table for each model, `["claude-opus-5-5"]`, with `input`, `output`, `cache_read`, `cache_write_5m` and
    `cache_write_1h` in USD for a million tokens. Raises InvalidRequest that names what is wrong.
    """
    try:
        found: dict[str, Any] = tomllib.loads(file.read_text(), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequest(f"prices.file {file}: {error}") from error
    table = dict(BUILT_IN)
    for model, line in found.items():
        try:
            parsed = _Line.model_validate(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in (model, *first["loc"]))
            raise InvalidRequest(f"prices.file {file}: {place}: {first['msg']}") from None
        table[model] = Price(
            parsed.input, parsed.output, parsed.cache_read, parsed.cache_write_5m, parsed.cache_write_1h
        )
    return Prices(table)
