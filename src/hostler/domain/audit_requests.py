"""What can be asked of the audit log in a body?"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from hostler.domain.values import Identifier, Value, problem


def _storable(text: str) -> str:
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise problem("holds what no name can hold; pass it as an entry of the audit shows it")
    return text


class RedactAudit(Value):
    """The body of `POST /hostler/v1/audit/redact`."""

    subject: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_storable)]
    """A session, the target of an act, or the name of somebody who works at this host."""
    workspace_id: Identifier | None = None
    """Whose log; None: that of the workspace of the key that asks."""
