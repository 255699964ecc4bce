"""How long does a recorded event take to its readers? 500 streams over 50 sessions, events at a steady rate.

    .venv/bin/python bench/fanout.py [--readers 500] [--sessions 50] [--rate 4] [--seconds 10]

Counted from the moment at which the event is made, inside the transaction that records it, to its arrival at a reader
in a process of its own: commit, notification, reading and framing included. `same` reads from the server that records;
`other` from a second server on the same PostgreSQL. Readers are plain sockets, no client library.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any, cast
from urllib.parse import urlsplit

import anthropic
import uvloop

from hostler import compose, config
from hostler.domain import events as ev
from hostler.engine.records import Records
from hostler.engine.state import Step
from hostler.testing.postgres import PostgresCluster

STAMP = re.compile(rb"made at (\d+)\.")


# ------------------------------------------------------------------------------------------------ the server's process


async def serve(settings: str) -> None:
    """A server that also records events: `{"sessions", "rate", "seconds"}` on stdin, until stdin ends."""
    async with compose.running(
        config.load({"HOME": "/nonexistent", "HOSTLER_SANDBOX__TECHNOLOGY": "bubblewrap"}, **json.loads(settings))
    ) as hostler:
        _, secret = await compose.create_key(hostler.database, "bench")
        print(json.dumps({"base_url": hostler.base_url, "api_key": secret}), flush=True)
        records, loop = Records(hostler.database, hostler.hub), asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await record(records, **json.loads(line))), flush=True)


async def record(records: Records, sessions: list[str], rate: float, seconds: float) -> int:
    """Events spread evenly over time and sessions. How many were recorded."""
    begun, pause, count = monotonic(), 1 / (rate * len(sessions)), round(rate * seconds)

    async def one(place: int, session: str) -> None:
        for number in range(count):
            due = begun + (number * len(sessions) + place) * pause
            await asyncio.sleep(max(0.0, due - monotonic()))
            await records.apply(
                session,
                lambda s, at, *_: Step(s, (ev.session_updated(at.text, {"title": f"made at {monotonic_ns()}."}),)),
            )

    async with asyncio.TaskGroup() as tasks:
        for place, session in enumerate(sessions):
            tasks.create_task(one(place, session))
    return count * len(sessions)


@dataclass
class Server:
    process: asyncio.subprocess.Process
    told: dict[str, str]

    async def ask(self, **order: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        return json.loads(await self.process.stdout.readline())


@asynccontextmanager
async def server(store: str) -> AsyncIterator[Server]:
    state = tempfile.mkdtemp(prefix="hostler-bench-")
    settings = {"state_dir": state, "server__port": 0, "model__base_url": "http://127.0.0.1:9", "store__url": store}
    if not store:
        del settings["store__url"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--serve",
        json.dumps(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin
    assert process.stdout
    try:
        yield Server(process, json.loads(await asyncio.wait_for(process.stdout.readline(), 60)))
    finally:
        process.stdin.close()
        await process.wait()
        shutil.rmtree(state, ignore_errors=True)


# --------------------------------------------------------------------------------------------------------- the readers


class Reader(asyncio.Protocol):
    """One stream. Keeps the age of each event in milliseconds."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.ages: list[float] = []
        self.connected = asyncio.Event()
        self._left = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self.request)  # uvloop's is of no class of asyncio

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        if b": connected" in data:
            self.connected.set()
        data = self._left + data
        end = 0
        for found in STAMP.finditer(data):
            self.ages.append((now - int(found[1])) / 1e6)
            end = found.end()
        self._left = data[max(end, len(data) - 64) :]


async def measure(name: str, recording: Server, serving: Server, chosen: argparse.Namespace) -> None:
    async with anthropic.AsyncAnthropic(**recording.told) as client:
        agent = await client.beta.agents.create(name="Bench", model="claude-opus-5-5")
        environment = await client.beta.environments.create(name=name, config={"type": "cloud"})
        sessions = [
            (await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)).id
            for _ in range(chosen.sessions)
        ]
    address, loop = urlsplit(serving.told["base_url"]), asyncio.get_running_loop()
    readers = []
    for number in range(chosen.readers):
        path = f"/v1/sessions/{sessions[number % len(sessions)]}/events/stream?beta=true"
        head = f"Host: {address.netloc}\r\nX-Api-Key: {serving.told['api_key']}\r\nAnthropic-Version: 2023-06-01\r\n"
        head += "Anthropic-Beta: managed-agents-2026-04-01\r\n"
        reader = Reader(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        transport, _ = await loop.create_connection(lambda reader=reader: reader, address.hostname, address.port)
        readers.append((reader, transport))
        async with asyncio.timeout(10):
            await reader.connected.wait()
    before = cpu_seconds(serving.process.pid)
    count = await recording.ask(sessions=sessions, rate=chosen.rate, seconds=chosen.seconds)
    wanted = count * chosen.readers // chosen.sessions
    async with asyncio.timeout(30):
        while sum(len(reader.ages) for reader, _ in readers) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    used = cpu_seconds(serving.process.pid) - before
    for _, transport in readers:
        transport.close()
    ages = sorted(age for reader, _ in readers for age in reader.ages)
    p99 = ages[round(0.99 * (len(ages) - 1))]
    print(
        f"{name:<28} {count / chosen.seconds:6.0f} events/s {len(ages) / chosen.seconds:7.0f} deliveries/s   "
        f"median {statistics.median(ages):6.2f} ms   p99 {p99:6.2f} ms   "
        f"{used / len(ages) * 1e6:5.0f} µs CPU of the reading server per delivery",
        flush=True,
    )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main(chosen: argparse.Namespace) -> None:
    stores = chosen.stores.split(",")
    print(f"load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")
    async with AsyncExitStack() as stack:
        if "sqlite" in stores:
            async with server("") as one:
                await measure("same process (sqlite)", one, one, chosen)
        if "postgresql" in stores:
            url = stack.enter_context(PostgresCluster(durable=True)).create_database("bench")
            async with server(url) as one:
                await measure("same process (postgresql)", one, one, chosen)
                async with server(url) as two:
                    await asyncio.sleep(1)  # lets it begin to listen
                    await measure("other process (postgresql)", one, two, chosen)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--readers", type=int, default=500)
    arguments.add_argument("--sessions", type=int, default=50)
    arguments.add_argument("--rate", type=float, default=4.0, help="events per second and session")
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--stores", default="sqlite,postgresql")
    arguments.add_argument("--serve", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.serve) if options.serve else main(options))
