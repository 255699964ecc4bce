"""What is a container made from, so that nothing but its specification is inside?

Pure: a specification and what is on the host become the body of a request to the engine. `docs/explanation/sandbox.md`
says what every line is for.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hostler.engine.sandbox_port import SandboxSpec
from hostler.sandbox.launch import EGRESS_PORT, HALF_OPEN_SECONDS

LABEL_STATE = "hostler.state"
"""Which state directory a container belongs to: nobody else touches it."""
LABEL_SANDBOX = "hostler.sandbox"
LABEL_SESSION = "hostler.session"

INSIDE_CALLS = "/opt/hostler/calls"
"""Where the tether is, and the sockets over which commands come."""

KEEPER = (
    f"while :; do socat -t{HALF_OPEN_SECONDS} TCP-LISTEN:{EGRESS_PORT},bind=127.0.0.1,fork,reuseaddr"
    " UNIX-CONNECT:/run/hostler/egress.sock </dev/null >/dev/null 2>&1 & wait $!; sleep 0.1; done"
)
"""Process 1: forwards the port to the egress socket, again if somebody inside ends the forwarder, and takes over
orphans. It can't be killed from inside, being process 1 without a handler."""

OPEN_PROCESSES = 1 << 14
"""Bound for processes of one user where an engine insists on one: half of what Podman's service has itself. The limit
of the sandbox is that of its group."""

GVISOR_THREADS, GVISOR_OWN_THREADS = 4, 512
"""Threads of the host that one inside may need, and those of gVisor itself. Were the group's limit reached before the
one inside, gVisor would die, and the sandbox with it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the host holds ready for one container."""

    sandbox_id: str
    state: str
    """Identity of the state directory."""
    image: str
    user: int
    """Uid and gid, inside and on the host."""
    etc: Path
    """Files that take the place of the image's in `/etc`."""
    calls: Path
    roads: Mapping[str, Path]
    """What is at or below `/run/hostler` inside: paths inside to paths of the host."""


def name_of(sandbox_id: str) -> str:
    return f"hostler-{sandbox_id}"


def config(
    spec: SandboxSpec, ground: Ground, kind: Literal["docker", "podman"], runtime: str, gvisor: bool, seccomp: str
) -> dict[str, Any]:
    """The body of the request that creates it.

    runtime  name of a runtime that the engine knows; empty: its default
    gvisor   whether that is gVisor
    seccomp  the profile in the form that this engine takes
    """
    limits = spec.limits
    user = f"{ground.user}:{ground.user}"
    room = f"rw,noexec,nosuid,nodev,size={limits.tmp_bytes}"
    # Podman takes no owner here; the home is nobody else's either way, there is one user inside.
    home = "mode=1777,notmpcopyup" if kind == "podman" else f"mode=0700,uid={ground.user},gid={ground.user}"
    tmpfs = {"/tmp": f"{room},mode=1777", "/dev/shm": f"{room},mode=1777", "/home/agent": f"{room},{home}"}
    ulimits = [_ulimit("nofile", limits.open_files), _ulimit("core", 0)]
    if gvisor and limits.pids is not None:
        ulimits.append(_ulimit("nproc", limits.pids))  # it counts these inside, for all users together
    elif kind == "podman":  # it would ask for more than a service without that privilege may have
        ulimits.append(_ulimit("nproc", _most_processes()))
    if kind == "podman":  # it makes both writable, without a limit, unless they are something else already
        tmpfs |= dict.fromkeys(("/run", "/var/tmp"), "rw,noexec,nosuid,nodev,size=64k,mode=0755,notmpcopyup")
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "IpcMode": "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp}"],
        "ReadonlyRootfs": True,
        "Privileged": False,
        "Tmpfs": tmpfs,
        "Mounts": _mounts(spec, ground, kind),
        "Ulimits": ulimits,
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
    }
    if kind == "docker":
        host["UsernsMode"] = "host"  # else an engine with remapped ids would give the folders to nobody
    if runtime:
        host["Runtime"] = runtime
    if limits.memory_bytes is not None:
        host |= {"Memory": limits.memory_bytes, "MemorySwap": limits.memory_bytes}
    if limits.cpus is not None:
        host["NanoCpus"] = round(limits.cpus * 1e9)
    if limits.pids is not None:
        host["PidsLimit"] = limits.pids * GVISOR_THREADS + GVISOR_OWN_THREADS if gvisor else limits.pids
    return {
        "Image": ground.image,
        "Hostname": "sandbox",
        "User": user,
        "WorkingDir": "/",
        "Entrypoint": ["/bin/sh", "-c", KEEPER],
        "Cmd": [],
        "Env": ["PATH=/usr/bin:/bin", "HOME=/home/agent"],
        "Tty": False,
        "OpenStdin": False,
        "Labels": {
            LABEL_STATE: ground.state,
            LABEL_SANDBOX: ground.sandbox_id,
            LABEL_SESSION: spec.session_id,
        },
        "HostConfig": host,
    }


def _mounts(spec: SandboxSpec, ground: Ground, kind: str) -> list[dict[str, Any]]:
    found = [
        *(_bind(ground.etc / name, f"/etc/{name}", kind) for name in sorted(os.listdir(ground.etc))),
        _bind(spec.harness_state, "/home/agent/.claude", kind, writable=True),
        _bind(spec.workspace, "/workspace", kind, writable=True),
        _bind(spec.outputs, "/mnt/session/outputs", kind, writable=True),
        _bind(spec.program, "/opt/hostler/claude", kind),
        _bind(ground.calls, INSIDE_CALLS, kind),
        *(_bind(source, inside, kind) for inside, source in ground.roads.items()),
    ]
    given = [_bind(mount.source, mount.inside, kind, writable=mount.writable) for mount in spec.mounts]
    # Engines mount in the order of depth, so that one may lie inside another whatever their order is here.
    later = {mount["Target"] for mount in given}
    return [mount for mount in found if mount["Target"] not in later] + given


def _bind(source: Path, inside: str, kind: str, *, writable: bool = False) -> dict[str, Any]:
    options: dict[str, Any] = {"Propagation": "rprivate"}
    if not writable and kind == "docker":
        options["NonRecursive"] = True  # read-only is said of one file system only: nothing mounted below comes along
    return {
        "Type": "bind",
        "Source": os.path.abspath(source),
        "Target": inside,
        "ReadOnly": not writable,
        "BindOptions": options,
    }


def _ulimit(name: str, most: int) -> dict[str, Any]:
    return {"Name": name, "Soft": most, "Hard": most}


def _most_processes() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    return OPEN_PROCESSES if hard == resource.RLIM_INFINITY else min(OPEN_PROCESSES, hard)
