"""Gateways in processes of their own, which can be killed. Run: `budget_gateways.py URL`, orders as JSON on stdin.

Each order is a gateway with a road for each of its sessions. The process that reads the orders only forks: so a new
gateway costs milliseconds, and nothing of what was killed lives on in it.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hostler.compose.stored import runner_ledger
from hostler.domain.prices import Prices
from hostler.engine.memory import Ledger
from hostler.engine.model_port import (
    Asked,
    Caller,
    Choice,
    Ended,
    Next,
    Persistence,
    Shortage,
    Target,
    UpstreamHealth,
    Wait,
)
from hostler.engine.ports import HeldCall, ModelRequestRecord
from hostler.engine.purse import PurseTerms, StoredPurse
from hostler.engine.runner_parts import LeaseTerms
from hostler.gateway import ModelGateway, Upstream, UpstreamLimits, one_upstream
from hostler.store.database import Database

_PR_SET_PDEATHSIG = 1
DEARER = "claude-fable-5-1"
"""What answers when the model that was asked for fails twice."""


class NoSequence:
    """Implements `SequenceStore`."""

    async def load(self) -> str | None:
        return None

    async def save(self, state: str) -> None:
        pass


class OrDearer:
    """Implements `Router`: the model that was asked for, or else a dearer one."""

    async def choose(self, asked: Asked) -> Choice:
        return Choice((asked.model, DEARER) if asked.fields["metadata"]["fallback"] else (asked.model,))


@dataclass
class Thrice:
    """Implements `Persistence`: three attempts at once, the last one at the last model."""

    models: Sequence[str]

    def first(self) -> Next | None:
        return Next(Target("model", self.models[0], self.models[0]))

    def after(self, ended: Ended) -> Next | None:
        if ended.number >= 3 or ended.begun or not ended.failure:
            return None
        model = self.models[-1 if ended.number == 2 else 0]
        return Next(Target("model", model, model))

    def waited(self) -> Next | None:
        raise AssertionError("nothing here waits")

    def began(self) -> None:
        pass

    def over(self) -> None:
        pass


class Persistent:
    """Implements `Upstreams`."""

    def persist(self, asked: Asked, choice: Choice) -> Persistence:
        return Thrice(choice.models)

    def health(self) -> tuple[UpstreamHealth, ...]:
        return ()


@dataclass
class Listener:
    """Implements `ModelRoadListener`: records as the product does, and says on stdout when a budget is reached."""

    caller: Caller
    ledger: Ledger

    async def on_calls_held(self, shown: str, calls: Sequence[HeldCall]) -> None:
        pass

    async def on_model_request(self, record: ModelRequestRecord) -> None:
        await self.ledger.record_request(record)

    async def on_budget_reached(self, why: str, short: Shortage) -> None:
        say({"reached": self.caller.session_id})

    def on_waiting(self, wait: Wait) -> None:
        pass

    def on_going_on(self) -> None:
        pass


def say(value: Any) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


async def serve(url: str, order: dict[str, Any]) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    database = await Database.open(url, migrate=False, pool_size=4)
    prices = Prices()
    purse = StoredPurse(database, prices, PurseTerms(wait_seconds=order["wait_seconds"]))
    ledger = runner_ledger(database, LeaseTerms(), prices, purse)
    limits = UpstreamLimits(connect_seconds=5.0, first_byte_seconds=5.0, silence_seconds=5.0)
    desk = one_upstream(Upstream(f"http://127.0.0.1:{order['port']}", "key"), limits)
    desk = replace(desk, purse=purse, router=OrDearer(), upstreams=Persistent())
    gateway = ModelGateway(desk)
    for session, (socket, epoch) in order["sessions"].items():
        caller = Caller(session, order["workspace"], "env_1", order["agent"], 1, "claude-opus-5-5", epoch=epoch)
        await gateway.open(
            session,
            Path(socket),
            Listener(caller, ledger),
            one_call_at_a_time=False,
            sequence=NoSequence(),
            allowed_models=None,
        )
    say({"ready": os.getpid(), "id": order["id"]})
    await ended.wait()
    await gateway.close()
    await database.close()


def main() -> None:
    url = sys.argv[1]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for them: the system takes them away.
    for line in sys.stdin:
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # None outlives the tests.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                asyncio.run(serve(url, json.loads(line)))
                code = 0
            except BaseException as error:
                say({"failed": f"{type(error).__name__}: {error}"})
            finally:
                os._exit(code)


if __name__ == "__main__":
    main()
