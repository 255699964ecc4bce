"""What can an operator set about rate limits on the road to the model?"""

from __future__ import annotations

from pydantic import Field

from hostler.config.section import Section
from hostler.domain.rates import MOST


class Limit(Section):
    """So much a minute. 0: no limit of this kind."""

    requests_per_minute: int = Field(0, ge=0, le=MOST, description="Requests for a message.")
    input_tokens_per_minute: int = Field(
        0, ge=0, le=MOST, description="Tokens of prompts, without those that were read from a cache."
    )
    output_tokens_per_minute: int = Field(0, ge=0, le=MOST, description="Tokens of answers.")


class Rates(Section):
    """How much upstreams and models are asked for. Workspaces and agents: `hostler limits`."""

    limits: dict[str, Limit] = Field(
        {},
        description="Tables named after an upstream, or an upstream and a model (`upstream/model`), each with "
        "`requests_per_minute`, `input_tokens_per_minute` and `output_tokens_per_minute`. What is left out has no "
        "limit.",
    )
    learn: bool = Field(
        True,
        description="Keep to the limits that upstreams tell in the headers of their answers, where they are lower.",
    )
    burst_seconds: float = Field(
        60.0, ge=1.0, le=600.0, description="How much of a limit may be used at once: what it allows in this time."
    )
    wait_seconds: float = Field(
        120.0, ge=0.0, le=550.0, description="How long a request waits for room before the session is told."
    )
    notice_seconds: float = Field(1.0, gt=0.0, description="A session whose request waits for longer says so.")
