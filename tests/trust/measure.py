"""Measures which programs trust a session's authority, and writes the page that says so."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from trustkit import CLIENTS, PAGE, egress_road, open_bench, page


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        async with open_bench(Path(folder), egress_road) as bench:
            found = [await bench.measure(client) for client in CLIENTS]
        async with open_bench(Path(other), egress_road, trusting=False) as bench:
            careless = [one.client.name for one in [await bench.measure(client) for client in CLIENTS] if one.works]
    for one in found:
        print(one.client.name, "-", one.version or "not installed", "-", "works" if one.works else one.says)
    if careless:
        print("These take a certificate that nobody told them to trust:", *careless, file=sys.stderr)
        return 1
    PAGE.write_text(page(found))
    return 0 if all(one.works for one in found if one.version is not None) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
