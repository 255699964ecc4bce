"""Where are the files of a session on this host, and who is using them?

What is kept (workspace, outputs, state of the harness, clones, memories) lies in the session's *home*. A home is
entered before its files are touched and left afterwards: in between, its volume is mounted there.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.engine.snapshot_port import ALWAYS, PARTS
from hostler.engine.threads import over
from hostler.engine.volume_port import Volumes

ROOM: Final = "room_"
"""What the names of homes begin with that are no session's, but a room's."""


@dataclass(slots=True)
class Stay:
    """One visit of a home."""

    home: Path
    looked_through: bool = False
    """Set it when all that the session has put there was collected: else the next start of the server does that."""


@dataclass(frozen=True, slots=True)
class Homes:
    """Where the files of sessions are. `kept` outlives processes; `sockets` has short paths (108 bytes at most)."""

    kept: Path
    sockets: Path
    volumes: Volumes

    def of(self, session_id: str) -> Path:
        return self.kept / session_id

    def socket_folder(self, session_id: str) -> Path:
        return self.sockets / session_id[-12:]

    @asynccontextmanager
    async def entered(self, session_id: str, disk_bytes: int | None = None) -> AsyncIterator[Stay]:
        """The files are there inside the block. `disk_bytes`: how much a session may keep that has no files yet.

        Raises VolumeUnavailable.
        """
        stay = Stay(self.of(session_id))
        self.kept.mkdir(parents=True, exist_ok=True, mode=0o711)
        entering = asyncio.get_running_loop().run_in_executor(None, self.volumes.enter, stay.home, disk_bytes)
        try:
            await asyncio.shield(entering)
            yield stay
        finally:
            try:
                await over(entering)  # a thread can't be stopped: what it enters has to be left
            finally:
                if entering.exception() is None:
                    await asyncio.to_thread(self.volumes.leave, stay.home, looked_through=stay.looked_through)

    def make(self, session_id: str) -> None:
        """Everything a process needs in a home that is entered."""
        self.make_state(session_id)
        self.make_parts(session_id)

    def make_parts(self, session_id: str) -> None:
        """What a process writes to, and what stays when it is gone."""
        for name in ALWAYS:
            (self.of(session_id) / name).mkdir(exist_ok=True, mode=0o700)

    def make_state(self, session_id: str) -> None:
        """What belongs to one process: an empty place for the state of the harness, and one for its sockets."""
        home = self.of(session_id)
        self.volumes.give_up_reserve(home)
        for folder in (self.kept, home):  # nobody else lists who is here
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        remove_tree(home / "harness")  # on a full volume it makes room for the rest
        (home / "harness").mkdir()
        sockets = self.socket_folder(session_id)
        remove_tree(sockets)
        sockets.mkdir(parents=True, mode=0o711)

    def hand_on(self, stay: Stay, session_id: str) -> None:
        """The home of a stay becomes the session's, which has none; the stay goes on there. Blocks. Raises OSError."""
        home = self.of(session_id)
        self.volumes.rename(stay.home, home)
        stay.home = home

    def tidy(self, session_id: str) -> None:
        """Removes what the next process doesn't need, so that it need not wait for that. No process is there."""
        remove_tree(self.of(session_id) / "harness")

    def remove(self, session_id: str) -> None:
        self.volumes.remove(self.of(session_id))
        remove_tree(self.of(session_id))
        remove_tree(self.socket_folder(session_id))

    def all(self) -> Sequence[str]:
        """Sessions that have files on this host. Blocks."""
        return [name for name in self.volumes.homes() if not name.startswith(ROOM)]

    def unfinished(self) -> Sequence[str]:
        """Sessions in whose homes there may be something that was not collected."""
        return [name for name in self.volumes.unfinished() if not name.startswith(ROOM)]


def remove_parts(home: Path, *, shown: bool) -> None:
    """All that is kept of a session. `shown`: the folders that are shown to a sandbox stay, and are empty."""
    for part in PARTS:
        if shown and part in ALWAYS:
            clear = ["find", str(home / part), "-xdev", "-mindepth", "1", "-delete"]
            subprocess.run(clear, check=False, stderr=subprocess.DEVNULL)
        else:
            remove_tree(home / part)


def remove_tree(folder: Path) -> None:
    """Remove what an agent may have filled: a tree of any depth, with folders that forbid reading."""
    if not os.path.lexists(folder):  # a program takes milliseconds to say that there is nothing to do
        return
    remove = ["rm", "-rf", "--one-file-system", "--", str(folder)]
    subprocess.run(remove, check=False, stderr=subprocess.DEVNULL)
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(remove, check=False, stderr=subprocess.DEVNULL)
