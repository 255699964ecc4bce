"""How are the facts of a server said in words for a person?"""

from __future__ import annotations

from typing import Any

from hostler.engine.sandbox_port import IsolationLabel

_USERS = {
    "per_sandbox": "a host user of its own for each sandbox",
    "shared": "all sandboxes are the worker's own host user",
}
_LIMITS = {
    "cgroup_v1": "memory, processor and process limits by cgroup v1",
    "cgroup_v2": "memory, processor and process limits by cgroup v2",
    "none": "NO memory, processor or process limits",
}


def isolation(label: IsolationLabel) -> str:
    return f"{label.technology}: {_USERS[label.host_user]}, {_LIMITS[label.limits_by]}"


def isolation_facts(label: IsolationLabel) -> dict[str, Any]:
    return {
        "technology": label.technology,
        "host_user": label.host_user,
        "limits_by": label.limits_by,
        "missing": list(label.missing),
    }


def model(base_url: str, *, rehearsing: bool) -> str:
    if rehearsing:
        return (
            "REHEARSAL: no model answers, a script does (tools and files are real). "
            "Set ANTHROPIC_API_KEY for the real model."
        )
    return f"real, at {base_url}"
