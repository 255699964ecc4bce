"""What does a session find in its sandbox, and what is taken from it afterwards?

Files, skills, memory and repositories are attachments: each kind lays out folders on the host before a process
starts, says where they are mounted, and collects what the session has left there when a turn has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from hostler.domain.errors import HostlerError, NotFound
from hostler.domain.events import Event
from hostler.engine.homes import Homes
from hostler.engine.sandbox_port import Mount
from hostler.engine.volume_port import VolumeUnavailable
from hostler.store.database import Database
from hostler.store.sessions import SessionRow, get_session

log = logging.getLogger("hostler.attachments")


Complaint = Callable[[str], Event]
"""Makes an event for the session's log of the moment at which it is recorded."""


class Attachment:
    """One kind of thing. Each method does nothing unless a kind overrides it.

    `home` is the session's folder on this host (`Homes.of`); a kind keeps its own things in a sub-folder of its name.
    All are called by the worker that holds the session's lease, one at a time for each session.
    """

    async def lay_out(self, session: SessionRow, home: Path) -> Sequence[Mount]:
        """Before a process starts. What raises here ends the turn with an error that says why."""
        return ()

    async def ahead(self, session: SessionRow) -> Sequence[Mount]:
        """What `lay_out` will give whatever is in the session's files. Before these are there."""
        return ()

    def complaints(self, session_id: str) -> Sequence[Complaint]:
        """What did not work in the last `lay_out` or `collect` although the session goes on. Each is given once."""
        return ()

    async def refresh(self, session: SessionRow, home: Path) -> None:
        """Before a turn of a process that lives already."""

    async def collect(self, session: SessionRow, home: Path) -> None:
        """After a turn has ended and was announced, with the process still there or gone."""

    async def catch_up(self, session: SessionRow, home: Path) -> None:
        """Once, at start, without a process: what an earlier life of the server was cut off before collecting."""


class Attachments:
    """All kinds, in the order in which they are mounted."""

    def __init__(self, kinds: Sequence[Attachment] = ()) -> None:
        self._kinds = tuple(kinds)

    async def lay_out(self, session: SessionRow, home: Path) -> list[Mount]:
        return [mount for kind in self._kinds for mount in await kind.lay_out(session, home)]

    async def ahead(self, session: SessionRow) -> list[Mount]:
        return [mount for kind in self._kinds for mount in await kind.ahead(session)]

    def complaints(self, session_id: str) -> list[Complaint]:
        return [complaint for kind in self._kinds for complaint in kind.complaints(session_id)]

    async def refresh(self, session: SessionRow, home: Path) -> None:
        for kind in self._kinds:
            await kind.refresh(session, home)

    async def collect(self, session: SessionRow, home: Path, *, left: bool = False) -> bool:
        """A kind that fails is reported in the log and keeps no other from its turn; false then.

        `left`: what an earlier life of the server has left (`Attachment.catch_up`).
        """
        well = True
        for kind in self._kinds:
            try:
                await (kind.catch_up if left else kind.collect)(session, home)
            except Exception:
                well = False
                log.exception("not_collected", extra={"session": session.id, "kind": type(kind).__name__})
        return well


async def collect_left(
    homes: Homes, database: Database, attachments: Attachments, counts: Callable[[str], Awaitable[bool]]
) -> None:
    """Once, at start: what sessions without a turn had when an earlier life of this server was cut off.

    A session in a turn is looked at after it; one whose files were overtaken by another worker's (`counts` says no) has
    put out nothing here that is still to be taken.
    """
    for session_id in await asyncio.to_thread(homes.unfinished):
        try:
            if not await counts(session_id):
                continue
            row = await database.read(lambda c, id_=session_id: get_session(c, None, id_))  # type: ignore[misc]
            if row.status in ("idle", "terminated"):
                async with homes.entered(session_id) as stay:
                    stay.looked_through = await attachments.collect(row, stay.home, left=True)
        except NotFound:
            continue
        except (HostlerError, OSError, VolumeUnavailable):
            log.exception("not_collected", extra={"session": session_id})
