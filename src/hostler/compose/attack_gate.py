"""Who sees to it that the attacks were made before production starts?

The corpus itself is not loaded here: a server that nobody asks for production never needs it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

from hostler.compose.placement import KeptResults
from hostler.config import Settings
from hostler.engine.sandbox_port import IsolationLabel, Technology

log = logging.getLogger("hostler.attacks")

_APART = "from hostler.compose.attacks import attack_apart; attack_apart()"
APART_SECONDS = 4000.0
STOP_SECONDS = 20.0
"""In which it removes its sandboxes when it is told to stop."""


class AttackGate:
    """Implements `Verified`: what the corpus has shown on this host, made to be known when it is asked for.

    The first question about a technology without a fresh result has the critical cases run, apart from the server.
    Until they are through, the answer is that nothing is known, and production waits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._results = KeptResults(settings)
        self._loop = asyncio.get_running_loop()
        self._wanted: asyncio.Queue[Technology] = asyncio.Queue()
        self._asked: set[Technology] = set()

    def critical_failures(self, technology: Technology, label: IsolationLabel) -> Sequence[str] | None:
        """See the port. May be called from any thread of the server."""
        found = self._results.critical_failures(technology, label)
        if found is None and technology not in self._asked:
            self._asked.add(technology)
            self._loop.call_soon_threadsafe(self._wanted.put_nowait, technology)
        return found

    async def run(self) -> None:
        """Until it is cancelled. One technology at a time; whatever goes wrong with one is logged and tried again when
        it is asked for the next time."""
        while True:
            technology = await self._wanted.get()
            log.info("attacks.begun", extra={"technology": technology})
            try:
                said = await self._attack(technology)
            except OSError as error:
                said = str(error)
            log.info("attacks.ended", extra={"technology": technology, "problem": said})
            self._asked.discard(technology)

    async def _attack(self, technology: Technology) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", _APART, technology),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(APART_SECONDS):
                _, said = await process.communicate(self._settings.model_dump_json().encode())
        except TimeoutError:
            return "it took too long"
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(STOP_SECONDS):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()
        return "" if process.returncode == 0 else said.decode(errors="replace")[-500:]
