"""How is a table of prices read from a file, and what may such a file say? The shipped one is of the same format.

    version = "acme-2027-01"                       # written beside every cost; without one: a digest of the file

    [sources]
    contract = "Our contract of January 2027"

    [server_tools]
    web_search = { usd_per_1000 = 10, source = "contract" }

    ["claude-opus-5-5"]                            # USD for a million tokens
    input = 4
    output = 20
    cache_read = 0.2
    cache_write_5m = 5
    cache_write_1h = 8
    source = "contract"
    long_above = 200000                            # longer prompts, cached tokens included, cost this:
    long = { input = 8, output = 30, cache_read = 0.4, cache_write_5m = 10, cache_write_1h = 16 }

A price that changes has several rows, `[["claude-opus-5-5"]]`, each with the day from which it holds (`from =
2027-01-31`, UTC); one of them may be without, and holds from the beginning.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hostler.domain.errors import InvalidRequest
from hostler.domain.prices import NANOS_OF_A_DOLLAR, Price, Prices, PriceTable, Row, ToolRow

_Dollars = Field(ge=0, le=1_000_000, max_digits=12, decimal_places=6, allow_inf_nan=False)
_RESERVED: Final = ("version", "sources", "server_tools")
SERVER_TOOLS: Final = ("web_search",)

T = TypeVar("T", Row, ToolRow)


class _Kinds(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    input: Decimal = _Dollars
    output: Decimal = _Dollars
    cache_read: Decimal = _Dollars
    cache_write_5m: Decimal = _Dollars
    cache_write_1h: Decimal = _Dollars

    def price(self, long_above: int | None = None, long: Price | None = None) -> Price:
        write_5m, write_1h = self.cache_write_5m, self.cache_write_1h
        return Price(self.input, self.output, self.cache_read, write_5m, write_1h, long_above, long)


class _Line(_Kinds):
    since: date | None = Field(None, alias="from", strict=True)
    source: str = ""
    long_above: int | None = Field(None, gt=0, strict=True)
    long: _Kinds | None = None

    @model_validator(mode="after")
    def _both(self) -> _Line:
        if (self.long_above is None) != (self.long is None):
            raise ValueError("long_above and long go together: give both, or neither")
        return self

    def row(self) -> Row:
        long = None if self.long is None else self.long.price()
        return Row(self.price(self.long_above, long), _moment(self.since), self.source)


class _Tool(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    usd_per_1000: Decimal = _Dollars
    since: date | None = Field(None, alias="from", strict=True)
    source: str = ""

    def row(self) -> ToolRow:
        return ToolRow(int(self.usd_per_1000 * NANOS_OF_A_DOLLAR / 1000), _moment(self.since), self.source)


@cache
def shipped() -> PriceTable:
    """The table that comes with Hostler."""
    text = files("hostler.domain").joinpath("prices.toml").read_text("utf-8")
    return _table(text, _wrong_in("prices.toml"))


def read_prices(file: Path) -> Prices:
    """The shipped table with the models and tools of a file in the place of its own, sources besides.

    A model that the file names has the file's rows only. Raises InvalidRequest that names what is wrong.
    """
    wrong = _wrong_in(f"prices.file {file}")
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(str(error)) from error
    own, base = _table(text, wrong), shipped()
    return Prices(
        PriceTable(
            f"{base.version}+{own.version}",
            {**base.models, **own.models},
            {**base.server_tools, **own.server_tools},
            {**base.sources, **own.sources},
        )
    )


Wrong = Callable[[str], InvalidRequest]


def _wrong_in(where: str) -> Wrong:
    return lambda what: InvalidRequest(f"{where}: {what}")


def _table(text: str, wrong: Wrong) -> PriceTable:
    try:
        found: dict[str, Any] = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise wrong(str(error)) from error
    version = found.get("version", hashlib.sha256(text.encode()).hexdigest()[:12])
    if not isinstance(version, str) or not 0 < len(version) <= 64 or not version.isprintable():
        raise wrong("version: must be a text of at most 64 characters")
    sources = found.get("sources", {})
    if not isinstance(sources, dict) or not all(isinstance(said, str) for said in sources.values()):
        raise wrong("sources: must be a table of texts")
    tools = found.get("server_tools", {})
    if not isinstance(tools, dict) or not set(tools) <= set(SERVER_TOOLS):
        raise wrong(f"server_tools: must be a table of {', '.join(SERVER_TOOLS)}")
    models = {name: given for name, given in found.items() if name not in _RESERVED}
    table = PriceTable(
        version,
        {
            name: _rows(name, given, lambda one: _Line.model_validate(one).row(), wrong)
            for name, given in models.items()
        },
        {
            name: _rows(f"server_tools.{name}", given, lambda one: _Tool.model_validate(one).row(), wrong)
            for name, given in tools.items()
        },
        sources,
    )
    _check_sources(table, wrong)
    return table


def _rows(name: str, given: object, row: Callable[[object], T], wrong: Wrong) -> Sequence[T]:
    """The rows of one name, the oldest first."""
    rows: list[T] = []
    several: list[Any] = given if isinstance(given, list) else [given]
    for number, one in enumerate(several):
        place: list[str] = [name, str(number)] if isinstance(given, list) else [name]
        try:
            rows.append(row(one))
        except ValidationError as error:
            raise wrong(_first(error, place)) from None
    begins = [float("-inf") if one.since is None else one.since for one in rows]
    if len(set(begins)) != len(begins):
        raise wrong(f"{name}: two rows hold from the same day; give each its own `from`")
    if not rows:
        raise wrong(f"{name}: has no row")
    return [one for _, one in sorted(zip(begins, rows, strict=True), key=lambda pair: pair[0])]


def _first(error: ValidationError, place: Sequence[str]) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join([*place, *map(str, first['loc'])])}: {first['msg']}"


def _check_sources(table: PriceTable, wrong: Wrong) -> None:
    everything: Mapping[str, Sequence[Row] | Sequence[ToolRow]] = {**table.models, **table.server_tools}
    for name, rows in everything.items():
        for row in rows:
            if row.source and row.source not in table.sources:
                raise wrong(f"{name}.source: {row.source!r} is not in [sources]; add it there, or leave it out")


def _moment(day: date | None) -> float | None:
    return None if day is None else datetime.combine(day, time(), UTC).timestamp()
