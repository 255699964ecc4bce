"""How is a folder read and written that an agent may be changing at the same moment, and may have made to hurt?

Attacks: a link where a file or a folder is expected, names that are no text, pipes and devices, trees that are too deep
or too large, a file that is swapped between two looks. So: each component is opened by itself, from the one above, and
never through a link; what is no regular file is never opened for reading; everything is bounded; what we write is
written beside its place and then moved there. All methods block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hostler.domain.ids import new_uuid
from hostler.domain.memories import MAX_CONTENT_BYTES, MAX_SEGMENTS, digest, path_problem
from hostler.engine.memory_merge import UNSENDABLE

ASIDE: Final = ".unsynced"
"""Folder in every store for what could not be saved. Nothing below it is ever sent."""
_UNFINISHED: Final = b".hostler-unfinished-"
MAX_ENTRIES: Final = 20_000
MAX_READ_BYTES: Final = 512 << 20
"""More than twice what the memories of a full store take."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER: Final = (errno.ENOTDIR, errno.ELOOP)
"""What opening a folder says when it is a link or a file."""
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(slots=True)
class Scan:
    """What is in the folder."""

    digests: dict[str, str] = field(default_factory=dict)
    """By path, with the leading slash; `UNSENDABLE` for what no memory can hold."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why something can't be saved, by its path as far as it can be shown."""
    hidden: list[str] = field(default_factory=list)
    """Paths that aren't looked below: what was known there is not gone for that."""
    complete: bool = True
    """False: there was too much, and what is missing here may be there all the same."""
    entries: int = 0
    read_bytes: int = 0


def reserved(path: str) -> bool:
    """Is this a path of ours, which is neither sent nor laid out?"""
    first = path[1:].split("/", 1)[0]
    return first == ASIDE or first.startswith(_UNFINISHED.decode())


class MemoryFolder:
    """The folder at `root`, which exists. Paths are those of memories. Raises OSError for trouble with the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    # -- read

    def scan(self) -> Scan:
        """Everything that is there. Leftovers of a write that was cut off are removed on the way."""
        found = Scan()
        with self._open_root() as root:
            self._scan(root, root, "", found)
        return found

    def read(self, path: str) -> bytes | None:
        """What the file holds, at most one byte more than a memory can. None when there is no regular file."""
        try:
            with self._open_parent(path) as (parent, name):
                return _read(parent, name)
        except OSError as error:
            if error.errno in (errno.ENOENT, *_NO_FOLDER):
                return None
            raise

    def state(self, path: str) -> str | None:
        """The digest of what is at `path` now, as in `Scan.digests`; None when there is surely nothing."""
        *folders, name = _names(path)
        try:
            with contextlib.ExitStack() as stack:
                parent = stack.enter_context(self._open_root())
                for folder in folders:
                    kind = stat.S_IFMT(os.stat(folder, dir_fd=parent, follow_symlinks=False).st_mode)
                    if kind != stat.S_IFDIR:
                        return UNSENDABLE if kind == stat.S_IFLNK else None
                    parent = _opened(stack, parent, folder)
                if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    return None  # what counts is what is in it
                content = _read(parent, name)
        except FileNotFoundError:
            return None
        except OSError:
            return UNSENDABLE
        return UNSENDABLE if content is None or _wrong(content) else digest(content)

    # -- write

    def write(self, path: str, content: bytes) -> list[str]:
        """Put a file there, owned by the folder's owner. What is in the way is set aside: the names that it got."""
        aside: list[str] = []
        with self._open_root() as root:
            owner = os.fstat(root)
            unfinished = _UNFINISHED + new_uuid().encode()
            file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root)
            try:
                with os.fdopen(file, "wb") as out:
                    out.write(content)
                    _give(out.fileno(), owner, 0o644)
                with contextlib.ExitStack() as stack:
                    parent = root
                    *folders, name = _names(path)
                    for folder in folders:
                        parent = self._enter(stack, root, parent, folder, owner, aside)
                    self._clear(root, parent, name, aside)
                    os.rename(unfinished, name, src_dir_fd=root, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished, dir_fd=root)
                raise
        return aside

    def remove(self, path: str) -> None:
        """Remove a file, and the folders that are empty then. Nothing happens when it is gone."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._open_parent(path) as (parent, name):
            os.unlink(name, dir_fd=parent)
        while path.count("/") > 1:
            path = path.rsplit("/", 1)[0]
            try:
                with self._open_parent(path) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
            except OSError:
                return

    def set_aside(self, path: str) -> str | None:
        """Move what is at `path` to the folder for it. The name that it got there; None when nothing was there."""
        with self._open_root() as root, contextlib.suppress(FileNotFoundError, NotADirectoryError):
            with self._open_parent(path) as (parent, name):
                return _set_aside(root, parent, name)
        return None

    def is_aside(self, name: str) -> bool:
        """Is this still there, among what was set aside?"""
        try:
            with self._open_parent(f"/{ASIDE}/{name}") as (parent, last):
                os.stat(last, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return False
        return True

    def explain(self, text: str | None) -> None:
        """Put a README beside what was set aside; None takes it away, and the folder too if nothing else is there."""
        path = f"/{ASIDE}/README"
        if text is None:
            self.remove(path)
        elif self.read(path) != text.encode():
            self.write(path, text.encode())

    # -- helpers

    @contextlib.contextmanager
    def _open_root(self) -> Iterator[int]:
        root = os.open(self._root, _FOLDER)
        try:
            yield root
        finally:
            os.close(root)

    @contextlib.contextmanager
    def _open_parent(self, path: str) -> Iterator[tuple[int, bytes]]:
        with contextlib.ExitStack() as stack:
            parent = stack.enter_context(self._open_root())
            *folders, name = _names(path)
            for folder in folders:
                parent = _opened(stack, parent, folder)
            yield parent, name

    def _scan(self, root: int, folder: int, above: str, found: Scan) -> None:
        device = os.fstat(root).st_dev
        with os.scandir(folder) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if folder == root and name == ASIDE.encode():
                    continue
                found.entries += 1
                if found.entries > MAX_ENTRIES or found.read_bytes > MAX_READ_BYTES:
                    found.complete = False
                    found.problems["/"] = "there is too much in this folder to look at all of it"
                    return
                if folder == root and name.startswith(_UNFINISHED):
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=root)
                    continue
                path = f"{above}/{name.decode('utf-8', 'surrogateescape')}"
                shown = path.encode("utf-8", "backslashreplace").decode()
                try:
                    self._look(root, folder, name, path, shown, device, found)
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        found.problems[shown] = f"it can't be read ({error.strerror})"
                        found.hidden.append(path)
                        if path_problem(path) is None:
                            found.digests[path] = UNSENDABLE

    def _look(self, root: int, folder: int, name: bytes, path: str, shown: str, device: int, found: Scan) -> None:
        seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(seen.st_mode) and seen.st_dev == device:
            if path.count("/") >= MAX_SEGMENTS:
                found.problems[shown] = f"a path has at most {MAX_SEGMENTS} segments; what is below is not saved"
                found.hidden.append(path)
                return
            below = os.open(name, _FOLDER, dir_fd=folder)
            try:
                self._scan(root, below, path, found)
            finally:
                os.close(below)
            return
        wrong = path_problem(path)
        if wrong is not None:
            found.problems[shown] = f"its path {wrong}"
            return
        content = _read(folder, name) if seen.st_size <= MAX_CONTENT_BYTES else b""
        if content is None:
            problem: str | None = "it is not a regular file"
            found.hidden.append(path)
        elif seen.st_size > MAX_CONTENT_BYTES:
            problem = f"it has {seen.st_size} bytes, and a memory holds at most {MAX_CONTENT_BYTES}; split it"
        else:
            found.read_bytes += len(content)
            problem = _wrong(content)
        if problem is not None or content is None:
            found.problems[shown] = str(problem)
            found.digests[path] = UNSENDABLE
        else:
            found.digests[path] = digest(content)

    def _enter(
        self, stack: contextlib.ExitStack, root: int, parent: int, name: bytes, owner: os.stat_result, aside: list[str]
    ) -> int:
        """The folder of this name, made when it is missing. Anything else of that name is set aside."""
        if parent == root and name == ASIDE.encode():
            return _aside_folder(stack, root)
        with contextlib.suppress(FileNotFoundError):
            try:
                return _opened(stack, parent, name)
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise
                aside.append(_set_aside(root, parent, name))
        os.mkdir(name, 0o755, dir_fd=parent)
        made = _opened(stack, parent, name)
        _give(made, owner, 0o755)
        return made

    def _clear(self, root: int, parent: int, name: bytes, aside: list[str]) -> None:
        """A file can be renamed over a file, not over a folder: an empty one goes, another one is set aside."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                try:
                    os.rmdir(name, dir_fd=parent)
                except OSError:
                    aside.append(_set_aside(root, parent, name))


def _names(path: str) -> list[bytes]:
    assert path.startswith("/"), "paths of memories are absolute"
    names = path.encode("utf-8", "surrogateescape")[1:].split(b"/")
    assert not {b"", b".", b".."} & set(names), "paths of memories stay inside"
    return names


def _opened(stack: contextlib.ExitStack, parent: int, name: bytes) -> int:
    below = os.open(name, _FOLDER, dir_fd=parent)
    stack.callback(os.close, below)
    return below


def _read(parent: int, name: bytes) -> bytes | None:
    if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return None  # not even opened: opening a device can do something
    with os.fdopen(os.open(name, _FILE, dir_fd=parent), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None  # swapped since
        return file.read(MAX_CONTENT_BYTES + 1)


def _wrong(content: bytes) -> str | None:
    if len(content) > MAX_CONTENT_BYTES:
        return f"it has more than {MAX_CONTENT_BYTES} bytes; split it"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 text (byte {error.start})"
    return None


def _give(descriptor: int, owner: os.stat_result, mode: int) -> None:
    os.fchmod(descriptor, mode)
    if os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _set_aside(root: int, parent: int, name: bytes) -> str:
    """Move an entry, whatever it is, into the folder for it, under a name that is free there."""
    with contextlib.ExitStack() as stack:
        folder = _aside_folder(stack, root)
        free = _free(folder, name.decode("utf-8", "replace")[:60])
        os.rename(name, free.encode(), src_dir_fd=parent, dst_dir_fd=folder)
        return free


def _aside_folder(stack: contextlib.ExitStack, root: int) -> int:
    """The folder for what is set aside. Something else of its name is moved away."""
    with contextlib.suppress(FileNotFoundError):
        try:
            return _opened(stack, root, ASIDE.encode())
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
            os.rename(ASIDE, _free(root, f"{ASIDE}-before"), src_dir_fd=root, dst_dir_fd=root)
    os.mkdir(ASIDE, 0o755, dir_fd=root)
    made = _opened(stack, root, ASIDE.encode())
    _give(made, os.fstat(root), 0o755)
    return made


def _free(folder: int, stem: str) -> str:
    number, free = 1, stem
    while True:
        try:
            os.stat(free.encode(), dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return free
        number += 1
        free = f"{stem}.{number}"
