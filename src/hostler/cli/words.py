"""How are the facts of a server said in words for a person?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hostler.engine import labels
from hostler.engine.sandbox_port import IsolationLabel

if TYPE_CHECKING:
    from hostler.config import Settings

_KERNELS = {
    "host": "the host's kernel",
    "user_space": "a kernel in user space",
    "own": "a kernel of its own",
}
_USERS = {
    "per_sandbox": "a host user of its own for each sandbox",
    "shared": "all sandboxes are the worker's own host user",
    "engine": "the container engine's user 1000 for all sandboxes",
}
_LIMITS = {
    "cgroup_v1": "memory, processor and process limits by cgroup v1",
    "cgroup_v2": "memory, processor and process limits by cgroup v2",
    "engine": "memory, processor and process limits by the container engine",
    "machine": "memory and processors of a virtual machine",
    "none": "NO memory, processor or process limits",
}
_DISKS = {"volume": "a disk limit", "none": "NO disk limit"}


def isolation(label: IsolationLabel) -> str:
    return isolation_of(labels.facts(label))


def isolation_of(facts: Mapping[str, Any]) -> str:
    """The same for a label as the wire shows it. Words that are not known here are said as they are."""
    said = [
        _KERNELS.get(facts["kernel"], facts["kernel"]),
        _USERS.get(facts["host_user"], facts["host_user"]),
        _LIMITS.get(facts["limits_by"], facts["limits_by"]),
        _DISKS.get(facts["disk_by"], facts["disk_by"]),
    ]
    runtime = f" ({facts['runtime']})" if facts["runtime"] else ""
    return f"{facts['technology']}{runtime}: {', '.join(said)}"


def isolation_facts(label: IsolationLabel) -> dict[str, Any]:
    return labels.facts(label)


def session_place(shown: Mapping[str, Any]) -> str:
    """A session's label, in two words."""
    technology = (shown.get("sandbox") or {}).get("technology") or shown.get("technology") or ""
    return f"{shown.get('preset', '')} {technology}".strip()


def session_isolation(shown: Mapping[str, Any]) -> str:
    """A session's label, on one line."""
    preset = shown.get("preset", "unknown")
    open_ = ", open network" if shown.get("networking") == "unrestricted" else ""
    sandbox = shown.get("sandbox")
    if sandbox is None:
        return f"{preset}{open_}; no sandbox yet"
    version = f", claude {sandbox['cli_version']}" if sandbox.get("cli_version") else ""
    return f"{preset}{open_}; {isolation_of(sandbox)}{version}"


def model(settings: Settings, *, rehearsing: bool) -> str:
    if rehearsing:
        return (
            "REHEARSAL: no model answers, a script does (tools and files are real). "
            "Set ANTHROPIC_API_KEY for the real model."
        )
    if settings.upstreams:
        ordered = sorted(settings.upstreams, key=lambda upstream: upstream.order)
        return "real, at " + ", ".join(f"{upstream.name} ({upstream.kind})" for upstream in ordered)
    return f"real, at {settings.model.base_url}"
