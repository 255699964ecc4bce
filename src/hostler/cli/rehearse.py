"""`hostler rehearse`: run the rehearsal model alone, a Messages API without a key, a network or a price."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from hostler.cli import terminal
from hostler.cli.problem import WRONG, Problem

if TYPE_CHECKING:
    from hostler.testing.rehearsal import RehearsalModel


def rehearse(host: str, port: int, script: Path | None, *, as_json: bool) -> None:
    """Until SIGINT or SIGTERM. JSON: one line when it listens, `{"type": "serving", "base_url": …}`."""
    from hostler.testing.rehearsal import ScriptError, serve

    def ready(model: RehearsalModel) -> None:
        if as_json:
            print(json.dumps({"type": "serving", "base_url": model.url}), flush=True)
            return
        console = terminal.out()
        console.print(f"The rehearsal model listens. No model thinks here.\n\n  ANTHROPIC_BASE_URL={model.url}")
        console.print("  ANTHROPIC_API_KEY=any\n")
        console.print("How to script it: docs/how-to/test-your-agent-with-the-rehearsal-model.md", style="dim")
        console.file.flush()

    async def until_signal() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(serve(host, port, script, ready=ready))
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
            stopping.cancel()

    # What is raised inside an `except*` comes out in a group again, so the Problem is only made there.
    problem = None
    try:
        asyncio.run(until_signal())
    except* ScriptError as group:
        problem = Problem(
            f"the script can't be followed: {group.exceptions[0]}",
            next_command="hostler rehearse --help   (the format: docs/how-to/"
            "test-your-agent-with-the-rehearsal-model.md)",
            code=WRONG,
        )
    except* OSError as group:
        error = group.exceptions[0]
        unread = isinstance(error, OSError) and error.filename is not None
        problem = Problem(
            f"can't read the script: {error}" if unread else f"can't listen on {host}, port {port}: {error}",
            next_command="hostler rehearse --help" if unread else "hostler rehearse --port 0",
            code=WRONG,
        )
    if problem is not None:
        raise problem
