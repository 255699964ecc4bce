"""Entries are written with what they record, by many at once; and what is personal in them can be taken back."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from auditkit import ADMIN, KEY, WS, Log, check, found, tool
from storekit import Skew, add_session

from hostler.domain.auditing import SignerKey
from hostler.domain.errors import NotFound
from hostler.domain.principals import Actor
from hostler.engine.audit_log import AuditLog, AuditTerms
from hostler.engine.audit_verifier import Report
from hostler.sealing.masterkeys import GivenKeys
from hostler.sealing.signing import AuditSigner
from hostler.store import audit, audit_chain, keys
from hostler.store.audit import Act
from hostler.store.database import Database
from hostler.store.retention_policies import policies
from hostler.store.retention_scope import DAY, Scope


@pytest.mark.parametrize(("when", "wanted"), [("before", {"sesn_whole"}), ("after", {"sesn_whole", "sesn_cut"})])
async def test_a_writer_killed_at_its_commit_leaves_act_and_entry_or_neither(
    log: Log, url: str, when: str, wanted: set[str]
) -> None:
    program = [sys.executable, str(Path(__file__).with_name("killed_writer.py")), url, when]
    paths = os.pathsep.join(path for path in sys.path if path)
    victim = await asyncio.create_subprocess_exec(
        *program, stdin=PIPE, stdout=PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    assert victim.stdout is not None
    async with asyncio.timeout(60):
        assert await victim.stdout.readline() == b"commit\n"
    victim.kill()
    await victim.wait()
    made = {row[0] for row in await log.rows("SELECT id FROM sessions")} - {"sesn_1", "sesn_2"}
    acts = {row[0] for row in await log.rows("SELECT target_id FROM audit_entries WHERE act = 'session.create'")}
    assert made == wanted
    assert acts - {"sesn_1", "sesn_2"} == wanted
    assert (await log.report()).intact


async def test_what_is_rolled_back_leaves_no_entry_and_no_gap(log: Log) -> None:
    class Boom(Exception):
        pass

    def unit(conn: object) -> None:
        audit.append(conn, 1.0, WS, [tool("sesn_1", 40)])  # type: ignore[arg-type]
        raise Boom

    with pytest.raises(Boom):
        await log.db.write(unit)
    await log.append(tool("sesn_1", 41))
    report = await log.report()
    assert report.intact
    assert report.entries == 17


async def test_many_write_while_several_chain(log: Log) -> None:
    """Every entry comes into the chain once, and those of a session in their order."""
    servers = [Log(log.db) for _ in range(3)]
    stop = asyncio.Event()

    async def chain(server: Log) -> None:
        while not stop.is_set():
            await server.audit.look()

    async def write(session: str, writer: int) -> None:
        for n in range(8):
            await log.append(tool(session, n * 100 + writer), tool("sesn_2", n))

    async with asyncio.TaskGroup() as group:
        chaining = [group.create_task(chain(server)) for server in servers]
        writing = [group.create_task(write(session, n)) for n, session in enumerate(["sesn_1", "sesn_2", "sesn_1"])]
        await asyncio.wait(writing)
        stop.set()
        await asyncio.wait(chaining)
    report = await log.report()
    assert report.intact, report.findings
    assert report.entries == 16 + 3 * 8 * 2


async def test_a_key_that_is_destroyed_takes_what_is_personal_and_leaves_the_chain(log: Log) -> None:
    page = await log.db.read(lambda c: audit.page_of_acts(c, WS, limit=50, act="key.create"))
    (before,) = page.rows
    assert before.actor_id == "alice"
    assert before.private == {"name": "Alice's key"}
    stored = str(await log.rows("SELECT * FROM audit_entries"))
    assert "alice" not in stored.lower()
    await log.audit.redact(ADMIN, None, "apikey_9")
    await log.audit.redact(ADMIN, None, "alice")
    with pytest.raises(NotFound):
        await log.audit.redact(ADMIN, None, "bob")
    page = await log.db.read(lambda c: audit.page_of_acts(c, WS, limit=50, act="key.create"))
    (after,) = page.rows
    assert after.private is None
    assert after.actor_id.startswith("asub_")
    assert "alice" not in str(await log.saved()).lower()
    report = await log.report()
    assert report.intact, report.findings
    assert "audit.redact" in str(await log.rows("SELECT act FROM audit_entries"))


async def test_a_short_input_can_not_be_guessed_once_the_key_is_gone(log: Log) -> None:
    def done(n: int) -> Act:
        return Act(
            "tool", "tool.call", Actor("session", "sesn_1"), f"sevt_{n}", "sesn_1", digests={"input_digest": "ls"}
        )

    await log.append(done(50), done(51))
    (first,), (second,) = await log.rows("SELECT details FROM audit_entries WHERE target_id IN ('sevt_50', 'sevt_51')")
    assert first == second  # the same input of the same session is recognised
    await add_session(log.db, "sesn_3")
    await log.db.write(lambda c: audit.forget_session(c, log.db.now(c), WS, "sesn_1"))
    await log.append(done(52))
    ((third,),) = await log.rows("SELECT details FROM audit_entries WHERE target_id = 'sevt_52'")
    assert third == '{"input_digest":null}'
    keys = {row[0] for row in await log.rows("SELECT key FROM audit_subjects WHERE subject = 'sesn_1'")}
    assert keys == {""}
    assert (await log.report()).intact


async def test_old_entries_go_up_to_a_checkpoint_and_the_rest_is_still_verified(log: Log, skew: Skew) -> None:
    anchor = await log.report()
    skew.seconds = 10 * DAY
    await log.append(tool("sesn_1", 60))
    await log.egress("later.example")
    every = policies(lambda *_: None)

    async def carry_out(name: str, batch: int) -> int:
        scope = await log.db.read(lambda c: Scope(WS, log.db.now(c), {name: 5}))  # type: ignore[dict-item]
        policy, removed = every[name], 0  # type: ignore[index]
        while True:
            selected = await log.db.read(lambda c: policy.select(c, scope, None, batch))
            if not selected.found:
                return removed
            await log.db.write(lambda c, found=selected.found: policy.remove(c, scope, found))  # type: ignore[misc]
            removed += len(selected.found)
            report = await log.report(anchors=[anchor.hash])
            assert report.intact, (name, report.findings)

    assert await carry_out("egress_decisions", 2) == 3
    assert await carry_out("credential_uses", 10) == 1
    assert await carry_out("audit_entries", 7) == 16
    report = await log.report()
    assert report.first == 17
    assert report.intact
    await log.sql("DELETE FROM egress_decisions")
    assert found(await log.report()) == {"rows_removed"}


async def test_an_export_that_retention_runs_beside_accuses_nobody(log: Log, skew: Skew) -> None:
    skew.seconds = 10 * DAY
    await log.append(tool("sesn_1", 60))
    every = policies(lambda *_: None)

    async def remove(name: str) -> None:
        scope = await log.db.read(lambda c: Scope(WS, log.db.now(c), {name: 5}))  # type: ignore[dict-item]
        selected = await log.db.read(lambda c: every[name].select(c, scope, None, 100))  # type: ignore[index]
        await log.db.write(lambda c: every[name].remove(c, scope, selected.found))  # type: ignore[index]

    async def beside(*names: str) -> Report:
        _, pieces = await log.audit.export(ADMIN, None)
        data = await anext(pieces)  # what it begins with
        for name in names:
            await remove(name)
        return check((data + b"".join([piece async for piece in pieces])).splitlines())

    report = await beside("egress_decisions", "credential_uses")
    assert (report.intact, report.rows) == (True, 0)
    assert found(await beside("audit_entries")) <= {"incomplete", "unsigned"}
    assert (await log.report()).intact


async def test_rows_whose_neighbours_retention_took_are_not_among_those_that_an_entry_answers_for(
    log: Log, skew: Skew
) -> None:
    """Their digest can't be compared any more, so anybody may have changed them."""
    skew.seconds = 10 * DAY
    await log.egress("later.example")
    policy = policies(lambda *_: None)["egress_decisions"]
    scope = await log.db.read(lambda c: Scope(WS, log.db.now(c), {"egress_decisions": 5}))
    selected = await log.db.read(lambda c: policy.select(c, scope, None, 1))
    await log.db.write(lambda c: policy.remove(c, scope, selected.found))
    await log.sql("UPDATE egress_decisions SET host = 'elsewhere.example' WHERE host = 'c.example'")
    report = await log.report()
    assert (report.intact, report.rows, report.unvouched) == (True, 2, 2)  # one use, one later decision; two are left


async def test_a_strand_that_nobody_needs_any_more_is_forgotten(log: Log, skew: Skew) -> None:
    await log.sql("DELETE FROM work WHERE session_id = 'sesn_2'")
    await log.sql("DELETE FROM sessions WHERE id = 'sesn_2'")
    await log.db.write(lambda c: audit.forget_session(c, log.db.now(c), WS, "sesn_2"))
    await log.export()
    skew.seconds = 10 * DAY
    policy = policies(lambda *_: None)["audit_entries"]
    scope = await log.db.read(lambda c: Scope(WS, log.db.now(c), {"audit_entries": 5}))
    selected = await log.db.read(lambda c: policy.select(c, scope, None, 100))
    await log.db.write(lambda c: policy.remove(c, scope, selected.found))
    subjects = {row[0] for row in await log.rows("SELECT subject FROM audit_subjects")}
    assert "sesn_2" not in subjects
    assert "sesn_1" in subjects
    assert (await log.report()).intact


async def test_nothing_is_chained_twice_and_an_idle_log_costs_nothing(db: Database) -> None:
    log = Log(db)
    await log.audit.look()
    assert await log.rows("SELECT * FROM audit_chains") == []
    report = await log.report()
    assert (report.entries, report.intact, report.seq) == (0, True, 0)
    chain = await db.read(lambda c: audit_chain.get_chain(c, WS))
    assert chain is not None
    lines = await log.export()
    assert check(lines).intact


async def test_nobody_waits_for_the_program_that_guards_the_keys(log: Log) -> None:
    """It may take half a minute, and nobody may hold a transaction open for so long."""
    loop = asyncio.get_running_loop()

    class Slow(AuditSigner):
        """Answers once somebody else has written something."""

        def public_keys(self, at: str) -> list[SignerKey]:
            asyncio.run_coroutine_threadsafe(log.append(tool("sesn_1", 10)), loop).result(5)
            return super().public_keys(at)

    slow = AuditLog(log.db, Slow(GivenKeys(KEY)), AuditTerms(every=5, seconds=1e9))
    await slow.export(ADMIN, None)
    assert (await log.report()).intact


async def test_a_chain_that_somebody_has_broken_keeps_no_other_from_its_entries(log: Log) -> None:
    await log.export()
    await log.sql("UPDATE audit_chains SET hash = 'none'")
    await log.append(tool("sesn_1", 1))
    others = [await log.db.write(lambda c: keys.create_workspace(c, log.db.now(c), "other")) for _ in range(4)]
    for other in others:  # some of them have their turn after the broken one, wherever that stands
        by = {"actor": Actor("command_line", "alice"), "act": "key.create", "target_id": "k", "workspace_id": other.id}
        await log.db.write(lambda c, by=by: audit.record_act(c, log.db.now(c), details={}, **by))
    await log.audit.look()
    chained = {row[0] for row in await log.rows("SELECT workspace_id FROM audit_chains WHERE seq > 0")}
    assert chained >= {other.id for other in others}
