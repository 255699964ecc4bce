"""How is a server of a test told to use one rung of the ladder?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from image import base_image, image_home

from hostler.engine.sandbox_port import Technology


@dataclass(frozen=True)
class Rung:
    """One technology, made ready on this machine by the project's own scripts."""

    name: Technology

    def settings(self, request: pytest.FixtureRequest, state: Path) -> dict[str, Any]:
        """Settings of a server with this state folder. The base image is there already: all tests share one."""
        found: dict[str, Any] = {"sandbox__technology": self.name}
        if self.name != "bubblewrap":
            base_image()
            state.mkdir(mode=0o711, exist_ok=True)
            (state / "images").symlink_to(image_home() / "images")
        return found


RUNGS = (Rung("bubblewrap"), Rung("gvisor"))
