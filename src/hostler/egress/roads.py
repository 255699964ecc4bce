"""What can a session reach besides its model? Here: nothing. Every connection is closed at once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hostler.engine.ports import EgressRecorder, EgressRules


class ClosedRoad:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    async def close(self) -> None:
        self._server.close()


class EgressProxy:
    def __init__(self, recorder: EgressRecorder) -> None:
        self._recorder = recorder

    async def open(self, session_id: str, socket: Path, rules: EgressRules) -> ClosedRoad:
        server = await asyncio.start_unix_server(lambda _, writer: writer.close(), str(socket))
        os.chmod(socket, 0o666)
        return ClosedRoad(server)

    async def close(self) -> None:
        """Nothing is shared between roads."""
