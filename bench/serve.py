"""A Hostler for measuring: settings as JSON in argv[1], its address and a key as JSON on stdout, until stdin ends."""

from __future__ import annotations

import asyncio
import json
import sys

from hostler import compose, config
from hostler.event_loop import new_event_loop


async def serve() -> None:
    settings = config.load(
        {"HOME": "/nonexistent", "HOSTLER_SANDBOX__TECHNOLOGY": "bubblewrap"}, **json.loads(sys.argv[1])
    )
    async with compose.running(settings) as hostler:
        _, secret = await compose.create_key(hostler.database, "bench")
        print(json.dumps({"base_url": hostler.base_url, "api_key": secret}), flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve())
