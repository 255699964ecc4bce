"""Keys, held calls, the bill and the audit."""

from __future__ import annotations

import pytest
from storekit import Skew, add_session, claim

from hostler.domain.errors import LeaseLost, NotFound, Unauthenticated
from hostler.store import keys, ledger, sequences
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE as WS
from hostler.store.ledger import RequestFacts, Total
from hostler.store.sessions import SessionRow, Usage, delete_session, get_session
from hostler.store.tables import api_keys


async def test_a_key_is_found_by_its_secret_only(db: Database) -> None:
    row, secret = await db.write(lambda c: keys.create_key(c, db.now(c), WS, "laptop"))
    assert secret.startswith("hk-")
    assert row.hint == secret[-4:]
    assert await db.read(lambda c: keys.find_key(c, db.now(c), secret)) == row
    for wrong in (secret[:-1], secret.upper(), "", "\x00", "\ud800", row.id):
        assert await db.read(lambda c, w=wrong: keys.find_key(c, db.now(c), w)) is None  # type: ignore[misc]


async def test_the_secret_is_not_kept(db: Database) -> None:
    _, secret = await db.write(lambda c: keys.create_key(c, db.now(c), WS, "laptop"))
    (kept,) = await db.read(lambda c: c.execute(api_keys.select()).all())
    assert not any(secret[3:] in str(value) for value in kept)


async def test_a_revoked_key_opens_nothing_and_stays_listed(db: Database, skew: Skew) -> None:
    row, secret = await db.write(lambda c: keys.create_key(c, db.now(c), WS, "laptop"))
    revoked = await db.write(lambda c: keys.revoke_key(c, db.now(c), row.id))
    skew.seconds += 5
    assert await db.write(lambda c: keys.revoke_key(c, db.now(c), row.id)) == revoked
    with pytest.raises(Unauthenticated, match="revoked"):
        await db.read(lambda c: keys.find_key(c, db.now(c), secret))
    assert await db.read(lambda c: keys.list_keys(c, WS)) == [revoked]
    with pytest.raises(NotFound):
        await db.write(lambda c: keys.revoke_key(c, db.now(c), "apikey_none"))


async def test_use_is_noted_once_a_minute(db: Database, skew: Skew) -> None:
    row, secret = await db.write(lambda c: keys.create_key(c, db.now(c), WS, "laptop"))

    async def touch() -> tuple[bool, bool]:
        found = await db.read(lambda c: keys.find_key(c, db.now(c), secret))
        assert found is not None
        asked = await db.read(lambda c: keys.needs_touch(found, db.now(c)))
        return asked, await db.write(lambda c: keys.touch_key(c, db.now(c), row.id))

    assert await touch() == (True, True)
    skew.seconds += 58
    assert await touch() == (False, False)
    skew.seconds += 3
    assert await touch() == (True, True)


async def test_workspaces_keep_their_keys_apart(db: Database) -> None:
    other = await db.write(lambda c: keys.create_workspace(c, db.now(c), "other"))
    row, secret = await db.write(lambda c: keys.create_key(c, db.now(c), other.id, "k"))
    assert await db.read(lambda c: keys.list_keys(c, WS)) == []
    assert await db.read(lambda c: keys.list_keys(c)) == [row]
    found = await db.read(lambda c: keys.find_key(c, db.now(c), secret))
    assert found is not None
    assert found.workspace_id == other.id
    assert [each.id for each in await db.read(keys.list_workspaces)] == [WS, other.id]
    with pytest.raises(NotFound):
        await db.write(lambda c: keys.create_key(c, db.now(c), "wrkspc_none", "k"))


async def record(db: Database, used: Usage, session_id: str = "sesn_1", **fields: object) -> ledger.ModelRequestRow:
    values = {"model": "m", "status": 200, "stop_reason": "end_turn", "duration_ms": 12.5, "first_byte_ms": 3.25}
    return await db.write(
        lambda c: ledger.record_model_request(
            c,
            db.now(c),
            session_id=session_id,
            usage=used,
            **(values | fields),  # type: ignore[arg-type]
        )
    )


async def test_a_request_and_its_usage_are_one(db: Database, session: SessionRow) -> None:
    first = await record(db, Usage(1, 2, 3, 4, 5, 6))
    second = await record(db, Usage(10), stop_reason=None, first_byte_ms=None, status=0)
    assert await db.read(lambda c: ledger.list_model_requests(c, "sesn_1")) == [first, second]
    assert (await db.read(lambda c: get_session(c, WS, "sesn_1"))).usage == Usage(11, 2, 3, 4, 5, 6)
    with pytest.raises(NotFound):
        await record(db, Usage(1), session_id="sesn_none")


async def test_an_attempt_is_in_the_ledger_once_however_often_it_is_recorded(db: Database, session: SessionRow) -> None:
    facts = [RequestFacts(request_id=request, attempt=number) for request in ("mreq_1", "mreq_2") for number in (1, 2)]
    for one in facts:
        await record(db, Usage(1), facts=one)
    for one in facts:
        with pytest.raises(ledger.AlreadyRecorded):
            await record(db, Usage(1), facts=one)
    assert await db.read(lambda c: ledger.total(c, session_id="sesn_1")) == Total(4, Usage(4))
    assert (await db.read(lambda c: get_session(c, WS, "sesn_1"))).usage == Usage(4)


async def test_the_bill_outlives_the_session(db: Database, session: SessionRow) -> None:
    await add_session(db, "sesn_2")
    await record(db, Usage(1))
    await record(db, Usage(2), session_id="sesn_2")
    await db.write(lambda c: delete_session(c, WS, "sesn_1"))
    assert await db.read(lambda c: ledger.total(c, session_id="sesn_1")) == Total(1, Usage(1))
    assert await db.read(lambda c: ledger.total(c, workspace_id=WS)) == Total(2, Usage(3))
    assert await db.read(lambda c: ledger.total(c)) == Total(2, Usage(3))
    assert await db.read(lambda c: ledger.total(c, session_id="sesn_none")) == Total(0, Usage())


async def test_decisions_are_recorded_whatever_the_sandbox_sent(db: Database, session: SessionRow) -> None:
    async def decide(host: str, allowed: bool) -> ledger.EgressRow:
        return await db.write(
            lambda c: ledger.record_egress(
                c, db.now(c), session_id="sesn_1", method="CONNECT", host=host, port=443, allowed=allowed, reason="r"
            )
        )

    rows = [await decide("example.com", True), await decide("a\x00\ud800" + "b" * 5000, False)]
    assert rows[1].host == "a\ufffd\ufffd" + "b" * 1021
    assert await db.read(lambda c: ledger.list_egress(c, "sesn_1")) == rows
    assert await db.read(lambda c: ledger.list_egress(c, "sesn_1", limit=1)) == rows[1:]


async def test_held_calls_are_replaced_and_fenced(db: Database, session: SessionRow, skew: Skew) -> None:
    lease = await claim(db, ttl=30)
    assert await db.read(lambda c: sequences.load_sequence(c, "sesn_1")) is None
    await db.write(lambda c: sequences.save_sequence(c, db.now(c), "sesn_1", '{"a":1}', lease=lease))
    await db.write(lambda c: sequences.save_sequence(c, db.now(c), "sesn_1", '{"a":2}', lease=None))
    skew.seconds += 31
    with pytest.raises(LeaseLost):
        await db.write(lambda c: sequences.save_sequence(c, db.now(c), "sesn_1", '{"a":3}', lease=lease))
    assert await db.read(lambda c: sequences.load_sequence(c, "sesn_1")) == '{"a":2}'
    with pytest.raises(NotFound):
        await db.write(lambda c: sequences.save_sequence(c, db.now(c), "sesn_none", "{}", lease=None))
