"""What does it cost to set money aside? Run: `python bench/reservations.py` (about 20 s; needs PostgreSQL's programs).

One reservation and one settlement at a time on SQLite and PostgreSQL, with durable commits, beside `SELECT 1` in the
same run; then 16 writers on one budget. All of it rests on what the disk needs to flush, so that is measured first, in
the folder where the databases are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from sqlalchemy import Connection

from hostler.store import budgets, reservations
from hostler.store.catalog import create_agent, create_environment
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.reservations import Subjects
from hostler.testing.postgres import PostgresCluster

WHOSE = Subjects(DEFAULT_WORKSPACE, "sesn_bench", "agent_1", 1)
ROOM = 10**17


def flush_ms(folder: Path, times: int = 200) -> float:
    """Median of writing 8 kB and flushing it."""
    took = []
    with (folder / "flushed").open("wb", buffering=0) as file:
        for _ in range(times):
            since = time.perf_counter()
            file.seek(0)
            file.write(b"x" * 8192)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - since)
    return statistics.median(took) * 1000


async def prepared(url: str) -> Database:
    database = await Database.open(url, durable=True, pool_size=16)

    def unit(conn: Connection) -> None:
        now = database.now(conn)
        create_agent(conn, now, id="agent_1", workspace_id=DEFAULT_WORKSPACE, name="A", body={})
        create_environment(conn, now, id="env_1", workspace_id=DEFAULT_WORKSPACE, name="e", body={})
        budgets.create(conn, now, DEFAULT_WORKSPACE, "agent", "agent_1", "total", ROOM)

    await database.write(unit)
    return database


async def measured(times: int, what: Callable[[int], Awaitable[object]]) -> list[float]:
    took = []
    for number in range(times):
        since = time.perf_counter()
        await what(number)
        took.append((time.perf_counter() - since) * 1000)
    return took


def said(took: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(statistics.median(took), 3),
        "p99_ms": round(statistics.quantiles(took, n=100)[98], 3),
    }


async def run(kind: str, url: str, times: int, seconds: float) -> dict[str, object]:
    database = await prepared(url)

    async def take(number: int, name: str = "one") -> None:
        found = await database.write_one(
            lambda c: reservations.take(c, database.now(c), f"grnt_{name}_{number}", WHOSE, 1_000)
        )
        assert found.fits
        assert found.rooms

    async def settle(number: int, name: str = "one") -> None:
        await database.write(
            lambda c: reservations.settle(
                c, database.now(c), f"grnt_{name}_{number}", WHOSE, cost=10, uncertain=0, over=True
            )
        )

    async def select(_: int) -> None:
        await database.read(lambda c: c.exec_driver_sql("SELECT 1").all())

    async def written(name: str, until: float, also_settled: bool) -> list[float]:
        took: list[float] = []
        while time.perf_counter() < until:
            since = time.perf_counter()
            await take(len(took), name)
            took.append((time.perf_counter() - since) * 1000)
            if also_settled:
                await settle(len(took) - 1, name)
        return took

    for number in range(50):
        await take(number, "warm")
        await settle(number, "warm")
        await select(number)
    result: dict[str, object] = {"store": kind}
    result["select_1"] = said(await measured(times, select))
    result["reserve"] = said(await measured(times, take))
    result["settle"] = said(await measured(times, settle))
    result["select_1_again"] = said(await measured(times, select))

    for name, also_settled in (("reserve", False), ("reserve_and_settle", True)):
        took = []
        since = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            writers = [tasks.create_task(written(f"{name}{each}", since + seconds, also_settled)) for each in range(16)]
        for writer in writers:
            took += writer.result()
        rate = len(took) / (time.perf_counter() - since)
        result[f"hot_budget_16_writers_{name}"] = {"per_second": round(rate), **said(took)}
    await database.close()
    return result


async def main(times: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder, PostgresCluster(durable=True) as cluster:
        conditions = {
            "fdatasync_8kb_ms": round(flush_ms(Path(folder)), 3),
            "load_1_min": round(os.getloadavg()[0], 1),
            "cpus": os.cpu_count(),
        }
        print(json.dumps(conditions), flush=True)
        for kind, url in (
            ("sqlite", f"sqlite:///{folder}/bench.db"),
            ("postgresql", cluster.create_database("bench")),
        ):
            print(json.dumps(await run(kind, url, times, seconds)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=2_000, help="reservations one at a time")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the writers at one budget")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.times, arguments.seconds))
