"""What was the rehearsal model asked? The newest requests, bounded in number and bytes, and a way to wait for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Origin = Literal["conversation", "rule", "file", "default", "housekeeping", "none"]


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request, recorded when it was complete and before its answer began."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """Decoded JSON; None when there was none, or when it was not JSON."""
    received_at: float
    """`time.monotonic()`, seconds: when its last byte came."""
    request_id: str
    """The `request-id` of the answer."""
    origin: Origin
    """Where the answer comes from. `none`: no message was to be given (other paths, refused requests)."""
    step: int | None
    """Index of the step that answers, from 0; None when no script does."""
    failure: str | None
    """The failure that the step plays this time (`error`, `cut`, …); None when it plays none."""
    size: int
    """Bytes of the body."""


class Recorder:
    """Keeps the newest `limit` requests, and of these the newest whose bodies take `limit_bytes` together."""

    def __init__(self, limit: int = 10_000, limit_bytes: int = 64 << 20) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._kept: deque[RecordedRequest] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()
        self.total = 0
        """Requests ever recorded."""

    @property
    def requests(self) -> list[RecordedRequest]:
        """What is kept, oldest first; a copy."""
        return list(self._kept)

    async def add(self, request: RecordedRequest) -> None:
        """Records a request and wakes who waits for it."""
        async with self._changed:
            self._kept.append(request)
            self._bytes += request.size
            self.total += 1
            while len(self._kept) > self._limit or (self._bytes > self._limit_bytes and len(self._kept) > 1):
                self._bytes -= self._kept.popleft().size
            self._changed.notify_all()

    async def wait_for(
        self, wanted: Callable[[RecordedRequest], bool], count: int, timeout: float
    ) -> list[RecordedRequest]:
        """The kept requests that are `wanted`, once there are `count`. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout), self._changed:
            while True:
                found = [request for request in self._kept if wanted(request)]
                if len(found) >= count:
                    return found
                await self._changed.wait()

    def clear(self) -> None:
        """Forgets the requests, not their total."""
        self._kept.clear()
        self._bytes = 0
