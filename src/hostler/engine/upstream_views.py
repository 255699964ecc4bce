"""How does a person see how the upstreams do?"""

from __future__ import annotations

from typing import Any

from hostler.domain.clock import rfc3339_of
from hostler.engine.model_port import Trouble, UpstreamHealth


def view(upstream: UpstreamHealth, now: float | None) -> dict[str, Any]:
    """For `/hostler/v1/health`. `now`: seconds since 1970; None: nobody knows, and no moments are said."""
    return {
        "name": upstream.name,
        "state": "degraded" if any(map(_broken, upstream.troubles)) else "ok",
        "order": upstream.order,
        "weight": upstream.weight,
        "models": [_trouble(trouble, now) for trouble in upstream.troubles],
    }


def reasons(upstream: UpstreamHealth) -> list[str]:
    """Why the gateway is degraded. That an upstream is busy with us is none."""
    return [_reason(upstream.name, trouble) for trouble in upstream.troubles if _broken(trouble)]


def _broken(trouble: Trouble) -> bool:
    return trouble.state != "resting"


def _reason(name: str, trouble: Trouble) -> str:
    left = trouble.next_trial_seconds
    then = "one request tries it now" if left is None else f"the next trial is in {left:.0f} s"
    return (
        f"upstream {name}: {trouble.model} is left alone for {trouble.since_seconds:.0f} s now, after "
        f"{trouble.failures} failures in a row ({trouble.why}); {then}"
    )


def _trouble(trouble: Trouble, now: float | None) -> dict[str, Any]:
    left = trouble.next_trial_seconds
    return {
        "model": trouble.model,
        "state": trouble.state,
        "reason": trouble.why,
        "failures": trouble.failures,
        "since": None if now is None else rfc3339_of(now - trouble.since_seconds),
        "next_trial_at": None if now is None or left is None else rfc3339_of(now + left),
    }
