"""How much of a session's budget is used, and what does the wire say of it? Pure.

Costs are list prices in billionths of a US dollar; a budget is in whole cents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from hostler.domain.errors import InvalidRequest
from hostler.domain.events import Body
from hostler.domain.prices import Prices
from hostler.domain.routing import Routing
from hostler.engine.models import Models, spellings
from hostler.engine.state import Totals
from hostler.store.sessions import SessionRow, Usage

NANOS_OF_A_CENT: Final = 10_000_000


def cents(budget: Mapping[str, Any]) -> int:
    return int(budget["max_list_cost"]["amount"])


def used_up(budget: Mapping[str, Any] | None, used: Usage) -> bool:
    """True: no more model requests. A request without a price counts as the end: nobody knows what is left."""
    if budget is None:
        return False
    return used.unpriced_requests > 0 or used.list_cost_nanos >= cents(budget) * NANOS_OF_A_CENT


def list_cost(used: Usage) -> Body | None:
    """What was used, in whole cents, rounded down. None when a request had no price, so that nobody can know."""
    if used.unpriced_requests:
        return None
    return {"amount": str(used.list_cost_nanos // NANOS_OF_A_CENT), "currency": "USD"}


def totals(row: SessionRow, budget: Mapping[str, Any] | None) -> Totals:
    """The session's use so far, as the wire shows it, under `budget`. What nobody measured is left out."""
    used = row.usage
    usage: Body = {
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "cache_read_input_tokens": used.cache_read_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.cache_creation_5m_input_tokens,
            "ephemeral_1h_input_tokens": used.cache_creation_1h_input_tokens,
        },
        "server_tool_use": {"web_search_requests": used.web_search_requests, "web_fetch_requests": 0},
    }
    cost = list_cost(used)
    if cost is not None:
        usage["list_cost"] = cost
    return Totals(usage, None if budget is None else dict(budget), used_up(budget, used))


def check_priced(prices: Prices, models: Models, model: str, routing: Routing | None = None) -> None:
    """Raises InvalidRequest unless every model that a session with this agent's model may ask has a list price.

    routing  the agent's: what its rules may choose counts, like what the operator's may.
    """
    line = spellings(model) - {model, model.partition("[")[0]}
    routed = models.routed | (routing.models if routing is not None else frozenset())
    for name in (*(line or {model}), *models.helpers(), *sorted(routed)):
        if prices.of(name) is None:
            raise InvalidRequest(
                f"budget: {name} has no list price here, so what it costs can't be limited; "
                "leave the budget out, choose another model, or give it a price in the file of `prices.file`",
                code="model_not_budgetable",
            )


def priced(prices: Prices, model: str, used: Usage, at: float | None = None) -> Usage:
    """What one request used, with what that cost at `at` (seconds since 1970; None: by the newest prices).

    A request that used nothing costs nothing, whatever its model.
    """
    if used == Usage() or used.unpriced_requests:
        return used
    cost = prices.nanos(
        model,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cache_read=used.cache_read_input_tokens,
        cache_write_5m=used.cache_creation_5m_input_tokens,
        cache_write_1h=used.cache_creation_1h_input_tokens,
        searches=used.web_search_requests,
        at=at,
    )
    return replace(used, unpriced_requests=1) if cost is None else replace(used, list_cost_nanos=cost)


def check_change(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, used: Usage, uncertain_nanos: int = 0
) -> None:
    """Raises InvalidRequest unless a session with the budget `before` may have the budget `after` from now on.

    uncertain_nanos  what answers that broke off may have cost besides.
    """
    if after is None:
        return
    if before is None:
        raise InvalidRequest(
            "budget: can't be added to a session that was created without one, or whose budget was removed; "
            "create a new session with a budget",
            code="budget_create_only",
        )
    if used.unpriced_requests:
        raise InvalidRequest(
            "budget: this session used a model without a list price, so its cost is not known; remove the budget "
            "with null, or give the model a price in the file of `prices.file` and create a new session",
            code="model_not_budgetable",
        )
    gone = used.list_cost_nanos + uncertain_nanos
    if cents(after) * NANOS_OF_A_CENT <= gone:
        spent = gone // NANOS_OF_A_CENT
        besides = uncertain_nanos // NANOS_OF_A_CENT
        broken = f" ({besides} of them maybe, for answers that broke off)" if besides else ""
        raise InvalidRequest(
            f"budget: must be more than the {spent} cents that are used already{broken}; send at least {spent + 1}, "
            "or null to remove the budget",
            code="budget_not_raised",
        )
