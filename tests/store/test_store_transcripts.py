"""The Agent SDK's own contracts, and ours on top: fence, idempotency, hostile entries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import pytest_asyncio
import sqlalchemy as sa
from claude_agent_sdk import fold_session_summary
from claude_agent_sdk.testing import run_session_store_conformance
from claude_agent_sdk.types import SessionKey, SessionStoreEntry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storekit import Databases, Skew, claim

from hostler.domain.errors import InvalidRequest, LeaseLost, TooLarge
from hostler.store.database import Database
from hostler.store.jsontext import decode, encode
from hostler.store.sessions import SessionRow
from hostler.store.transcripts import LARGEST_APPEND, TranscriptStore

KEY: SessionKey = {"project_key": "p", "session_id": "s"}


def entries(*values: dict[str, Any]) -> list[SessionStoreEntry]:
    return cast("list[SessionStoreEntry]", [{"type": "x", **value} for value in values])


@pytest_asyncio.fixture
async def opened(databases: Databases, dialect: str) -> AsyncIterator[list[Database]]:
    kept: list[Database] = []
    yield kept
    for database in kept:
        await database.close()


async def test_the_sdks_conformance_suite_passes(databases: Databases, dialect: str, opened: list[Database]) -> None:
    async def fresh() -> TranscriptStore:
        opened.append(await Database.open(databases.fresh(dialect)))
        return TranscriptStore(opened[-1])

    await run_session_store_conformance(fresh)


async def test_a_repeated_append_adds_nothing_and_the_first_content_stays(db: Database) -> None:
    store = TranscriptStore(db)
    assert await store.append_new(KEY, entries({"uuid": "a", "n": 1}, {"uuid": "a", "n": 2}, {"n": 3})) == 2
    assert await store.append_new(KEY, entries({"uuid": "a", "n": 4}, {"uuid": "b", "n": 5}, {"n": 3})) == 2
    assert await store.load(KEY) == entries({"uuid": "a", "n": 1}, {"n": 3}, {"uuid": "b", "n": 5}, {"n": 3})


async def test_a_repeated_entry_does_not_count_twice_in_the_summary(db: Database) -> None:
    store = TranscriptStore(db)
    await store.append(KEY, entries({"uuid": "a", "customTitle": "old"}))
    await store.append(KEY, entries({"uuid": "b", "customTitle": "new"}))
    await store.append(KEY, entries({"uuid": "a", "customTitle": "old"}))
    (found,) = await store.list_session_summaries("p")
    assert found["data"]["custom_title"] == "new"


async def test_one_uuid_may_be_in_a_transcript_and_in_its_subagents(db: Database) -> None:
    store = TranscriptStore(db)
    sub: SessionKey = {**KEY, "subpath": "subagents/agent-1"}
    assert await store.append_entry(KEY, {"type": "x", "uuid": "a"})
    assert await store.append_entry(sub, {"type": "x", "uuid": "a"})
    assert not await store.append_entry(sub, {"type": "x", "uuid": "a"})


POISON: list[dict[str, Any]] = [
    {"text": "\x00\x01\x1f\x7f\u2028\ufeff\ufffe"},
    {"\ud800": "\udfff x \ud83d", "\x00": {"\x00": ["\x00"]}},
    {"uuid": "\x00"},
    {"uuid": "\ud800"},
    {"uuid": "u" * 100_000},
    {"uuid": ""},
    {"uuid": None},
    {"uuid": 5},
    {"uuid": ["list"]},
    {"text": "y" * 5_000_000},
    {"n": 2**200, "f": -0.0, "e": 1e-300, "t": True, "z": None},
    {"timestamp": "0001-01-01T00:00:00", "customTitle": "t" * 1_000_000},
    {"timestamp": "9999-12-31T23:59:59", "type": "user", "message": {"content": [{"type": "text", "text": "\ud800"}]}},
    {"deep": eval("[" * 90 + "]" * 90)},
]


@pytest.mark.parametrize("poison", POISON, ids=range(len(POISON)))
async def test_poisoned_entries_come_back_as_they_went_in(db: Database, poison: dict[str, Any]) -> None:
    store = TranscriptStore(db)
    values = entries(poison, {"uuid": "after"})
    await store.append(KEY, values)
    await store.append(KEY, values[1:])
    assert await store.load(KEY) == values
    assert len(await store.list_session_summaries("p")) == 1


async def test_strange_uuids_are_idempotency_keys_too(db: Database) -> None:
    store = TranscriptStore(db)
    for uuid in ("\x00", "\ud800", "u" * 100_000, "ü"):
        assert await store.append_entry(KEY, {"type": "x", "uuid": uuid})
        assert not await store.append_entry(KEY, {"type": "x", "uuid": uuid, "other": 1})
        assert await store.has_uuid(KEY, uuid)
    assert not await store.has_uuid(KEY, "u" * 99_999)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(st.text(), json_values, max_size=4))
async def test_any_json_object_survives(db: Database, value: dict[str, Any]) -> None:
    store = TranscriptStore(db)
    key: SessionKey = {"project_key": "p", "session_id": "s"}
    before = await store.load(key) or []
    await store.append(key, [cast(SessionStoreEntry, value | {"uuid": None})])
    assert await store.load(key) == [*before, value | {"uuid": None}]


@given(value=st.text(alphabet=st.characters(categories=["Cs", "Cc", "L"])))
def test_stored_text_is_unicode_without_nul(value: str) -> None:
    text = encode({"v": value})
    text.encode()
    assert "\x00" not in text
    # Two halves that stand side by side are one character in JSON, whoever wrote them.
    assert decode(text)["v"].encode("utf-16", "surrogatepass") == value.encode("utf-16", "surrogatepass")


async def test_the_longest_append_is_taken_and_a_longer_one_refused(db: Database) -> None:
    store = TranscriptStore(db)
    almost = entries({"text": "x" * (LARGEST_APPEND - 100)})
    await store.append(KEY, almost)
    assert await store.load(KEY) == almost
    with pytest.raises(TooLarge):
        await store.append(KEY, entries({"text": "x" * LARGEST_APPEND}))


@pytest.mark.parametrize("part", ["project_key", "session_id", "subpath"])
@pytest.mark.parametrize("bad", ["\x00", "\ud800", "k" * 1025, "é" * 600])
async def test_keys_that_no_index_can_hold_are_refused(db: Database, part: str, bad: str) -> None:
    with pytest.raises(InvalidRequest):
        await TranscriptStore(db).append(cast(SessionKey, {**KEY, part: bad}), entries({}))


async def test_the_longest_keys_fit_in_the_index(db: Database) -> None:
    store = TranscriptStore(db)
    key: SessionKey = {"project_key": "p" * 512, "session_id": "s" * 256, "subpath": "q" * 1024}
    await store.append(key, entries({"uuid": "u" * 64}, {"uuid": "v" * 65}))
    assert await store.load(key) == entries({"uuid": "u" * 64}, {"uuid": "v" * 65})


async def test_a_sessions_store_finds_its_transcript_from_any_directory(db: Database, session: SessionRow) -> None:
    store = TranscriptStore(db, session_id="sesn_1")
    await store.append({"project_key": "-workspace", "session_id": "s"}, entries({"n": 1}))
    assert await store.load({"project_key": "-elsewhere", "session_id": "s"}) == entries({"n": 1})
    assert [each["session_id"] for each in await store.list_sessions("-anywhere")] == ["s"]
    assert await TranscriptStore(db, session_id="sesn_2").load({"project_key": "-workspace", "session_id": "s"}) is None


async def test_a_worker_without_its_lease_writes_no_transcript(db: Database, session: SessionRow, skew: Skew) -> None:
    lease = await claim(db, "w1", ttl=30)
    store = TranscriptStore(db, session_id="sesn_1", lease=lease)
    await store.append(KEY, entries({"uuid": "a"}))
    skew.seconds += 31
    with pytest.raises(LeaseLost):
        await store.append(KEY, entries({"uuid": "b"}))
    newer = TranscriptStore(db, session_id="sesn_1", lease=await claim(db, "w2", ttl=30))
    with pytest.raises(LeaseLost):
        await store.append(KEY, entries({"uuid": "b"}))
    with pytest.raises(LeaseLost):
        await store.delete(KEY)
    await newer.append(KEY, entries({"uuid": "c"}))
    assert await newer.load(KEY) == entries({"uuid": "a"}, {"uuid": "c"})


async def test_the_leaf_is_the_last_entry_with_a_uuid(db: Database) -> None:
    store = TranscriptStore(db)
    assert await store.leaf(KEY) is None
    await store.append(KEY, entries({"uuid": "a"}, {"uuid": "b"}, {"type": "title"}))
    await store.append({**KEY, "subpath": "subagents/1"}, entries({"uuid": "c"}))
    assert await store.leaf(KEY) == {"type": "x", "uuid": "b"}


async def test_the_summary_is_what_the_sdk_would_fold(db: Database) -> None:
    store = TranscriptStore(db)
    said = [
        {"uuid": "a", "type": "user", "cwd": "/workspace", "timestamp": "2026-01-01T00:00:00.000Z"},
        {"uuid": "b", "type": "user", "message": {"content": "Fix it"}},
        {"type": "ai-title", "aiTitle": "Fixing"},
    ]
    for entry in said:
        await store.append(KEY, entries(entry))
    (found,) = await store.list_session_summaries("p")
    assert found["data"] == fold_session_summary(None, KEY, entries(*said))["data"]


async def test_what_follows_a_lost_append_is_not_taken(databases: Databases, dialect: str) -> None:
    """The harness tries the same a few times, and then goes on with the next."""
    url = databases.fresh(dialect)
    database = await Database.open(url)
    store = TranscriptStore(database).gapless()
    first, second, third = (entries({"uuid": f"u{at}"}) for at in range(3))
    await store.append(KEY, first)
    await database.write(lambda c: c.execute(sa.text("ALTER TABLE transcript_entries RENAME TO away")))
    with pytest.raises(sa.exc.DBAPIError):
        await store.append(KEY, second)
    await database.write(lambda c: c.execute(sa.text("ALTER TABLE away RENAME TO transcript_entries")))
    with pytest.raises(InvalidRequest, match="before these"):
        await store.append(KEY, third)
    await store.append({**KEY, "subpath": "another"}, third)
    assert await store.load(KEY) == first
    await store.append(KEY, [*second, *third])
    assert await store.load(KEY) == [*first, *second, *third]
    await database.close()
