"""What does a session say about how it is isolated? Its label: what was promised, and what it really ran in.

Our extension of the wire's session, under `isolation`:

    {"preset": "production", "networking": "limited", "technology": "gvisor", "cli_version": null,
     "sandbox": {"technology": "gvisor", "runtime": "runsc …", …, "cli_version": "2.1.300"},
     "earlier": []}

`technology` and `cli_version` are what the environment asks for, null when it leaves the choice to the server.
`sandbox` is the sandbox of the latest process, null before there was one. `earlier` are the technologies of processes
before that, when they were others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hostler.domain.environments import CloudConfig, SelfHostedConfig
from hostler.domain.isolation import SANDBOX_LIMITS, Preset
from hostler.engine.sandbox_port import IsolationLabel

Label = dict[str, Any]


def begun(config: CloudConfig | SelfHostedConfig, preset: Preset) -> Label:
    """The label of a session that has had no sandbox yet."""
    cloud = config if isinstance(config, CloudConfig) else None
    return {
        "preset": preset,
        "networking": cloud and cloud.networking.type,
        "technology": cloud and cloud.isolation.technology,
        "cli_version": cloud and cloud.hosting.cli_version,
        "sandbox": None,
        "earlier": [],
    }


def running(before: Mapping[str, Any], label: IsolationLabel, cli_version: str, asked: str | None) -> Label:
    """The label once a process runs. `asked`: the version that the environment asks for by now."""
    last = before.get("sandbox")
    earlier = list(before.get("earlier") or ())
    if last is not None and last["technology"] != label.technology:
        earlier = [*(name for name in earlier if name != last["technology"]), last["technology"]]
    before = {**before, "cli_version": asked}
    return {**before, "sandbox": {**facts(label), "cli_version": cli_version}, "earlier": earlier}


def facts(label: IsolationLabel) -> dict[str, Any]:
    """The wire's object for one label."""
    return {
        "technology": label.technology,
        "runtime": label.runtime,
        "host_user": label.host_user,
        "kernel": label.kernel,
        "limits_by": label.limits_by,
        "disk_by": label.disk_by,
        "unlimited": [name for name in SANDBOX_LIMITS if name in label.unenforced],
        "missing": list(label.missing),
    }
