"""A Hostler in a process of its own that is killed at a transaction: `cut_server.py <settings as JSON> <file>`.

Once `file` is there, it holds `<number> before` or `<number> after`: the process kills itself before, or right after,
so many more transactions were committed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from hostler import compose, config
from hostler.store.database import Database

sys.path.append(str(Path(__file__).parents[1] / "plugins"))
from narrow import NARROW

_FILE = Path(sys.argv[2])
_WRITE = Database.write


class _Countdown:
    def __init__(self) -> None:
        self._left: int | None = None
        self._when = ""

    def die(self, when: str) -> None:
        """Called before and after each transaction."""
        if self._left is None:
            if when != "before" or not _FILE.exists():
                return
            number, self._when = _FILE.read_text().split()
            self._left = int(number)
        if when == "before":
            self._left -= 1
        if self._left <= 0 and when == self._when:
            os.kill(os.getpid(), signal.SIGKILL)


_countdown = _Countdown()


async def _write(self: Database, fn: Callable[[Connection], Any]) -> Any:
    _countdown.die("before")
    result = await _WRITE(self, fn)
    _countdown.die("after")
    return result


async def main() -> None:
    Database.write = _write  # type: ignore[method-assign]
    settings = config.load({"HOME": "/nonexistent", **NARROW}, **json.loads(sys.argv[1]))
    async with compose.running(settings) as hostler:
        _, secret = await compose.create_key(hostler.database, "test")
        print(json.dumps({"url": hostler.base_url, "key": secret}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
