"""Which model answers which request? Rules of an agent, which are our extension of it, and of the operator."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from hostler.domain.clock import parse_rfc3339
from hostler.domain.policies import Window
from hostler.domain.values import Identifier, Items, Metadata, ModelId, Text, Value, problem

ASKED: Final = "asked"
"""What a rule uses that leaves a request with the model that it names."""
MOST_RULES: Final = 50
MOST_FALLBACKS: Final = 4
MOST_BYTES: Final = 1 << 30

Thread = Literal["main", "sub_agent"]
Purpose = Literal["turn", "compaction", "auxiliary"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: Final[tuple[Weekday, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """Raises ValueError when there is no such zone."""
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ValueError):
        raise ValueError(f"there is no time zone {name[:64]!r}") from None


def _zone(name: str) -> str:
    try:
        zone(name)
    except ValueError:
        raise problem("is no time zone that this server knows; write one such as Europe/Berlin, or UTC") from None
    return name


def _time(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise problem("is no time of day; write one from 00:00 to 23:59, such as 22:00")
    return text


def _rule_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise problem("is no id of a rule; use letters, digits and . _ - (at most 64), such as cheap-helpers")
    return text


TimeOfDay = Annotated[Text, AfterValidator(_time)]
Zone = Annotated[Text, Field(max_length=64), AfterValidator(_zone)]
RuleId = Annotated[Text, AfterValidator(_rule_id)]
Bytes = Annotated[int, Field(ge=0, le=MOST_BYTES)]
Name = Annotated[Text, Field(min_length=1, max_length=128)]


class Hours(Value):
    """From `start` until just before `end`, by the clock of a zone. Over midnight when `end` is not after `start`."""

    start: TimeOfDay
    end: TimeOfDay
    time_zone: Zone = "UTC"
    days: Annotated[Items[Weekday], Field(min_length=1, max_length=7)] | None = None
    """Days on which it begins. None: every day."""


class When(Value):
    """What a request must be like. Everything that is given must hold; nothing given: every request."""

    thread: Thread | None = None
    agent_types: Annotated[Items[Name], Field(min_length=1, max_length=32)] | None = None
    """Kinds of sub-agents, as the harness names them."""
    purposes: Annotated[Items[Purpose], Field(min_length=1, max_length=3)] | None = None
    models: Annotated[Items[ModelId], Field(min_length=1, max_length=32)] | None = None
    """Models that the request names."""
    min_bytes: Bytes | None = None
    """Size of the request's body, as JSON: at least."""
    max_bytes: Bytes | None = None
    tags: Metadata | None = None
    """Of the session's metadata: all of them, with these values."""
    hours: Hours | None = None

    @model_validator(mode="after")
    def _possible(self) -> When:
        if self.min_bytes is not None and self.max_bytes is not None and self.min_bytes > self.max_bytes:
            raise problem("has a min_bytes above its max_bytes, so nothing matches; exchange them")
        if self.agent_types is not None and self.thread == "main":
            raise problem("asks for agent_types on the main thread, which has none; leave one of them out")
        return self


class Rule(Value):
    """The first one that matches a request says which model answers it."""

    id: RuleId
    when: When = When()
    use: ModelId
    """A model, or `asked`: the one that the request names."""


def _distinct(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    ids = [rule.id for rule in rules]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise problem(f"has two rules with the id {twice}; give each its own")
    return rules


Rules = Annotated[Items[Rule], Field(max_length=MOST_RULES), AfterValidator(_distinct)]
Fallbacks = Annotated[Items[ModelId], Field(max_length=MOST_FALLBACKS)]


class Routing(Value):
    """An agent's rules, in their order, and which models may answer where the chosen one can't."""

    rules: Rules = ()
    fallbacks: Fallbacks = ()

    def wire(self) -> dict[str, Any]:
        """As it was sent, without what nobody said."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def models(self) -> frozenset[str]:
        """All that it may choose, besides the one that is asked for."""
        return chosen(self.rules, self.fallbacks)


class OperatorRouting(Value):
    """The operator's file: rules for all agents, before and after those of each."""

    before: Rules = ()
    after: Rules = ()
    fallbacks: Fallbacks = ()
    """For agents that name none."""

    @model_validator(mode="after")
    def _ids(self) -> OperatorRouting:
        _distinct((*self.before, *self.after))
        return self

    @property
    def models(self) -> frozenset[str]:
        return chosen((*self.before, *self.after), self.fallbacks)


def chosen(rules: Iterable[Rule], fallbacks: Iterable[str]) -> frozenset[str]:
    return frozenset((*(rule.use for rule in rules if rule.use != ASKED), *fallbacks))


# ------------------------------------------------------------------------------------------------- questions about it


def _moment(text: str) -> str:
    try:
        parse_rfc3339(text)
    except (ValueError, OverflowError):
        raise problem("must be a moment such as 2026-10-07T22:30:00Z") from None
    return text


class ExplainRouting(Value):
    """The body of `POST /hostler/v1/routing/explain`: a request that nobody makes."""

    agent_id: Identifier | None = None
    """Whose rules and model count. None: give a `model`."""
    routing: Routing | None = None
    """Tried in place of the agent's own."""
    model: ModelId | None = None
    """That the request names. None: the agent's."""
    thread: Thread = "main"
    agent_type: Text | None = None
    purpose: Purpose = "turn"
    bytes: Bytes = 0
    tags: Metadata = Field(default_factory=dict)
    at: Annotated[Text, AfterValidator(_moment)] | None = None
    """None: now."""

    @model_validator(mode="after")
    def _whose(self) -> ExplainRouting:
        if self.agent_id is None and self.model is None:
            raise problem("needs an agent_id, or the model that the request names")
        return self


class CompareRouting(Value):
    """The body of `POST /hostler/v1/routing/compare`: rule sets over what was recorded."""

    sets: Annotated[Items[Routing], Field(min_length=1, max_length=5)]
    since: Window = "last-7d"
    agent_id: Identifier | None = None
    """None: all agents of the workspace."""
