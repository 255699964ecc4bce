"""How much may one workspace have? Five limits. 0 means that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from hostler.domain.values import Value

LimitName = Literal[
    "create_requests_per_minute", "read_requests_per_minute", "sessions_per_day", "live_sessions", "storage_bytes"
]
LIMITS: Final[tuple[LimitName, ...]] = get_args(LimitName)

Quotas = Mapping[LimitName, int]
"""Every limit by its name; 0: no limit."""
Overrides = Mapping[LimitName, int]
"""The limits that a workspace has of its own. What is not there is the server's."""

UNLIMITED: Final[Quotas] = dict.fromkeys(LIMITS, 0)
CONTRACT: Final[Quotas] = {**UNLIMITED, "create_requests_per_minute": 300, "read_requests_per_minute": 1_200}
"""What the service that this API comes from documents."""
Preset = Literal["unlimited", "contract"]
PRESETS: Final[dict[Preset, Quotas]] = {"unlimited": UNLIMITED, "contract": CONTRACT}

Limit = Annotated[int, Field(ge=0, le=2**53)]


class SetQuotas(Value):
    """Limits of one workspace. Left out: stays. Null: the server's default again. 0: no limit."""

    create_requests_per_minute: Limit | None = None
    read_requests_per_minute: Limit | None = None
    sessions_per_day: Limit | None = None
    live_sessions: Limit | None = None
    storage_bytes: Limit | None = None

    def onto(self, stored: Overrides) -> dict[LimitName, int]:
        """The overrides that follow when `stored` are those of now."""
        following = dict(stored)
        for name in LIMITS:
            if name in self.model_fields_set:
                value: int | None = getattr(self, name)
                if value is None:
                    following.pop(name, None)
                else:
                    following[name] = value
        return following
