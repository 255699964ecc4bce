"""A Hostler in a process of its own, to be stopped and continued by signals. `lone_server.py <settings as JSON>`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from hostler import compose, config

sys.path.append(str(Path(__file__).parents[1] / "plugins"))
from narrow import NARROW


async def main() -> None:
    settings = config.load({"HOME": "/nonexistent", **NARROW}, **json.loads(sys.argv[1]))
    async with compose.running(settings) as hostler:
        _, secret = await compose.create_key(hostler.database, "test")
        print(json.dumps({"url": hostler.base_url, "key": secret}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
