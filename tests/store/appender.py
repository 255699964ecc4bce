"""A program that appends events to `sesn_1` until it is killed, and prints each number once it is committed."""

from __future__ import annotations

import asyncio
import sys

from storekit import add_catalog, add_session, append, event

from hostler.store.database import Database
from hostler.store.eventlog import Change


async def main(url: str, round: str) -> None:
    database = await Database.open(url)
    if round == "0":
        await add_catalog(database)
        await add_session(database, "sesn_1")
    while True:
        done = await append(
            database, lambda view: Change("{}", "running", [event(view.session.last_seq + 1)], wanted=True)
        )
        print(done.session.last_seq, flush=True)


asyncio.run(main(*sys.argv[1:]))
