"""What does an administrator ask for? Keys and workspaces, as `/hostler/v1` takes them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from hostler.domain.principals import SCOPES, Scope
from hostler.domain.values import Identifier, Items, Text, Value, problem

LONGEST_LIFE: Final = 10 * 366 * 86_400
"""Seconds. Ten years: longer is the same as for ever."""


def _name(text: str) -> str:
    if not text.strip():
        raise problem("must not be blank; give a name to recognise it by")
    return text


Name = Annotated[Text, Field(min_length=1, max_length=256), AfterValidator(_name)]


class CreateKey(Value):
    """An API key. Without scopes it has all three; without an expiry it is valid until it is revoked."""

    name: Name
    scopes: Annotated[Items[Scope], Field(min_length=1, max_length=len(SCOPES))] = SCOPES
    expires_in_seconds: Annotated[int, Field(ge=1, le=LONGEST_LIFE)] | None = None
    workspace_id: Identifier | None = None
    """Whose key; None: the workspace of the key that asks."""


class NameWorkspace(Value):
    """A new workspace, or a new name for one."""

    name: Name
