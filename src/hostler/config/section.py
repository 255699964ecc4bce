"""What is every group of settings?"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, and refuses names that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
