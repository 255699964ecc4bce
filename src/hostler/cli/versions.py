"""`hostler version`: what runs here."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """JSON of the command: `{"hostler", "claude", "agent_sdk", "client", "python"}`, each a version."""
    return {
        "hostler": _of("hostler"),
        "claude": _claude(),
        "agent_sdk": _of("claude-agent-sdk"),
        "client": _of("anthropic"),
        "python": platform.python_version(),
    }


def print_versions(*, as_json: bool) -> None:
    found = versions()
    if as_json:
        print(json.dumps(found))
        return
    said = {"hostler": "hostler", "claude": "claude", "agent_sdk": "Agent SDK", "client": "client", "python": "Python"}
    for name, value in found.items():
        print(f"{said[name]:<10} {value}")


def _of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _claude() -> str:
    # The number that the pinned SDK gives for the binary that it brings along; importing the SDK takes a second.
    from hostler.cli.bundled import bundled_claude

    found = bundled_claude()
    return found.version if found is not None else "not installed"
