"""What the page about moving sessions tells people to write: it runs, and prints what it says."""

from __future__ import annotations

from test_how_tos import Running
from test_how_tos import server as server

PAGE = "move-a-session.md"


async def test_page_moves_a_session(server: Running) -> None:
    await server.does(PAGE)
