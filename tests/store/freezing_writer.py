"""A server that freezes in the middle of a write, its session's row locked. Run: `freezing_writer.py URL SESSION`.

It stops itself between the preparation of a statement and its execution, for PostgreSQL the middle of a statement.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.util import await_only

from hostler.store import tables
from hostler.store.database import Database


async def main(url: str, session_id: str) -> None:
    database = await Database.open(url)

    def freeze(connection: Connection) -> None:
        row = sa.select(tables.sessions.c.id).where(tables.sessions.c.id == session_id)
        assert connection.execute(row.with_for_update()).scalar() == session_id
        driver = connection.connection.driver_connection
        assert driver is not None
        await_only(driver.prepare("SELECT 1"))
        os.kill(os.getpid(), signal.SIGSTOP)

    await database.write(freeze)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
