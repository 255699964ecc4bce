"""Where may this worker make control groups, and of which version?

Asked of the kernel by trying: a directory is made and removed again. What is mounted read-only, belongs to somebody
else or has no controllers to pass on shows itself that way, and in no other as surely.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from hostler.sandbox.cgroups import Cgroups, CgroupsV1, CgroupsV2, NoCgroups

V1_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
LIMITING = frozenset({"memory", "pids", "cpu"})


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy, and the directory in it that is this process's own group."""

    controllers: frozenset[str]
    """Empty for version 2."""
    own: Path


def detect(name: str) -> Cgroups:
    """The best that this host gives: version 1 where it has controllers, else version 2, else none. May take 1 ms.

    `name`: prefix of the directories that are made. Under version 2 this may move the worker into a group of its own,
    `<name>-worker`, because a group with processes can't pass controllers on.
    """
    hierarchies = own_groups(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    parents: dict[str, Path] = {}
    for hierarchy in hierarchies:
        wanted = [controller for controller in V1_CONTROLLERS if controller in hierarchy.controllers]
        if wanted and _can_make(hierarchy.own / f"{name}-probe-{os.getpid()}"):
            parents.update(dict.fromkeys(wanted, hierarchy.own))
    if LIMITING & parents.keys():
        return CgroupsV1(parents)
    for hierarchy in hierarchies:
        if not hierarchy.controllers:
            found = _version_2(hierarchy.own, name)
            if found is not None:
                return found
    return NoCgroups()


def own_groups(cgroup: str, mountinfo: str) -> list[Hierarchy]:
    """Texts of `/proc/self/cgroup` and `/proc/self/mountinfo` to the mounted hierarchies that have us in them."""
    paths: dict[frozenset[str], str] = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        paths[frozenset(filter(None, controllers.split(",")))] = path
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        root, mount_point = (_unescape(word) for word in left.split()[3:5])
        kind, _, options = right.split(maxsplit=2)
        if kind == "cgroup":
            controllers_here = [key for key in paths if key and key <= frozenset(options.split(","))]
        elif kind == "cgroup2":
            controllers_here = [key for key in paths if not key]
        else:
            continue
        for key in controllers_here:
            path = paths[key]
            if path == root or path.startswith(root.rstrip("/") + "/"):
                own = Path(mount_point) / path.removeprefix(root).lstrip("/")
                found.append(Hierarchy(key, own))
    return found


def _unescape(word: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word


def _can_make(directory: Path) -> bool:
    try:
        directory.mkdir()
        directory.rmdir()
    except OSError:
        return False
    return True


def _version_2(own: Path, name: str) -> CgroupsV2 | None:
    worker = f"{name}-worker"
    base = own.parent if own.name == worker else own
    try:
        available = frozenset((base / "cgroup.controllers").read_text().split()) & LIMITING
        if not available or not _can_make(base / f"{name}-probe-{os.getpid()}"):
            return None
        try:
            _pass_on(base, available)
        except OSError as error:
            if error.errno != errno.EBUSY or not _is_ours(base):
                raise
            leaf = base / worker
            leaf.mkdir(exist_ok=True)
            for pid in (base / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (leaf / "cgroup.procs").write_text(pid)
            _pass_on(base, available)
    except OSError:
        return None
    return CgroupsV2(base, available)


def _pass_on(base: Path, controllers: frozenset[str]) -> None:
    already = frozenset((base / "cgroup.subtree_control").read_text().split())
    wanted = controllers - already
    if wanted:
        (base / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in sorted(wanted)))


def _is_ours(base: Path) -> bool:
    """Whether the processes of this group are ours to move: it was delegated to us, or nobody but us is in it."""
    for attribute in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(base, attribute) == b"1":
                return True
    pids = {int(pid) for pid in (base / "cgroup.procs").read_text().split()}
    return pids == {os.getpid()}
