"""What does the audit log cost? Run: `python bench/audit.py [--entries N]` (a few minutes).

- append: transactions a second that write one entry each, by 1 and 16 writers at once, all of one workspace, each
  writer about a session of its own (as sessions write) or all about one.
- the same with a lock on the row of the workspace's chain until the commit, which is the design that was not taken
  (`docs/adr/0027-one-audit-log-chained-after-the-act.md`). SQLite has one writer anyway.
- seal: entries a second that get their places, hashes and signatures.
- verify: seconds for an export of N entries (a million by default), from a plain and a compressed file.

The load of the machine and the flush time of its disk are printed with it: a commit takes as long as that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.cli.audit import _lines_of, _packed, _report
from hostler.domain.auditing import Checkpoint, Link, canonical, chained, genesis
from hostler.domain.principals import DEFAULT_WORKSPACE, Actor
from hostler.engine.audit_log import AuditLog, AuditTerms
from hostler.sealing.masterkeys import GivenKeys, MasterKey
from hostler.sealing.signing import AuditSigner
from hostler.store import audit
from hostler.store.audit import Act
from hostler.store.database import Database
from hostler.store.jsontext import encode
from hostler.store.tables_audit import audit_chains
from hostler.testing.postgres import PostgresCluster

SIGNER = AuditSigner(GivenKeys(MasterKey(b"b" * 32)))
DETAILS = {"tool": "bash", "server": None, "runs": "builtin", "outcome": "succeeded", "duration_ms": 12.5}


def act(session: str) -> Act:
    return Act(
        "tool", "tool.call", Actor("session", session), "sevt_x", session, DETAILS, digests={"input_digest": "0" * 64}
    )


async def appended(db: Database, writers: int, seconds: float, *, one: bool, lock: bool) -> float:
    """Transactions a second."""
    until, done = time.monotonic() + seconds, 0
    mine = audit_chains.c.workspace_id == DEFAULT_WORKSPACE

    async def write(n: int) -> None:
        nonlocal done
        session = "sesn_bench" if one else f"sesn_bench{n}"

        def unit(conn: Connection) -> None:
            audit.append(conn, db.now(conn), DEFAULT_WORKSPACE, [act(session)])
            if lock:
                conn.execute(audit_chains.update().where(mine).values(signed_at=audit_chains.c.signed_at))

        while time.monotonic() < until:
            await db.write(unit)
            done += 1

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for n in range(writers):
            group.create_task(write(n))
    return done / (time.monotonic() - began)


async def sealed(db: Database) -> tuple[int, float]:
    """Entries that waited, and how many of them a second got their places."""
    log = AuditLog(db, SIGNER, AuditTerms())
    loose = sa.text("SELECT count(*) FROM audit_entries WHERE seq IS NULL")
    count = int(await db.read(lambda c: c.execute(loose).scalar_one()))
    began = time.monotonic()
    await log.look()
    return count, count / (time.monotonic() - began)


def export(path: Path, entries: int) -> None:
    """As a server writes it: an entry of a tool for each, a checkpoint after each thousand."""
    head, strands = genesis("wrkspc_bench"), [0] * 1000
    details = encode({**DETAILS, "waited_ms": 0.0, "input_digest": "0" * 64})
    with path.open("wb") as out:

        def line(value: object) -> None:
            out.write(encode(value).encode() + b"\n")

        line({"hostler_audit": 1, "workspace": "wrkspc_bench", "start": {"seq": 0, "hash": head.hex()}})
        for key in SIGNER.public_keys("2026-01-01T00:00:00.000000Z"):
            line({"signer": {name: getattr(key, name) for name in key.__slots__}})
        for seq in range(1, entries + 1):
            strand = seq % len(strands)
            strands[strand] += 1
            session = f"sesn_{strand:024}"
            id_, at = f"audit_{seq:024}", "2026-01-01T00:00:00.000000Z"
            called = (id_, at, "tool", "tool.call", "session", session, f"sevt_{seq:024}", f"asub_{strand:024}", "")
            text = canonical(Link("wrkspc_bench", seq, session, strands[strand], *called, details)).encode()
            head = chained(head, text)
            out.write(b'{"hash":"' + head.hex().encode() + b'","entry":' + text + b"}\n")
            if seq % 1000 == 0 or seq == entries:
                signed = SIGNER.sign(Checkpoint("wrkspc_bench", seq, head.hex(), at, ""))
                line({"checkpoint": {name: getattr(signed, name) for name in signed.__slots__}})
        line({"end": {"seq": entries, "hash": head.hex()}})


def verified(path: Path, entries: int) -> float:
    began = time.monotonic()
    with _lines_of(path) as lines:
        report = _report(lines, (), ())
    assert report.intact, report.findings
    assert report.entries == entries
    return time.monotonic() - began


def flush_ms(folder: Path) -> float:
    took = []
    with (folder / "flush").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.monotonic()
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - began)
    return sorted(took)[25] * 1e3


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        cluster = stack.enter_context(PostgresCluster(durable=True))
        print(f"load {os.getloadavg()}, flush {flush_ms(folder):.2f} ms (median)", flush=True)
        for url in (f"sqlite:///{folder / 'bench.db'}", cluster.create_database("bench")):
            db = await Database.open(url, pool_size=16, durable=True)
            await db.write(lambda c: audit.append(c, 1.0, DEFAULT_WORKSPACE, [act("sesn_first")]))
            await sealed(db)
            for writers, one, lock in (
                (1, True, False),
                (16, False, False),
                (16, True, False),
                (1, True, True),
                (16, False, True),
            ):
                rate = await appended(db, writers, options.seconds, one=one, lock=lock)
                where = "one session" if one else "a session each"
                how = "chain's row locked" if lock else "as it is"
                print(f"{db.dialect}: {writers} writers, {where}, {how}: {rate:,.0f} transactions/s", flush=True)
            count, rate = await sealed(db)
            print(f"{db.dialect}: {count:,} entries sealed, {rate:,.0f}/s", flush=True)
            await db.close()
        plain, packed = folder / "log.jsonl", folder / "log.jsonl.zst"
        export(plain, options.entries)
        with plain.open("rb") as file, packed.open("wb") as out:
            out.writelines(_packed(iter(lambda: file.read(1 << 20), b"")))
        for path in (plain, packed):
            size = path.stat().st_size / 1e6
            took = verified(path, options.entries)
            print(f"verify {options.entries:,} entries, {path.suffix}, {size:,.0f} MB: {took:.2f} s", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
