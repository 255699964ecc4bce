"""The official worker as a process of its own: `lone_worker.py URL ENVIRONMENT KEY WORKDIR`, or with no arguments one
item, as `ANTHROPIC_*` in its environment says."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import anthropic


async def main() -> None:
    if len(sys.argv) == 1:
        async with anthropic.AsyncAnthropic() as client:
            await client.beta.environments.work.worker(workdir=os.getcwd(), max_idle=1.0).handle_item()
        return
    url, environment, key, workdir = sys.argv[1:]
    async with anthropic.AsyncAnthropic(base_url=url, api_key="unused") as client:
        worker = client.beta.environments.work.worker(
            environment_id=environment, environment_key=key, workdir=workdir, max_idle=30.0
        )
        await worker.run()


logging.basicConfig(level=logging.WARNING)
asyncio.run(main())
