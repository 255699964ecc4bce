"""How is a server of a test told to use one rung of the ladder?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from image import image_of_tests

from hostler.engine.sandbox_port import Technology


@dataclass(frozen=True)
class Rung:
    """One technology, made ready on this machine by the project's own scripts."""

    name: Technology
    engine: Literal["", "docker", "podman"] = ""
    """The container engine that makes its sandboxes."""

    def settings(self, request: pytest.FixtureRequest, state: Path) -> dict[str, Any]:
        """Settings of a server with this state folder. The base image is there already: all tests share one."""
        found: dict[str, Any] = {"sandbox__technology": self.name}
        if self.name != "bubblewrap":
            state.mkdir(mode=0o711, exist_ok=True)
            (state / "images").symlink_to(image_of_tests() / "images")
        if self.engine:
            socket = request.getfixturevalue(f"{self.engine}_engine").socket
            found |= {f"sandbox__{self.engine}__socket": str(socket)}
        if self.name == "gvisor":
            found |= {"sandbox__gvisor__engine": self.engine}
        return found

    def __str__(self) -> str:
        return f"{self.name}-by-{self.engine}" if self.engine and self.engine != self.name else self.name


RUNGS = (
    Rung("bubblewrap"),
    Rung("gvisor"),
    Rung("docker", "docker"),
    Rung("podman", "podman"),
    Rung("gvisor", "docker"),
)
