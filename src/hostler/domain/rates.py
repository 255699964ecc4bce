"""What can be limited to so much a minute on the road to the model, and for whom?

Amounts are of one minute. Input tokens are those that providers count: not those that were read from a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from hostler.domain.values import Identifier, Value

Kind = Literal["requests", "input_tokens", "output_tokens", "tokens"]
"""`tokens`: input and output together. Only upstreams limit them."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Scope = Literal["upstream", "model", "workspace", "agent"]
"""`model`: a model at an upstream."""
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

Rates = Mapping[Kind, int]
"""So much a minute, of each kind that is limited."""

MOST: Final = 10**12
PerMinute = Annotated[int, Field(ge=1, le=MOST)]


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one limit is counted in."""

    scope: Scope
    subject: str
    """Name of the upstream; `upstream/model`, the model as agents name it; id of the workspace or of the agent."""
    kind: Kind
    workspace_id: str = ""
    """Whose it is. Empty: it is the installation's."""

    @property
    def key(self) -> str:
        """Its name in the store. Orders buckets, and two never share one."""
        return f"{self.scope}:{self.kind}:{self.subject}"

    @property
    def words(self) -> str:
        """`requests a minute of the workspace wrkspc_1`, for messages."""
        return f"{self.kind.replace('_', ' ')} a minute {self.whose}"

    @property
    def whose(self) -> str:
        if self.scope == "model":
            upstream, _, model = self.subject.partition("/")
            return f"for {model} at the upstream {upstream}"
        return f"of the {self.scope} {self.subject}"


class SetRateLimits(Value):
    """Limits of a workspace, or of one agent of it. Left out: stays. Null: none."""

    workspace_id: Identifier | None = None
    """Whose; None: the workspace of the key that asks."""
    agent_id: Identifier | None = None
    """None: the workspace's own."""
    requests_per_minute: PerMinute | None = None
    input_tokens_per_minute: PerMinute | None = None
    output_tokens_per_minute: PerMinute | None = None

    def onto(self, stored: Rates) -> dict[Kind, int]:
        """The limits that follow when `stored` are those of now."""
        following = dict(stored)
        for kind in KINDS:
            name = f"{kind}_per_minute"
            if name in self.model_fields_set:
                value: int | None = getattr(self, name)
                if value is None:
                    following.pop(kind, None)
                else:
                    following[kind] = value
        return following
