"""How are bytes sent as they are read? Piece by piece, and no longer than the reader keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Send


async def send_pieces(
    send: Send, headers: list[tuple[bytes, bytes]], pieces: AsyncIterator[bytes], patience_seconds: float
) -> None:
    """An answer with these headers. Raises TimeoutError when a piece isn't taken within `patience_seconds`."""
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for piece in pieces:
        async with asyncio.timeout(patience_seconds):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
