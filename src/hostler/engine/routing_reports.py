"""What did the rules do, what would they do, and what would others have cost? Changes nothing.

A comparison replays what was recorded: which model each set of rules would have chosen for each request, at list
prices, for the tokens that were used. Another model would have used other tokens; nobody knows how many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.clock import Clock, parse_rfc3339, rfc3339_of
from hostler.domain.policies import since as beginning
from hostler.domain.prices import Prices
from hostler.domain.routing import CompareRouting, ExplainRouting, OperatorRouting, Routing
from hostler.domain.sessions import Position
from hostler.engine.agents import version_of
from hostler.engine.budget import priced
from hostler.engine.model_fit import ModelFit
from hostler.engine.model_port import Purpose
from hostler.engine.models import Models
from hostler.engine.routing import NO_RULES, Compiled, Facts, check_routing, tried
from hostler.store import catalog, ledger
from hostler.store.database import Database
from hostler.store.ledger import ModelRequestRow
from hostler.store.pages import Page
from hostler.store.pages import Position as StorePosition
from hostler.store.sessions import Usage

View = dict[str, Any]
MOST_REPLAYED: Final = 100_000
"""Attempts that one comparison looks at, the newest first."""
_AT_ONCE: Final = 1_000
CAVEAT: Final = (
    "The same tokens are assumed whichever model answers. Another model would write more or less, think otherwise, and "
    "would have found nothing in its cache at first."
)


class RoutingReports:
    """Everything is of one workspace. Raises NotFound for what belongs to another."""

    def __init__(
        self, database: Database, models: Models, prices: Prices, clock: Clock, operator: OperatorRouting = NO_RULES
    ) -> None:
        self._database = database
        self._models = models
        self._fit = ModelFit(models)
        self._prices = prices
        self._clock = clock
        self._operator = operator

    async def requests(
        self, workspace: str, session_id: str, *, limit: int, after: Position | None
    ) -> tuple[list[View], bool]:
        """The attempts of a session's model requests, newest first; a deleted session's stay. Raises NotFound."""
        found = await self._database.read(
            lambda conn: ledger.page_of_model_requests(
                conn, workspace, session_id, limit=limit, after=StorePosition(*after) if after else None
            )
        )
        return [_request(row) for row in found.rows], found.has_next

    async def explain(self, workspace: str, asked: ExplainRouting) -> View:
        """Which model would answer, and why. Raises NotFound, and InvalidRequest for rules with unknown models."""
        check_routing(self._models, asked.routing)
        model, routing = asked.model, asked.routing
        if asked.agent_id is not None:
            agent_id = asked.agent_id
            row = await self._database.read(lambda conn: catalog.get_agent(conn, workspace, agent_id))
            version = version_of(row)
            model = model or version.model.id.partition("[")[0]
            routing = routing or version.routing
        assert model is not None, "the request was checked"
        facts = Facts(
            model,
            asked.thread,
            asked.agent_type or "",
            asked.purpose,
            asked.bytes,
            asked.tags,
            self._clock.now() if asked.at is None else parse_rfc3339(asked.at),
        )
        choice, looked = tried(Compiled(self._operator, routing), facts, self._fit)
        return {
            "type": "routing_explanation",
            "requested_model": model,
            "model": choice.models[0],
            "fallbacks": list(choice.models[1:]),
            "rule": choice.rule or None,
            "why": choice.why or ("no rule matches" if looked else "there are no rules"),
            "rules": [{"rule": each.rule, "outcome": each.outcome, "why": each.why} for each in looked],
        }

    async def compare(self, workspace: str, asked: CompareRouting) -> View:
        """What each set would have cost. Raises NotFound for an unknown agent, and InvalidRequest, like `explain`."""
        for number, routing in enumerate(asked.sets):
            check_routing(self._models, routing, f"sets[{number}]")
        now = self._clock.now()
        since = beginning(asked.since, now.timestamp())
        if asked.agent_id is not None:
            agent_id = asked.agent_id
            await self._database.read(lambda conn: catalog.get_agent(conn, workspace, agent_id))
        sums = [_Sum(Compiled(self._operator, routing)) for routing in asked.sets]
        recorded = _Sum(None)
        untagged, looked, until = 0, 0, rfc3339_of(now.timestamp())
        tags_matter = any(_looks_at_tags(routing) for routing in (*asked.sets, _as_routing(self._operator)))
        after: StorePosition | None = None

        def read(conn: Connection) -> tuple[Page[ModelRequestRow], Mapping[str, Mapping[str, str]]]:
            found = ledger.page_of_workspace_requests(
                conn, workspace, since=since, until=until, agent_id=asked.agent_id, limit=_AT_ONCE, after=after
            )
            return found, ledger.metadata_of(conn, {row.session_id for row in found.rows}) if tags_matter else {}

        def replay(rows: Sequence[ModelRequestRow], tags: Mapping[str, Mapping[str, str]]) -> None:
            for row in rows:
                recorded.keep(row.model, row.model, row.facts.rule, row.usage)
                for each in sums:
                    each.replay(row, tags.get(row.session_id, {}), self._fit, self._prices)

        while looked < MOST_REPLAYED:
            found, tags = await self._database.read(read)
            await asyncio.to_thread(replay, found.rows, tags)
            looked += len(found.rows)
            untagged += sum(row.session_id not in tags for row in found.rows) if tags_matter else 0
            after = StorePosition(found.rows[-1].created_at, found.rows[-1].id) if found.has_next else None
            if after is None:
                break
        return {
            "type": "routing_comparison",
            "since": since,
            "until": until,
            "attempts": looked,
            "complete": after is None,
            "recorded": recorded.wire(),
            "sets": [each.wire() for each in sums],
            "without_tags": untagged,
            "caveat": CAVEAT,
        }


def _as_routing(operator: OperatorRouting) -> Routing:
    return Routing(rules=(*operator.before, *operator.after))


def _looks_at_tags(routing: Routing) -> bool:
    return any(rule.when.tags for rule in routing.rules)


class _Sum:
    """What all attempts together would have cost under one set of rules. None: what they did cost."""

    def __init__(self, rules: Compiled | None) -> None:
        self._rules = rules
        self._attempts = 0
        self._changed = 0
        self._nanos = 0
        self._unpriced = 0
        self._by_model: dict[str, list[int]] = {}
        self._by_rule: dict[str, int] = {}

    def replay(self, row: ModelRequestRow, tags: Mapping[str, str], fit: ModelFit, prices: Prices) -> None:
        assert self._rules is not None, "only what was recorded has no rules"
        facts, at = row.facts, parse_rfc3339(row.created_at)
        model = facts.requested_model or row.model
        choice = self._rules.choose(
            Facts(
                model,
                "sub_agent" if facts.thread else "main",
                facts.agent_type,
                _purpose(facts.purpose),
                facts.request_bytes,
                tags,
                at,
            ),
            fit,
        )
        blank = replace(row.usage, list_cost_nanos=0, unpriced_requests=0)
        used = priced(prices, choice.models[0], blank, at.timestamp())  # as it was priced then
        self.keep(row.model, choice.models[0], choice.rule, used)

    def keep(self, before: str, model: str, rule: str, used: Usage) -> None:
        self._attempts += 1
        self._changed += model != before
        self._nanos += used.list_cost_nanos
        self._unpriced += used.unpriced_requests
        by_model = self._by_model.setdefault(model, [0, 0])
        by_model[0] += 1
        by_model[1] += used.list_cost_nanos
        if rule:
            self._by_rule[rule] = self._by_rule.get(rule, 0) + 1

    def wire(self) -> View:
        """`changed`: attempts that another model would have answered than did."""
        return {
            "attempts": self._attempts,
            "changed": self._changed,
            "cost_nanos": self._nanos,
            "unpriced_attempts": self._unpriced,
            "by_model": [
                {"model": model, "attempts": count, "cost_nanos": nanos}
                for model, (count, nanos) in sorted(self._by_model.items(), key=lambda item: (-item[1][1], item[0]))
            ],
            "by_rule": [
                {"rule": rule, "attempts": count}
                for rule, count in sorted(self._by_rule.items(), key=lambda item: (-item[1], item[0]))
            ],
        }


def _purpose(recorded: str) -> Purpose:
    return "compaction" if recorded == "compaction" else "auxiliary" if recorded == "auxiliary" else "turn"


def _request(row: ModelRequestRow) -> View:
    facts, used = row.facts, row.usage
    return {
        "id": row.id,
        "type": "model_request",
        "session_id": row.session_id,
        "request_id": facts.request_id,
        "attempt": facts.attempt,
        "requested_model": facts.requested_model or row.model,
        "model": row.model,
        "upstream": facts.upstream,
        "rule": facts.rule or None,
        "why": facts.why,
        "thread": "sub_agent" if facts.thread else "main",
        "sub_agent_id": facts.thread or None,
        "agent_type": facts.agent_type or None,
        "purpose": _purpose(facts.purpose),
        "agent_id": facts.agent_id,
        "agent_version": facts.agent_version,
        "request_bytes": facts.request_bytes,
        "status": row.status,
        "complete": facts.complete,
        "stop_reason": row.stop_reason,
        "usage": {
            "input_tokens": used.input_tokens,
            "output_tokens": used.output_tokens,
            "cache_read_input_tokens": used.cache_read_input_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": used.cache_creation_5m_input_tokens,
                "ephemeral_1h_input_tokens": used.cache_creation_1h_input_tokens,
            },
            "web_search_requests": used.web_search_requests,
        },
        "cost_nanos": None if used.unpriced_requests else used.list_cost_nanos,
        "waited_ms": facts.waited_ms,
        "duration_ms": row.duration_ms,
        "first_byte_ms": row.first_byte_ms,
        "created_at": row.created_at,
    }
