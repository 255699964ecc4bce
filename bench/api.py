"""What does the API cost? Run: `python bench/api.py` (about three minutes; `--million` adds some more).

Raw HTTP over kept connections, closed loop, servers on one processor and this generator on another. In every round
the targets take turns: a bare FastAPI handler, Hostler's route with a session service that has no database, and
Hostler on SQLite and on PostgreSQL. Only ratios survive a noisy machine; absolute numbers are for orientation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop

from hostler.store.database import Database
from hostler.testing.postgres import PostgresCluster

HERE = Path(__file__).parent
CONNECTIONS = 16


# -------------------------------------------------------------------------------------------------------------- load


@dataclass
class Load:
    """What one target took in one round."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Milliseconds."""

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def median(self) -> float:
        return statistics.median(self.latencies)

    @property
    def p99(self) -> float:
        ordered = sorted(self.latencies)
        return ordered[round(0.99 * (len(ordered) - 1))]


class Caller(asyncio.Protocol):
    """One kept connection: the next request goes out when the answer to the last one is complete."""

    def __init__(self, next_request: Callable[[], bytes | None], load: Load, done: asyncio.Future[None]) -> None:
        self._next = next_request
        self._load = load
        self._done = done
        self._parser: Any = None
        self._sent = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._go_on()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._load.latencies.append((monotonic() - self._sent) * 1000)
        if status != 200:
            self._done.set_exception(RuntimeError(f"answered {status}"))
            return
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        request = self._next()
        if request is None:
            self._transport.close()
            self._done.set_result(None)
            return
        self._parser = httptools.HttpResponseParser(self)
        self._sent = monotonic()
        self._transport.write(request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(f"hung up: {error}"))


async def drive(target: Target, request: Callable[[], bytes], connections: int, seconds: float) -> Load:
    load = Load()
    loop = asyncio.get_running_loop()
    begun = monotonic()

    def next_request() -> bytes | None:
        return request() if monotonic() - begun < seconds else None

    waits = []
    for _ in range(connections):
        done = loop.create_future()
        await loop.create_connection(lambda done=done: Caller(next_request, load, done), target.host, target.port)
        waits.append(done)
    for done in waits:
        await done
    load.seconds = monotonic() - begun
    return load


# ----------------------------------------------------------------------------------------------------------- targets


@dataclass
class Target:
    name: str
    host: str
    port: int
    key: str
    pid: int

    def get(self, path: str) -> bytes:
        return (
            f"GET {path} HTTP/1.1\r\nhost: {self.host}\r\nauthorization: Bearer {self.key}\r\n"
            "anthropic-version: 2026-10-21\r\n\r\n"
        ).encode()

    def post(self, path: str, body: Any) -> bytes:
        data = json.dumps(body).encode()
        return (
            f"POST {path} HTTP/1.1\r\nhost: {self.host}\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        ).encode() + data


@asynccontextmanager
async def started(name: str, *arguments: str) -> AsyncIterator[Target]:
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdin
    assert process.stdout
    try:
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        address = urlsplit(told["base_url"])
        assert address.hostname
        assert address.port
        os.sched_setaffinity(process.pid, {0})
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {0})
        yield Target(name, address.hostname, address.port, told["api_key"], process.pid)
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def hostler(store: str, cluster: PostgresCluster | None) -> AsyncIterator[tuple[Target, str]]:
    folder = Path(tempfile.mkdtemp(prefix="hostler-bench-"))
    folder.chmod(0o711)
    url = f"sqlite:///{folder / 'bench.db'}" if cluster is None else cluster.create_database("bench_api")
    settings = {"state_dir": str(folder), "store": {"url": url}, "server": {"port": 0}}
    try:
        async with started(store, sys.executable, str(HERE / "serve.py"), json.dumps(settings)) as target:
            yield target, url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def call(target: Target, request: bytes) -> Any:
    """One request outside the measurement."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    writer.write(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"{head.decode()} {body.decode()[:300]}")
    return json.loads(body)


async def furnish(target: Target) -> dict[str, str]:
    """An agent, an environment and a hundred sessions; the ids."""
    toolset = [{"type": "agent_toolset_20260401"}]
    agent = await call(
        target, target.post("/v1/agents", {"name": "Bench", "model": "claude-opus-5-5", "tools": toolset})
    )
    environment = await call(target, target.post("/v1/environments", {"name": "bench"}))
    body = {"agent": agent["id"], "environment_id": environment["id"]}
    sessions = [await call(target, target.post("/v1/sessions", body)) for _ in range(100)]
    return {"agent": agent["id"], "environment": environment["id"], "session": sessions[0]["id"]}


# -------------------------------------------------------------------------------------------------------------- runs


def show(name: str, *figures: str) -> None:
    print(f"{name:<56}" + "".join(f"{figure:>24}" for figure in figures), flush=True)


async def reads(targets: dict[str, Target], ids: dict[str, dict[str, str]], rounds: int, seconds: float) -> None:
    """Retrieve by id and list of 100, at one and at sixteen connections."""
    for what, path in (
        ("session retrieve", lambda name: f"/v1/sessions/{ids[name]['session']}"),
        ("list of 100 sessions", lambda _: "/v1/sessions?limit=100"),
    ):
        for connections in (1, CONNECTIONS):
            loads: dict[str, list[Load]] = {name: [] for name in targets}
            for number in range(rounds):
                names = list(targets)
                names = names[number % len(names) :] + names[: number % len(names)]
                for name in names:
                    target = targets[name]
                    request = target.get("/bare" if name == "bare" else path(name))
                    loads[name].append(await drive(target, lambda r=request: r, connections, seconds))
            for name, found in loads.items():
                median = statistics.median(load.median for load in found)
                figures = [
                    f"{statistics.median(load.rate for load in found):.0f}/s",
                    f"median {median:.2f} ms",
                    f"p99 {statistics.median(load.p99 for load in found):.1f} ms",
                ]
                if name in ("sqlite", "postgresql"):
                    bare = statistics.median(a.median / b.median for a, b in zip(found, loads["bare"], strict=True))
                    same = statistics.median(a.median / b.median for a, b in zip(found, loads["no db"], strict=True))
                    limits = ("≤ 5", "≤ 3.5") if what == "session retrieve" else ("", "≤ 3.5")
                    figures += [f"{bare:.1f} × bare {limits[0]}", f"{same:.1f} × no database {limits[1]}"]
                show(f"{what}, {connections} connections ({name})", *figures)


async def writes(targets: dict[str, Target], ids: dict[str, dict[str, str]], rounds: int, seconds: float) -> None:
    """Session create, and an event sent to a session whose turn waits for nobody: an interrupt of an idle one."""
    for what in ("session create", "event send"):
        for name in ("sqlite", "postgresql"):
            if name not in targets:
                continue
            target, known = targets[name], ids[name]
            if what == "session create":
                body: Any = {"agent": known["agent"], "environment_id": known["environment"]}
                request = target.post("/v1/sessions", body)
            else:
                request = target.post(
                    f"/v1/sessions/{known['session']}/events", {"events": [{"type": "user.interrupt"}]}
                )
            for connections in (1, CONNECTIONS):
                found = [await drive(target, lambda r=request: r, connections, seconds) for _ in range(rounds)]
                show(
                    f"{what}, {connections} connections ({name})",
                    f"{statistics.median(load.rate for load in found):.0f}/s",
                    f"median {statistics.median(load.median for load in found):.2f} ms",
                    f"p99 {statistics.median(load.p99 for load in found):.1f} ms",
                )


async def multiply(url: str, session_id: str, up_to: int) -> None:
    """Copy one session until there are `up_to`: each a row as the server writes it, a second apart."""
    database = await Database.open(url)
    columns = await database.read(
        lambda c: [c_[0] for c_ in c.exec_driver_sql("SELECT * FROM sessions LIMIT 0").cursor.description]  # type: ignore[union-attr]
    )
    sqlite = url.startswith("sqlite")
    identity = "printf('sesn_%024d', n.i)" if sqlite else "'sesn_' || lpad(n.i::text, 24, '0')"
    when = (
        "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1700000000 + n.i, 'unixepoch')"
        if sqlite
        else "to_char(to_timestamp(1700000000 + n.i) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\".000000Z\"')"
    )
    values = ", ".join({"id": identity, "created_at": when}.get(name, f"s.{name}") for name in columns)
    numbers = (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {up_to})"
        if sqlite
        else f"WITH n AS (SELECT i FROM generate_series(1, {up_to}) AS i)"
    )
    statement = f"{numbers} SELECT {values} FROM n, sessions AS s WHERE s.id = '{session_id}'"
    names = ", ".join(columns)
    insert = f"INSERT INTO sessions ({names}) {statement}"
    await database.write(lambda c: c.exec_driver_sql(insert.replace("%", "%%") if not sqlite else insert) and None)
    await database.write(lambda c: c.exec_driver_sql("ANALYZE sessions") and None)
    await database.close()


async def growth(stores: list[str], cluster: PostgresCluster | None, rounds: int, seconds: float, most: int) -> None:
    """List and retrieve with a thousand and with a million sessions: two servers each, in turn."""
    for store in stores:
        async with AsyncExitStack() as stack:
            sides: dict[int, tuple[Target, str]] = {}
            for size in (1_000, most):
                used = None
                if store == "postgresql":
                    used = stack.enter_context(PostgresCluster(durable=True))
                target, url = await stack.enter_async_context(hostler(store, used))
                ids = await furnish(target)
                begun = monotonic()
                await multiply(url, ids["session"], size)
                print(f"  {size} sessions in {store}: {monotonic() - begun:.0f} s")
                sides[size] = (target, ids["session"])
            for what in ("retrieve", "list of 20"):
                loads: dict[int, list[Load]] = {size: [] for size in sides}
                for _ in range(rounds):
                    for size, (target, _) in sides.items():
                        count = [0]

                        def request(
                            size: int = size, target: Target = target, count: list[int] = count, what: str = what
                        ) -> bytes:
                            count[0] += 7919
                            number = count[0] % size + 1
                            if what == "retrieve":
                                return target.get(f"/v1/sessions/sesn_{number:024d}")
                            return target.get("/v1/sessions?limit=20")

                        loads[size].append(await drive(target, request, 1, seconds))
                ratio = statistics.median(a.median / b.median for a, b in zip(loads[most], loads[1_000], strict=True))
                show(
                    f"{what}: 1,000 → {most:,} sessions ({store})",
                    f"{statistics.median(x.median for x in loads[1_000]):.2f} ms",
                    f"{statistics.median(x.median for x in loads[most]):.2f} ms",
                    f"ratio {ratio:.2f} (≤ 1.5)",
                )


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=1.0)
    arguments.add_argument("--stores", default="sqlite,postgresql")
    arguments.add_argument("--million", type=int, nargs="?", const=1_000_000, default=0, metavar="SESSIONS")
    chosen = arguments.parse_args()
    stores = chosen.stores.split(",")
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    print(f"load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(PostgresCluster(durable=True)) if "postgresql" in stores else None
        targets: dict[str, Target] = {}
        ids: dict[str, dict[str, str]] = {"bare": {}, "no db": {"session": "sesn_fixed"}}
        for name in ("bare", "no db"):
            targets[name] = await stack.enter_async_context(
                started(name, sys.executable, str(HERE / "handlers.py"), name)
            )
        for store in stores:
            target, _ = await stack.enter_async_context(hostler(store, cluster if store == "postgresql" else None))
            targets[store] = target
            ids[store] = await furnish(target)
        await reads(targets, ids, chosen.rounds, chosen.seconds)
        await writes(targets, ids, chosen.rounds, chosen.seconds)
    if chosen.million:
        await growth(stores, cluster, chosen.rounds, chosen.seconds, chosen.million)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
