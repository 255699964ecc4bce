"""What can a process begin before its files are there?

Most of what `claude` does when it starts has nothing to do with its conversation. With a head start its sandbox is made
at once, of folders that are still being filled, and `claude` is started in it; only when all is laid out it is let look
(docs/explanation/hibernation.md, "The head start"). Nothing else runs in the sandbox by then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from hostler.domain.isolation import Technology
from hostler.engine.profile import Profile
from hostler.engine.threads import in_thread
from hostler.store.sessions import SessionRow

_WHERE: Final = frozenset[Technology]({"bubblewrap"})
"""Whose sandboxes show a folder of the host as it is, whenever it was filled."""


def possible(session: SessionRow, profile: Profile, technology: Technology) -> bool:
    """Whether what is mounted for the session does not depend on its files, and nothing but `claude` runs at first."""
    return (
        technology in _WHERE
        and os.geteuid() == 0  # what comes later can be given to the sandbox's user
        and not profile.self_hosted
        and profile.shared is None
        and not session.resources
        and not any(server.command for server in profile.mcp_servers)
    )


class HeadStart:
    """What the two sides of one start tell each other."""

    def __init__(
        self, remembering: Callable[[], Awaitable[None]], finishing: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`remembering` lays out the harness's own state, once the sandbox is made; `finishing` comes after all."""
        self._remembering = remembering
        self._finishing = finishing
        self._owner: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._files = asyncio.Event()
        self.begun = asyncio.Event()
        """Set when the process runs."""

    async def made(self, workspace: Path) -> None:
        """The sandbox is made, and its folders are its user's."""
        owner = await in_thread(lambda: os.lstat(workspace).st_uid)
        self._owner.set_result(None if owner == os.geteuid() else owner)

    def not_made(self) -> None:
        """There will be no sandbox."""
        self._owner.set_result(None)

    async def shown(self) -> int | None:
        """See `engine.snapshot_port.Shown`."""
        return await asyncio.shield(self._owner)

    def filled(self) -> None:
        """The session's files are there."""
        self._files.set()

    async def laid_out(self) -> None:
        """Returns when all is there that a process looks at."""
        self.begun.set()
        await self._remembering()
        await self._files.wait()
        if self._finishing is not None:
            await self._finishing()
