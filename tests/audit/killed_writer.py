"""A writer of acts with their entries, killed by somebody else at its commit.

python killed_writer.py <database url> before|after

Each transaction makes a session, with its entry. The process says `commit` right before the last COMMIT is sent to the
database, or right after its answer came, and then waits to be killed.
"""

from __future__ import annotations

import asyncio
import sys

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from storekit import add_session

from hostler.store.database import Database


def _wait() -> None:
    print("commit", flush=True)
    sys.stdin.readline()


async def main(url: str, when: str) -> None:
    db = await Database.open(url)
    await add_session(db, "sesn_whole")
    if when == "before":
        sa.event.listen(Engine, "commit", lambda _: _wait())
    await add_session(db, "sesn_cut")
    _wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
