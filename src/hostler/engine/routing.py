"""Which model answers a request, by which rule, and why? Pure, but for the clock.

The operator's rules come first, then the agent's, then the operator's again. The first that matches chooses; one whose
model can't answer the request is passed over, and the next is looked at. No rule: the model that was asked for.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hostler.domain.routing import ASKED, WEEKDAYS, Hours, OperatorRouting, Routing, Rule, Thread, zone
from hostler.domain.values import listed
from hostler.engine.model_fit import ModelFit
from hostler.engine.model_port import Asked, Choice, Purpose
from hostler.engine.models import Models, spellings

NO_RULES: Final = OperatorRouting()
_REMEMBERED: Final = 4_096


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules look at."""

    model: str
    thread: Thread = "main"
    agent_type: str = ""
    purpose: Purpose = "turn"
    size: int = 0
    """Bytes of the body."""
    tags: Mapping[str, str] = field(default_factory=dict)
    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)


Test = Callable[[Facts], str]
"""Why it does not hold, for a person. Empty: it does."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of one rule."""

    rule: str
    outcome: str
    """`chosen`, `does not match` or `passed over`."""
    why: str


class Compiled:
    """The rules that hold for one agent, made ready."""

    def __init__(self, operator: OperatorRouting, routing: Routing | None) -> None:
        own = routing or Routing()
        named = [
            *((f"operator:{rule.id}", rule) for rule in operator.before),
            *((rule.id, rule) for rule in own.rules),
            *((f"operator:{rule.id}", rule) for rule in operator.after),
        ]
        self._rules = [(name, rule, _tests(rule), _said(rule)) for name, rule in named]
        self._fallbacks = own.fallbacks or operator.fallbacks

    def choose(self, facts: Facts, fit: ModelFit, look: Callable[[Looked], None] | None = None) -> Choice:
        """look  is told of each rule up to the one that chose."""
        passed: list[str] = []
        for name, rule, tests, said in self._rules:
            against = next(filter(None, (test(facts) for test in tests)), "")
            if against:
                if look is not None:
                    look(Looked(name, "does not match", against))
                continue
            model = facts.model if rule.use == ASKED else rule.use
            misfit = "" if model == facts.model else fit.misfit(model, facts.size)
            if misfit:
                passed.append(f"rule {name} passed over: {misfit}")
                if look is not None:
                    look(Looked(name, "passed over", misfit))
                continue
            why = "; ".join((*passed, f"{said}: {model}"))
            if look is not None:
                look(Looked(name, "chosen", said))
            return self._choice(model, name, why, facts, fit)
        return self._choice(facts.model, "", "; ".join(passed), facts, fit)

    def _choice(self, model: str, rule: str, why: str, facts: Facts, fit: ModelFit) -> Choice:
        models = [model]
        for fallback in self._fallbacks:
            if fallback not in models and (fallback == facts.model or not fit.misfit(fallback, facts.size)):
                models.append(fallback)
        return Choice(tuple(models), rule, why)


def _tests(rule: Rule) -> tuple[Test, ...]:
    """Cheap ones first."""
    when, tests = rule.when, list[Test]()
    if when.thread is not None:
        thread = when.thread
        tests.append(lambda facts: "" if facts.thread == thread else f"it is on the thread {facts.thread}")
    if when.purposes is not None:
        purposes = frozenset(when.purposes)
        tests.append(lambda facts: "" if facts.purpose in purposes else f"its purpose is {facts.purpose}")
    if when.agent_types is not None:
        kinds = frozenset(when.agent_types)
        tests.append(lambda facts: "" if facts.agent_type in kinds else f"its agent type is {facts.agent_type!r}")
    if when.models is not None:
        models = frozenset(name for model in when.models for name in spellings(model))
        tests.append(lambda facts: "" if facts.model in models else f"it asks for {facts.model}")
    if when.min_bytes is not None:
        least = when.min_bytes
        tests.append(lambda facts: "" if facts.size >= least else f"it has {facts.size:,} bytes")
    if when.max_bytes is not None:
        most = when.max_bytes
        tests.append(lambda facts: "" if facts.size <= most else f"it has {facts.size:,} bytes")
    if when.tags:
        tags = dict(when.tags)
        tests.append(lambda facts: _untagged(tags, facts.tags))
    if when.hours is not None:
        hours = when.hours
        tests.append(lambda facts: "" if within(hours, facts.now) else f"it is {_local(hours, facts.now)}")
    return tuple(tests)


def _untagged(wanted: Mapping[str, str], tags: Mapping[str, str]) -> str:
    wrong = [key for key, value in wanted.items() if tags.get(key) != value]
    return f"its session's metadata has another {listed(wrong)}" if wrong else ""


def _local(hours: Hours, now: datetime) -> str:
    here = now.astimezone(zone(hours.time_zone))
    return f"{here:%H:%M} on {WEEKDAYS[here.weekday()]} ({hours.time_zone})"


def within(hours: Hours, now: datetime) -> bool:
    """By the clock on the wall there: a day on which it is put forward or back is as long as it is."""
    here = now.astimezone(zone(hours.time_zone))
    clock = f"{here:%H:%M}"
    start, end, days = hours.start, hours.end, hours.days
    if start < end:
        return start <= clock < end and (days is None or WEEKDAYS[here.weekday()] in days)
    if clock >= start:
        began = here
    elif clock < end:
        began = here - timedelta(days=1)
    else:
        return False
    return days is None or WEEKDAYS[began.weekday()] in days


def _said(rule: Rule) -> str:
    """What of a rule matched, in words."""
    when = rule.when
    parts = [
        when.thread and f"thread {when.thread}",
        when.purposes and f"purpose {listed(when.purposes)}",
        when.agent_types and f"agent type {listed(when.agent_types)}",
        when.models and f"asked for {listed(when.models)}",
        when.min_bytes is not None and f"at least {when.min_bytes:,} bytes",
        when.max_bytes is not None and f"at most {when.max_bytes:,} bytes",
        when.tags and "tags " + ", ".join(f"{key}={value}" for key, value in when.tags.items()),
        when.hours and f"between {when.hours.start} and {when.hours.end} {when.hours.time_zone}",
    ]
    return ", ".join(part for part in parts if part) or "every request"


class RuleRouter:
    """Implements `Router`. The rules of an agent are read once for as long as its sessions ask.

    clock  gives the time of day, in UTC.
    """

    def __init__(self, fit: ModelFit, clock: Callable[[], datetime], operator: OperatorRouting = NO_RULES) -> None:
        self._fit = fit
        self._clock = clock
        self._operator = operator
        self._bare = None if operator == NO_RULES else Compiled(operator, None)
        self._known: OrderedDict[int, tuple[Mapping[str, Any], Compiled]] = OrderedDict()
        """By the identity of a caller's snapshot, which is held so that no other one can have it."""

    async def choose(self, asked: Asked) -> Choice:
        rules = self._rules(asked.caller.agent)
        if rules is None:
            return Choice((asked.model,))
        return rules.choose(facts_of(asked, self._clock()), self._fit)

    def _rules(self, agent: Mapping[str, Any]) -> Compiled | None:
        if agent.get("routing") is None:
            return self._bare
        found = self._known.get(id(agent))
        if found is None:
            found = (agent, Compiled(self._operator, routing_of(agent)))
            self._known[id(agent)] = found
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found[1]


def facts_of(asked: Asked, now: datetime) -> Facts:
    return Facts(
        asked.model,
        "sub_agent" if asked.thread else "main",
        asked.agent_type,
        asked.purpose,
        asked.size,
        asked.caller.tags,
        now,
    )


def routing_of(agent: Mapping[str, Any]) -> Routing | None:
    """That of an agent's snapshot."""
    routing = agent.get("routing")
    return None if routing is None else Routing.model_validate_json(json.dumps(routing))


def check_routing(models: Models, routing: Routing | None, at: str = "routing") -> None:
    """Raises InvalidRequest unless every model that it may choose is one of the catalogue."""
    if routing is not None:
        _check_rules(models, routing.rules, f"{at}.rules")
        _check_fallbacks(models, routing.fallbacks, at)


def check_operator(models: Models, routing: OperatorRouting) -> None:
    """The same for the operator's file."""
    _check_rules(models, routing.before, "before")
    _check_rules(models, routing.after, "after")
    _check_fallbacks(models, routing.fallbacks, "")


def _check_rules(models: Models, rules: Sequence[Rule], at: str) -> None:
    for number, rule in enumerate(rules):
        if rule.use != ASKED:
            models.check_chosen(rule.use, f"{at}[{number}].use")


def _check_fallbacks(models: Models, fallbacks: Sequence[str], at: str) -> None:
    for number, model in enumerate(fallbacks):
        models.check_chosen(model, f"{at}.fallbacks[{number}]".removeprefix("."))


def tried(rules: Compiled, facts: Facts, fit: ModelFit) -> tuple[Choice, Sequence[Looked]]:
    """What would be chosen, and what became of each rule on the way."""
    looked: list[Looked] = []
    return rules.choose(facts, fit, looked.append), looked
