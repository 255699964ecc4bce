"""What does a model request cost at list price? A table of prices by model and day, and the sum for one request.

The table that is shipped is the data file `prices.toml` beside this module: list prices, which are ESTIMATES of what is
billed. `prices.file` puts rows in their place (`hostler.domain.price_files` reads both). A model that is not in the
table has no price, rather than a guessed one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Protocol, TypeVar

NANOS_OF_A_DOLLAR: Final = 1_000_000_000


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


@dataclass(frozen=True, slots=True)
class Row:
    """What a model costs from a moment on."""

    price: Price
    since: float | None = None
    """Seconds since 1970; None: from the beginning."""
    source: str = ""
    """Which of the table's sources says so."""


@dataclass(frozen=True, slots=True)
class ToolRow:
    """What one use of a tool that the model's API runs costs, from a moment on."""

    nanos: int
    since: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Rows by model and by server tool, the oldest first."""

    version: str
    """Written beside every cost. Two tables that differ have different ones."""
    models: Mapping[str, Sequence[Row]]
    server_tools: Mapping[str, Sequence[ToolRow]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """What each source is, for a person."""


class _Dated(Protocol):
    @property
    def since(self) -> float | None: ...


D = TypeVar("D", bound=_Dated)


class Prices:
    """A price table. Names are model ids; a date behind one (`-20251001`) and a suffix in brackets make no difference,
    unless the table has the name with it."""

    def __init__(self, table: PriceTable | None = None) -> None:
        """`table`: None is the shipped one."""
        if table is None:
            from hostler.domain.price_files import shipped

            table = shipped()
        self.table = table

    @property
    def version(self) -> str:
        return self.table.version

    def of(self, model: str, at: float | None = None) -> Price | None:
        """The price that holds at `at`, in seconds since 1970; None: the newest of all. None when none is known."""
        plain = model.partition("[")[0]
        for name in (model, plain, re.sub(r"-[0-9]{8}$", "", plain)):
            if name in self.table.models:
                row = _holds(self.table.models[name], at)
                return None if row is None else row.price
        return None

    def search_nanos(self, at: float | None = None) -> int | None:
        """Of one web search, in billionths of a dollar; `at` as in `of`."""
        row = _holds(self.table.server_tools.get("web_search", ()), at)
        return None if row is None else row.nanos

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
        at: float | None = None,
    ) -> int | None:
        """Billionths of a dollar, rounded up; None where something that was used has no price at `at`."""
        price = self.of(model, at)
        if price is None:
            return None
        searched = 0
        if searches:
            each = self.search_nanos(at)
            if each is None:
                return None
            searched = each * searches
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
        return whole + (whole < tokens) + searched


def _holds(rows: Sequence[D], at: float | None) -> D | None:
    """The newest row that has begun."""
    begun = [row for row in rows if at is None or row.since is None or row.since <= at]
    return begun[-1] if begun else None
