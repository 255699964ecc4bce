"""What exactly does `runsc` start, and how do the session's things get where it can reach them?

A sandbox is started by a script: `env` (forgets the worker's environment) → `unshare` (a mount namespace of its own) →
`bash` (joins the control groups, mounts everything in one place that the sandbox's host users can reach) → `runsc run`.
While it runs it holds a lock, on which launcher and entrance wait; afterwards there is a file that says that the
sandbox is up. The mounts end with the sandbox's last process. What stays alive inside is a holder: it forwards the
egress port, and keeps the place open that launcher and entrance run their commands in.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostler.engine.sandbox_port import SandboxSpec
from hostler.sandbox import gvisor_enter, programs, staging
from hostler.sandbox.estate import Holding
from hostler.sandbox.launch import EGRESS_PORT, HALF_OPEN_SECONDS, MARK, UID_INSIDE
from hostler.sandbox.staging import Base

HOLDER_UID = 998
"""The holder's user inside: not the agent's, so that the agent can't end it."""
HOLDER_PIDS = 2
"""Its processes, while nothing uses the port."""

_HOLD = (
    # A moment later than the program, which needs the processors more while it starts than it needs the port.
    "exec </dev/null >/dev/null 2>&1; PATH=/usr/bin:/bin:/usr/local/bin; cd /; sleep 0.1; while :; do"
    f" socat -t{HALF_OPEN_SECONDS} TCP-LISTEN:{EGRESS_PORT},bind=127.0.0.1,fork,reuseaddr"
    " UNIX-CONNECT:/run/hostler/egress.sock; sleep 1; done"
)


@dataclass(frozen=True, slots=True)
class Tools:
    """Absolute paths of host programs."""

    env: str
    unshare: str
    bash: str
    mount: str
    runsc: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything of one sandbox that is ready to be started. The files are the worker's alone."""

    start: Path
    """Starts the sandbox and returns when the holder runs. Its argument is the descriptor of the locked file."""
    launcher: Path
    entrance: Path


def runsc_root(home: Path) -> Path:
    """Where `runsc` keeps its own state of the sandbox."""
    return home / "runsc"


def write(
    home: Path,
    spec: SandboxSpec,
    holding: Holding,
    tools: Tools,
    base: Base,
    flags: Sequence[str],
    entrances: Sequence[Path],
) -> Bundle:
    """Raises ValueError, SandboxUnavailable, OSError."""
    over = staging.place([home, tools.runsc, tools.mount])
    stage = home / "stage"
    for name in (gvisor_enter.RUNS, "bundle", runsc_root(home).name):
        (home / name).mkdir(mode=0o700)
    (home / "fstab").write_text(staging.table(stage, over, spec, base, reopen=holding.adoptable, kept=stage))
    config = _config(spec, holding, over)
    (home / "bundle" / "config.json").write_text(json.dumps(config))
    mark = f"{MARK}={holding.sandbox_id}"
    run = [
        *(tools.runsc, "--root", str(runsc_root(home)), *flags),
        *("run", "--detach", "--bundle", str(home / "bundle"), holding.sandbox_id),
    ]
    script = [
        f"#!{tools.env} -S -i {mark} {tools.unshare} --mount --propagation slave {tools.bash} -p",
        "set -eu",
        "cd /",
        *(f"echo 0 > {shlex.quote(str(entrance))}" for entrance in entrances),
        "ulimit -c 0",
        "ulimit -n $(ulimit -Hn)",  # gVisor holds a descriptor of the host for every open file inside, and more
        f"{tools.mount} -aT {shlex.quote(str(home / 'fstab'))}",
        f'eval {shlex.quote(shlex.join(run))}" $1>&-"',  # the lock is the script's: the sandbox doesn't inherit it
        f": > {shlex.quote(str(home / gvisor_enter.UP))}",
    ]
    start = staging.write_script(home / "start", script)
    there = [tools.runsc, str(runsc_root(home)), holding.sandbox_id, str(home)]
    entrance = programs.write_python(home / "entrance", tools.env, mark, "gvisor_enter", ["enter", *there])
    launch = ["launch", *there, staging.PROGRAM]
    launcher = programs.write_python(home / "launcher", tools.env, mark, "gvisor_enter", launch)
    return Bundle(start, launcher, entrance)


def _config(spec: SandboxSpec, holding: Holding, over: str) -> dict[str, Any]:
    size = spec.limits.tmp_bytes
    ids = [
        {"containerID": 0, "hostID": holding.process_uid, "size": 1},
        {"containerID": UID_INSIDE, "hostID": holding.file_uid, "size": 1},
    ]
    limits = [_limit("NOFILE", spec.limits.open_files), _limit("CORE", 0)]
    if spec.limits.pids is not None:
        limits.append(_limit("NPROC", spec.limits.pids))
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        _tmpfs("/dev/shm", size, mode="1777"),
        _tmpfs("/tmp", size, mode="1777"),
        _tmpfs("/home/agent", size, mode="0700", uid=UID_INSIDE),
        _mount(f"{over}/workspace", "/workspace", writable=True),
        _mount(f"{over}/outputs", "/mnt/session/outputs", writable=True),
        _mount(f"{over}/harness", "/home/agent/.claude", writable=True),
        _mount(f"{over}/roads", "/run/hostler", writable=False),
        _mount(f"{over}/claude", staging.PROGRAM, writable=False),
        *(_mount(f"{over}/mount-{n}", mount.inside, writable=mount.writable) for n, mount in enumerate(spec.mounts)),
    ]
    nothing: list[str] = []
    return {
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": {"path": f"{over}/root", "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": HOLDER_UID, "gid": UID_INSIDE},  # the group may connect to the roads
            "args": ["/bin/sh", "-c", _HOLD],
            "env": [f"{name}={value}" for name, value in spec.environment.items()],  # commands inherit it
            "cwd": "/workspace",
            "capabilities": dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), nothing),
            "rlimits": limits,
            "noNewPrivileges": True,
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "mount", "network", "ipc", "uts", "user")],
            "uidMappings": ids,
            "gidMappings": ids,
        },
    }


def _limit(name: str, value: int) -> dict[str, Any]:
    return {"type": f"RLIMIT_{name}", "soft": value, "hard": value}


def _tmpfs(inside: str, size: int, *, mode: str, uid: int = 0) -> dict[str, Any]:
    options = ["nosuid", "nodev", "noexec", f"mode={mode}", f"size={size}", f"uid={uid}", f"gid={uid}"]
    return {"destination": inside, "type": "tmpfs", "source": "tmpfs", "options": options}


def _mount(source: str, inside: str, *, writable: bool) -> dict[str, Any]:
    options = ["bind", "rw" if writable else "ro", "nosuid", "nodev"]
    return {"destination": inside, "type": "bind", "source": source, "options": options}
