"""What does a client say to get an environment key?"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from hostler.domain.values import Text, Value, problem


def _said(name: str) -> str:
    if not name.strip():
        raise problem("must not be blank; name the key after the machine that will use it")
    return name


class CreateEnvironmentKey(Value):
    """The body of `POST /hostler/v1/environments/{id}/keys`."""

    name: Annotated[Text, Field(min_length=1, max_length=256), AfterValidator(_said)]
