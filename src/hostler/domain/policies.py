"""What is asked of the policy simulator: a window of time, and a list to try against what was recorded in it."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, model_validator

from hostler.domain.clock import parse_rfc3339, rfc3339, rfc3339_of
from hostler.domain.networking import NetworkingRequest
from hostler.domain.values import Identifier, Value, problem

_WINDOW: Final = re.compile(r"(?:last-)?([1-9][0-9]{0,3})([mhdw])")
_SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _window(text: str) -> str:
    if _WINDOW.fullmatch(text):
        return text
    try:
        return rfc3339(parse_rfc3339(text))
    except (ValueError, OverflowError):
        raise problem("is no window; write last-7d (m, h, d or w), or a time such as 2026-01-02T03:04:05Z") from None


Window = Annotated[str, AfterValidator(_window)]


def since(window: str, now: float) -> str:
    """Where `window` begins, as the wire writes times. `now`: seconds since 1970."""
    found = _WINDOW.fullmatch(window)
    return window if found is None else rfc3339_of(max(0.0, now - int(found[1]) * _SECONDS[found[2]]))


class TryPolicy(Value):
    """The body of `POST /hostler/v1/policy/test`."""

    environment_id: Identifier
    networking: NetworkingRequest | None = None
    """Tried as an update of the environment would make it: what is left out stays. Absent: the environment's own."""
    since: Window = "last-7d"


class SuggestPolicy(Value):
    """The body of `POST /hostler/v1/policy/suggest`. For one session, or for all of an environment."""

    session_id: Identifier | None = None
    environment_id: Identifier | None = None
    since: Window | None = None
    """Absent: everything that is recorded."""
    fold: bool = True
    """Whether many names below one are taken together as a wildcard, where that is sensible."""

    @model_validator(mode="after")
    def _one(self) -> SuggestPolicy:
        if (self.session_id is None) == (self.environment_id is None):
            raise problem("needs either session_id or environment_id")
        return self
