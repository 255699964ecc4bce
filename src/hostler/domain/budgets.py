"""What may an administrator ask about budgets? The bodies of `/hostler/v1/budgets`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from hostler.domain.sessions import Amount
from hostler.domain.values import Identifier, Items, Value, problem

MOST_THRESHOLDS: Final = 20


def _percents(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) != len(values):
        raise problem("holds a percentage twice; name each once")
    return tuple(sorted(values))


Percents = Annotated[
    Items[Annotated[int, Field(ge=1, le=100)]], Field(max_length=MOST_THRESHOLDS), AfterValidator(_percents)
]
"""Percent of the limit, ascending."""


class CreateBudget(Value):
    """What an agent, or the whole workspace, may cost at list price: in each month, or in all."""

    scope: Literal["agent", "workspace"]
    agent_id: Identifier | None = None
    """With the scope `agent`, and only then."""
    period: Literal["month", "total"] = "month"
    """month: a calendar month in UTC. total: from the budget's creation on, for ever."""
    limit: Amount
    warn_at: Percents = ()


class UpdateBudget(Value):
    """What was left out stays."""

    limit: Amount | None = None
    warn_at: Percents | None = None
