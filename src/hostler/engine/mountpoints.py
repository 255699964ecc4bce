"""Where in a tree that belongs to an agent may something be mounted, without the agent choosing the place?

A sandbox is built by a program that follows links. Where a mount lies inside a folder that the agent writes to, the
agent could have put a link there that leads elsewhere on the host. So the way to such a mount is walked and made here
first, while no process of the session lives: folder by folder, never through a link. What stands in the way is moved
aside, never removed and never followed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hostler.domain.resources import WORKSPACE
from hostler.store.sessions import SessionRow

log = logging.getLogger("hostler.mountpoints")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Surface:
    """A folder that the agent writes to: where it is inside, and where it is on the host."""

    inside: str
    source: Path


def surfaces(session: SessionRow, home: Path) -> list[Surface]:
    """Everything of a session that the agent writes to and mounts may lie in; the innermost first."""
    found = [Surface(WORKSPACE, home / "workspace")]
    for resource in session.resources:
        if resource["type"] == "github_repository":
            folder = repository_folder(home, resource["id"])
            if folder.is_dir():
                found.append(Surface(resource["mount_path"], folder))
    return sorted(found, key=lambda surface: -len(surface.inside))


def repository_folder(home: Path, resource_id: str) -> Path:
    return home / "repositories" / resource_id


class MountPoints:
    """The mount points that one kind of attachment has made for one session. Blocking: call it in a thread."""

    def __init__(self, record: Path) -> None:
        """`record`: a file of the host, out of the agent's reach, that remembers them."""
        self._record = record

    def prepare(self, surfaces: Sequence[Surface], wanted: Sequence[str], *, folders: bool) -> None:
        """Make the points of `wanted` (paths inside) that lie on one of the surfaces; remove those of earlier calls.

        Only while no process of the session lives. Raises OSError when a point can't be made.
        """
        points = [(surface, path[len(surface.inside) + 1 :]) for path in wanted if (surface := _over(surfaces, path))]
        now = {(surface.inside, relative) for surface, relative in points}
        sources = {surface.inside: surface.source for surface in surfaces}
        for inside, relative in self._made() - now:
            if inside in sources:
                _unmake(sources[inside], relative)
        made = {(s.inside, relative) for s, relative in points if make_mount_point(s.source, relative, folders)}
        self._remember((self._made() & now) | made)

    def _made(self) -> set[tuple[str, str]]:
        """Surfaces as they are inside: files may have come from another host, with other folders."""
        try:
            return {(inside, relative) for inside, relative in json.loads(self._record.read_text())}
        except (FileNotFoundError, ValueError):
            return set()

    def _remember(self, made: set[tuple[str, str]]) -> None:
        if made or self._record.exists():
            self._record.parent.mkdir(mode=0o711, exist_ok=True)
            self._record.write_text(json.dumps(sorted(made)))


def _over(surfaces: Sequence[Surface], path: str) -> Surface | None:
    return next((surface for surface in surfaces if path.startswith(surface.inside + "/")), None)


def make_mount_point(root: Path, relative: str, folder: bool) -> bool:
    """Make an empty file (or folder) `relative` below `root`, and what is missing on the way. True if it was missing.

    No link is followed, and `root` is not left. A link, or anything of another kind, is moved aside within its folder.
    """
    descriptor = os.open(root, _FOLDER)
    try:
        *parents, last = relative.split("/")
        top = os.fstat(descriptor)
        for name in parents:
            _make(descriptor, name, top, folder=True)
            below = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        return _make(descriptor, last, top, folder=folder)
    finally:
        os.close(descriptor)


def _make(parent: int, name: str, top: os.stat_result, *, folder: bool) -> bool:
    """`top` is the root's: what is made belongs to whom it belongs."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        pass
    else:
        if stat.S_ISDIR(found.st_mode) if folder else stat.S_ISREG(found.st_mode):
            return False
        _move_aside(parent, name)
    if folder:
        os.mkdir(name, 0o755, dir_fd=parent)
    else:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=parent))
    if os.geteuid() == 0:
        os.chown(name, top.st_uid, top.st_gid, dir_fd=parent, follow_symlinks=False)
    return True


def _move_aside(parent: int, name: str) -> None:
    for number in range(1, 1000):
        aside = f"{os.fsdecode(os.fsencode(name)[:200])}.moved-{number}"
        try:
            os.stat(aside, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=parent)
            log.warning("moved_aside", extra={"name_was": name, "name_is": aside})
            return
    raise OSError(errno.EEXIST, f"there are too many things called {name} in the way of a mount")


def _unmake(root: Path, relative: str) -> None:
    """Remove a point that is not needed any more, if it is still the empty thing that was made."""
    *parents, last = relative.split("/")
    with suppress(OSError):
        descriptor = os.open(root, _FOLDER)
        try:
            for name in parents:
                below = os.open(name, _FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            found = os.stat(last, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                os.rmdir(last, dir_fd=descriptor)
            elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
                os.unlink(last, dir_fd=descriptor)
        finally:
            os.close(descriptor)
