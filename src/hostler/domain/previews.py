"""What is asked of a preview: a port that a session's programs have opened, reachable by a link for a while."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from hostler.domain.values import Value

DEFAULT_SECONDS: Final = 3600
MAX_SECONDS: Final = 7 * 24 * 3600
EGRESS_PORT: Final = 3128
"""Where the sandbox's own road out listens: no program of the session's."""


class CreatePreview(Value):
    """The body of `POST /hostler/v1/sessions/{id}/previews`."""

    port: Annotated[int, Field(ge=1, le=65_535)]
    """TCP port on the sandbox's loopback interface."""
    expires_in_seconds: Annotated[int, Field(ge=60, le=MAX_SECONDS)] = DEFAULT_SECONDS
