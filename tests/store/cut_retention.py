"""A server that removes what is over, says after each transaction that it did, and then waits to be killed or told on.

python cut_retention.py <database url>
"""

from __future__ import annotations

import asyncio
import sys

from test_store_retention import retention_of

from hostler.store.database import Database


def _told(took: float) -> float:
    print("piece", flush=True)
    sys.stdin.readline()
    return 0.0


async def main(url: str) -> None:
    db = await Database.open(url)
    await retention_of(db, owner="w1", rest=_told).look()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
