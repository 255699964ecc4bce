"""What do model requests and working sandboxes cost? The settings of it."""

from __future__ import annotations

from pydantic import Field

from hostler.config.section import Section


class Prices(Section):
    """What model requests and working sandboxes cost, for budgets and for the cost of a session."""

    file: str = Field("", description="TOML file with list prices, in place of or besides the shipped estimates.")
    runtime_usd_per_hour: float = Field(
        0.08,
        ge=0,
        le=1000,
        description="What an hour in which a session is worked on costs, in USD. Default: the contract's public price. "
        "0: nothing. Part of a session's list cost, so it counts in budgets.",
    )
