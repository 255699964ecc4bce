"""What exactly does `runsc` start, and how do the session's things get where it can reach them?

A sandbox is started by a script: `env` (forgets the worker's environment) → `unshare` (a mount namespace of its own) →
`bash` (joins the control groups, mounts everything in one place that the sandbox's host users can reach) → `runsc run`.
The mounts end with the sandbox's last process. What stays alive inside is a holder: it forwards the egress port, and
keeps the place open that launcher and entrance run their commands in.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostler.engine.mountpoints import make_mount_point
from hostler.engine.sandbox_port import Mount, SandboxSpec, SandboxUnavailable
from hostler.sandbox.estate import Holding
from hostler.sandbox.launch import EGRESS_PORT, HALF_OPEN_SECONDS, MARK, UID_INSIDE

HOLDER_UID = 998
"""The holder's user inside: not the agent's, so that the agent can't end it."""

_STAGE_CANDIDATES = ("/mnt", "/media", "/srv", "/opt")
"""Directories over which the script may mount, in its own mount namespace, what the sandbox is to reach."""

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS = ("proc", "dev/shm", "sys", "tmp", "home/agent", "workspace", "mnt/session/outputs", "run/hostler")
_PROGRAM = "/opt/hostler/claude"

_HOLD = (
    "exec </dev/null >/dev/null 2>&1; PATH=/usr/bin:/bin:/usr/local/bin; cd /; while :; do"
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
class Base:
    """What the root file system is made of."""

    lowers: tuple[Path, ...]
    """Folders of an overlay, the upper one first. Empty: the programs of the host."""
    etc: Path
    """The `/etc` that goes with the programs of the host (`launch.prepare_etc`)."""
    etc_from_host: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything of one sandbox that is ready to be started. The files are the worker's alone."""

    start: Path
    """Starts the sandbox and returns when the holder runs."""
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
    over = _stage_point(home, tools)
    stage = home / "stage"
    _folder(stage)
    for name in ("runs", "bundle", runsc_root(home).name):
        (home / name).mkdir(mode=0o700)
    lines, afterwards = _root(stage, over, base)
    sources = {"workspace": spec.workspace, "outputs": spec.outputs, "harness": spec.harness_state}
    sources |= {"claude": spec.program} | {f"mount-{n}": mount.source for n, mount in enumerate(spec.mounts)}
    for name, source in sources.items():
        lines.append(_bind(os.path.abspath(source), _point(stage / name, source)))
    _folder(stage / "roads")
    lines += _roads(stage / "roads", spec, hard=holding.adoptable)
    for mount in spec.mounts:
        _make_way(stage, spec, mount)
    # Last: the sources may themselves be below the place that this hides.
    lines.append(f"{_fstab(str(stage))} {over} none rbind 0 0\n")
    (home / "fstab").write_text("".join([*lines, *afterwards]))
    config = _config(spec, holding, over)
    (home / "bundle" / "config.json").write_text(json.dumps(config))
    mark = f"{MARK}={holding.sandbox_id}"
    script = [
        f"#!{tools.env} -S -i {mark} {tools.unshare} --mount --propagation slave {tools.bash} -p",
        "set -eu",
        "cd /",
        *(f"echo 0 > {shlex.quote(str(entrance))}" for entrance in entrances),
        "ulimit -c 0",
        "ulimit -n $(ulimit -Hn)",  # gVisor holds a descriptor of the host for every open file inside, and more
        f"{tools.mount} -aT {shlex.quote(str(home / 'fstab'))}",
        shlex.join(
            [
                *("exec", tools.runsc, "--root", str(runsc_root(home)), *flags),
                *("run", "--detach", "--bundle", str(home / "bundle"), holding.sandbox_id),
            ]
        ),
    ]
    start = _script(home / "start", script)
    enter = shlex.join([sys.executable, "-I", "-S", "-E", str(Path(__file__).with_name("gvisor_enter.py"))])
    there = shlex.join([tools.runsc, str(runsc_root(home)), holding.sandbox_id, str(home / "runs")])
    first = f"#!{tools.env} -S -i {mark} {tools.bash} -p"
    entrance = _script(home / "entrance", [first, "cd /", f'exec {enter} enter {there} "$@"'])
    launcher = _script(home / "launcher", [first, "cd /", f'exec {enter} launch {there} {_PROGRAM} "$@"'])
    return Bundle(start, launcher, entrance)


def open_roads(home: Path, spec: SandboxSpec) -> None:
    """Puts the sockets of the spec where those were that the sandbox was made with."""
    for name, source in _sockets(spec).items():
        new = home / "stage" / f".{name}"
        new.unlink(missing_ok=True)
        os.link(source, new)
        new.replace(home / "stage" / "roads" / name)


def can_reopen(home: Path, spec: SandboxSpec) -> bool:
    """Whether sockets that are made later could be put in the place of those of the spec: a name of theirs is put into
    a folder of the sandbox, and names don't go from one file system to another."""
    return all(os.stat(path).st_dev == os.stat(home.parent).st_dev for path in _sockets(spec).values())


# ---------------------------------------------------------------------------------------------------------- the parts


def _sockets(spec: SandboxSpec) -> dict[str, Path]:
    return {"model.sock": spec.model_socket, "egress.sock": spec.egress_socket}


def _root(stage: Path, over: str, base: Base) -> tuple[list[str], list[str]]:
    """Lines of the table that make `root` of the stage the read-only root: before it is in its place, and after.

    Its empty folders are made here.
    """
    if base.lowers:
        # The uppermost folder has the mount points. All are named by the stage: their own may have colons.
        _skeleton(stage / "skeleton", system=False)
        _folder(stage / "root")
        names = ["skeleton"]
        lines = []
        for number, lower in enumerate(base.lowers):
            names.append(f"lower-{number}")
            lines.append(_bind(str(lower), _point(stage / names[-1], lower)))
        lower_dirs = ":".join(f"{over}/{name}" for name in names)
        return lines, [f"overlay {over}/root overlay lowerdir={lower_dirs},ro,nosuid,nodev 0 0\n"]
    root = stage / "root"
    _skeleton(root, system=True)
    lines = [_bind("/usr", root / "usr")]
    for name in _SYSTEM[1:]:
        if (root / name).is_dir() and not (root / name).is_symlink():
            lines.append(_bind(f"/{name}", root / name))
    lines.append(_bind(str(base.etc), root / "etc"))
    lines += [_bind(f"/etc/{name}", root / "etc" / name) for name in base.etc_from_host]
    return lines, []


def _skeleton(top: Path, *, system: bool) -> None:
    _folder(top)
    for name in _FOLDERS:
        _folder(top / name)
    _folder(top / "home/agent/.claude")
    _point(top / _PROGRAM[1:], Path(__file__))
    if system:
        _folder(top / "etc")
        for name in _SYSTEM:
            there = Path("/", name)
            if there.is_symlink():  # merged /usr
                (top / name).symlink_to(os.readlink(there))
            elif there.is_dir():
                _folder(top / name)


def _roads(roads: Path, spec: SandboxSpec, *, hard: bool) -> list[str]:
    lines = []
    for name, source in _sockets(spec).items():
        if hard:
            os.link(source, roads / name)
        else:
            (roads / name).touch()
            lines.append(_bind(os.path.abspath(source), roads / name))
    return lines


def _make_way(stage: Path, spec: SandboxSpec, mount: Mount) -> None:
    """Makes what the mount is put on, without following a link that an agent may have left."""
    skeleton = stage / ("skeleton" if (stage / "skeleton").exists() else "root")
    writable = {"/workspace": spec.workspace, "/mnt/session/outputs": spec.outputs}
    writable |= {"/home/agent/.claude": spec.harness_state}
    for earlier in spec.mounts[: spec.mounts.index(mount)]:
        writable[earlier.inside] = earlier.source
    over = max((place for place in writable if mount.inside.startswith(f"{place}/")), key=len, default=None)
    if over is not None:
        make_mount_point(writable[over], mount.inside[len(over) + 1 :], mount.source.is_dir())
        return
    point = skeleton / mount.inside[1:]
    first = mount.inside.split("/")[1]
    if skeleton.name == "root" and (first == "etc" or first in _SYSTEM):
        raise ValueError(f"{mount.inside} is below the system's own directories, which can't be changed")
    _point(point, mount.source)


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
        _mount(f"{over}/claude", _PROGRAM, writable=False),
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


def _script(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o700)
    return path


def _folder(path: Path) -> None:
    """Makes it, and what is missing on the way, for everybody to enter, whatever the umask."""
    if not path.is_dir():
        _folder(path.parent)
        path.mkdir()
        path.chmod(0o755)


def _point(path: Path, source: Path) -> Path:
    """What `source` can be mounted on."""
    if source.is_dir():
        _folder(path)
    else:
        _folder(path.parent)
        path.touch()
    return path


def _bind(source: str, target: Path) -> str:
    return f"{_fstab(source)} {_fstab(str(target))} none bind 0 0\n"


def _fstab(path: str) -> str:
    for character, code in (("\\", "\\134"), (" ", "\\040"), ("\t", "\\011"), ("\n", "\\012"), ("#", "\\043")):
        path = path.replace(character, code)
    return path


def _stage_point(home: Path, tools: Tools) -> str:
    needed = [str(home), tools.runsc, tools.mount]
    for candidate in _STAGE_CANDIDATES:
        free = not any(os.path.realpath(path).startswith(f"{candidate}/") for path in needed)
        if free and os.path.isdir(candidate) and not os.path.islink(candidate):
            return candidate
    raise SandboxUnavailable(f"none of {', '.join(_STAGE_CANDIDATES)} is a directory that is free; create /mnt")
