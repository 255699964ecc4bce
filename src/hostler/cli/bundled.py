"""Where is the `claude` binary that the pinned Agent SDK brings along, and which version is it?

Found without importing the SDK: that takes most of a second, which `hostler version` should not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bundled:
    path: Path
    version: str


def bundled_claude() -> Bundled | None:
    """None when the SDK is not installed. The path may not exist: some wheels come without a binary."""
    spec = find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    try:
        found = re.search(r"__cli_version__\s*=\s*[\"']([^\"']+)", (folder / "_cli_version.py").read_text("utf-8"))
    except OSError:
        found = None
    return Bundled(folder / "_bundled" / "claude", found.group(1) if found else "unknown")
