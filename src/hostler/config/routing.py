"""What can an operator say about which model answers which request?"""

from __future__ import annotations

from pydantic import Field

from hostler.config.section import Section


class Routing(Section):
    """Which model answers which request."""

    file: str = Field(
        "", description="JSON file with rules for all agents: `before` and `after` their own, and `fallbacks`."
    )
