"""A road whose process dies in the middle of a request. Run: `dying_road.py URL SOCKET PORT before|after|never`.

before  the decision about the first plain request is written down, and nothing was written
after   that decision is committed, and nothing was connected
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostler.compose.stored import StoredDecisions
from hostler.egress import EgressProxy
from hostler.engine.denials import Denials
from hostler.engine.egress_port import EgressDecision, EgressRecorder, EgressRules
from hostler.store.database import Database


@dataclass
class Dies:
    """Implements `EgressRecorder`: kills its process around the record that another one makes."""

    recorder: EgressRecorder
    when: str

    async def record(self, decision: EgressDecision) -> None:
        if self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await self.recorder.record(decision)
        if self.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)


class Here:
    """Every name is this machine."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]


async def run(url: str, socket: Path, port: int, when: str) -> None:
    database = await Database.open(url, migrate=False)
    recorder = Dies(StoredDecisions(database, Denials()), when)
    proxy = EgressProxy(
        recorder, resolver=Here(), private_allowed=frozenset({"127.0.0.1"}), ports=frozenset({80, 443, port})
    )
    await proxy.open("sesn_1", socket, EgressRules("listed", ("allowed.example",)))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
