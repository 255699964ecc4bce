"""What can an operator set about model requests that fail: how long they go on, and when an upstream is left alone?"""

from __future__ import annotations

from pydantic import Field

from hostler.config.section import Section


class Attempts(Section):
    """How a failed model request goes on. See `docs/explanation/gateway.md`."""

    total_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="How long a request goes on, until the first of an answer. `claude` is told to wait for a minute "
        "longer.",
    )
    first_event_seconds: float = Field(
        180.0,
        gt=0,
        description="How long one attempt waits for the first event of a streamed answer. A long prompt can take two "
        "minutes.",
    )
    costly_retries: int = Field(
        3,
        ge=0,
        le=100,
        description="How often it is asked again after an attempt that the upstream may charge for: one that it began "
        "to answer, or said nothing to for too long.",
    )
    base_seconds: float = Field(
        0.5, ge=0, description="Limit of the first pause before the same upstream is asked again; it doubles each time."
    )
    longest_pause_seconds: float = Field(60.0, ge=0, description="Limit of each of these pauses.")
    most_retry_after_seconds: float = Field(
        300.0,
        ge=0,
        description="An upstream that asks for a longer pause (`retry-after`) is not asked again for this request.",
    )
    tries_before_fallback: int = Field(
        2, ge=1, description="How often each upstream is asked for a model before a fallback model of its agent is."
    )
    wait_before_fallback_seconds: float = Field(
        5.0, ge=0, description="A model that can't be asked for longer than this gives way to its fallback at once."
    )
    breaker_failures: int = Field(
        5,
        ge=1,
        description="After so many failures in a row a model of an upstream is left alone. Fewer do so for a hiccup.",
    )
    breaker_rate: float = Field(
        0.5, gt=0, le=1, description="Or when such a part of the requests of the window failed."
    )
    breaker_least: int = Field(20, ge=1, description="For that there must have been so many.")
    breaker_window_seconds: float = Field(60.0, gt=0, description="The window.")
    breaker_open_seconds: float = Field(
        5.0,
        gt=0,
        description="How long it is left alone, until one request tries it. Twice as long each time that this fails.",
    )
    breaker_longest_open_seconds: float = Field(120.0, gt=0, description="Limit of that.")
    probe_seconds: float = Field(
        15.0, ge=0, description="How often an upstream that is left alone is looked at without a request. 0: never."
    )
    harness_retries: int = Field(
        10,
        ge=0,
        le=15,
        description="How often `claude` itself asks again where the gateway can't: after an answer that broke off in "
        "the middle, or when the server has just lost its database.",
    )
