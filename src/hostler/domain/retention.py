"""What is removed after how many days, and who may ask for it? The policies, by name.

A policy without days removes nothing: that is the default of everything that anybody could miss. Model requests, which
are the bill, have no policy, and never will.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from hostler.domain.values import Identifier, Value

PolicyName = Literal[
    "archived_sessions",
    "automatic_checkpoints",
    "archived_logs",
    "archived_files",
    "cut_entries",
    "compaction_archives",
    "outputs",
    "ephemeral_outputs",
    "egress_decisions",
    "credential_uses",
    "audit_entries",
    "webhook_deliveries",
    "work_items",
    "previews",
]
"""In the order in which they are carried out: what goes with a session is not counted again."""
POLICIES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)

Days = Mapping[PolicyName, int | None]
"""By policy; None: for ever."""

HARMLESS: Final[Days] = {**dict.fromkeys(POLICIES), "cut_entries": 30, "webhook_deliveries": 30, "previews": 1}
"""The defaults. What they remove can't be reached any more, or is a log of attempts."""

MOST_DAYS: Final = 36_500
NumberOfDays = Annotated[int, Field(ge=0, le=MOST_DAYS)]


class SetRetention(Value):
    """Days of one workspace. Left out: stays. Null: the server's default again. 0: for ever."""

    workspace_id: Identifier | None = None
    """Whose; None: the workspace of the key that asks."""
    archived_sessions: NumberOfDays | None = None
    automatic_checkpoints: NumberOfDays | None = None
    archived_logs: NumberOfDays | None = None
    archived_files: NumberOfDays | None = None
    cut_entries: NumberOfDays | None = None
    compaction_archives: NumberOfDays | None = None
    outputs: NumberOfDays | None = None
    ephemeral_outputs: NumberOfDays | None = None
    egress_decisions: NumberOfDays | None = None
    credential_uses: NumberOfDays | None = None
    audit_entries: NumberOfDays | None = None
    webhook_deliveries: NumberOfDays | None = None
    work_items: NumberOfDays | None = None
    previews: NumberOfDays | None = None

    def onto(self, stored: Days) -> dict[PolicyName, int | None]:
        """The overrides that follow when `stored` are those of now."""
        following = dict(stored)
        for name in POLICIES:
            if name in self.model_fields_set:
                value: int | None = getattr(self, name)
                if value is None:
                    following.pop(name, None)
                else:
                    following[name] = value or None
        return following


class RunRetention(Value):
    """The body of `POST /hostler/v1/retention/runs`."""

    dry_run: bool = False
    """Only say what would be removed."""
    workspace_id: Identifier | None = None
    """Whose; None: the workspace of the key that asks."""
