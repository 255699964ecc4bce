"""The server that is killed: settings from the environment; its address on standard output once it listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal

from hostler.compose import running
from hostler.config import load
from hostler.event_loop import new_event_loop


async def main() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.WARNING)
    async with running(load()) as hostler:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        print(json.dumps({"url": hostler.base_url, "swept": hostler.swept}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
