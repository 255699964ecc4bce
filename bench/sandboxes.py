"""Do sandboxes that come and go leave anything on the host? One command.

    .venv/bin/python bench/sandboxes.py --churn 200 [--at-once 4] [--technology bubblewrap]

Makes so many sandboxes with all that belongs to a session, leaves each in the worst way, ends it, and counts processes,
mounts, control groups, namespaces, loop devices and files before and after: first what belongs to these sandboxes, then
everything on the host. The first must be what it was (exit status 1 otherwise); so must the second, on a host on which
nothing else happens.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from hostler import config
from hostler.compose.sandboxes import sandbox_provider, volume_trial
from hostler.compose.sandboxes import volumes as open_volumes
from hostler.event_loop import new_event_loop
from hostler.testing.churn import churn, traces
from hostler.testing.sandboxes import Ground

UIDS = range(612_000, 612_512)


async def come_and_go(technology: str, count: int, at_once: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as name:
        root = Path(name)
        settings = config.load(
            {"HOME": "/nonexistent"},
            state_dir=str(root),
            sandbox__technology=technology,
            sandbox__first_uid=UIDS.start,
            sandbox__uids=len(UIDS),
        )
        volumes, _ = open_volumes(settings, volume_trial(settings))
        changes: dict[str, Any] = {"technology": technology}
        try:
            async with Ground(root, lambda _: sandbox_provider(settings), changes=changes) as ground:
                await ground.provider.sweep()
                await churn(ground, volumes, 1, 1)  # what is made once and stays
                before = traces(root, sandboxes=(), uids=UIDS), traces(root, sandboxes=None, uids=UIDS)
                begun = monotonic()
                ids = await churn(ground, volumes, count, at_once)
                took = monotonic() - begun
                after = traces(root, sandboxes=ids, uids=UIDS), traces(root, sandboxes=None, uids=UIDS)
        finally:
            volumes.close()
    print(f"{technology}: {count} sandboxes made and ended, {at_once} at a time, in {took:.1f} s")
    for title, one, other in zip(("of these", "on the host"), before, after, strict=True):
        print(f"  {title:<12}before  {one}")
        print(f"  {'':<12}after   {other}")
    return before[0] == after[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--churn", type=int, default=200, metavar="SANDBOXES")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--technology", default="bubblewrap")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        same = runner.run(come_and_go(given.technology, given.churn, given.at_once))
    print("nothing is left" if same else "SOMETHING IS LEFT")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
