"""What does the engine ask of a host for a room: folders laid together while programs run, and who touches files?

Both need a worker that is root; `IsolationLabel.no_rooms` says where there is none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Opened(Protocol):
    """A file that somebody has just touched, for as long as the listener is being told."""

    @property
    def size(self) -> int: ...

    def digest(self, count: int) -> bytes | None:
        """Of its first `count` bytes. None: that is too much to look at, or more than there is."""
        ...


Listener = Callable[[str, str, int, bool, Opened], None]
"""Told who touched a file, its path (in the watched folder, or as that one would say it), its inode, whether it was
written (else: read), and the file. The path is what it is at the moment of telling."""


class Watcher(Protocol):
    """Tells who reads and writes the files of a folder that several see through mounts of their own."""

    def begin(self, who: str, folder: int, listener: Listener) -> None:
        """`folder`: a descriptor of it, opened through that one's mount. Until the mount goes. Raises OSError."""
        ...

    def end(self, who: str) -> None:
        """What is told of it from now on is dropped. Idempotent."""
        ...

    def look(self) -> None:
        """Tells all that has happened by now."""
        ...

    def close(self) -> None: ...


class FolderViews(Protocol):
    """Makes folders visible in another one, to be read, for programs that have that one as a live mount. All block."""

    def open(self, top: Path) -> None:
        """Makes `top`, with nothing in it. Idempotent."""
        ...

    def show(self, top: Path, name: str, source: Path) -> None:
        """`source` is at `name` in it from now on, and can't be written through it."""
        ...

    def hide(self, top: Path, name: str) -> None:
        """Not any more. Idempotent."""
        ...

    def close(self, top: Path) -> None:
        """It is gone, and whatever is shown in it is not. Idempotent."""
        ...

    def sweep(self, parent: Path) -> None:
        """Closes all that an earlier life of the server has left below `parent`."""
        ...
