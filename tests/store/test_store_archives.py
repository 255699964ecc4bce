"""Archives of transcripts: whole, bounded, fenced, and found again."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from storekit import Skew, claim

from hostler.domain.errors import LeaseLost, NotFound
from hostler.engine import archives as archiving
from hostler.engine.archives import ArchiveFull, ArchiveLimits, Archives
from hostler.engine.profile import transcript_id
from hostler.store.database import Database
from hostler.store.sessions import SessionRow
from hostler.store.transcripts import TranscriptStore


def message(uuid: str, text: str) -> dict[str, Any]:
    return {"uuid": uuid, "type": "user", "timestamp": "t", "message": {"role": "user", "content": text}}


async def say(db: Database, session: SessionRow, *texts: str, subpath: str = "") -> None:
    key: Any = {"project_key": "-workspace", "session_id": transcript_id(session.id), "subpath": subpath}
    entries: Any = [message(text[:40], text) for text in texts]
    await TranscriptStore(db, session_id=session.id).append(key, entries)


async def everything(archives: Archives, session: SessionRow, archive_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    first: int | None = 0
    while first is not None:
        _, page, first = await archives.read(session.workspace_id, session.id, archive_id, limit=2, first=first)
        found += page
    return found


async def test_archive_has_what_was_added_since_the_one_before(db: Database, session: SessionRow) -> None:
    archives, lease = Archives(db), await claim(db)
    await say(db, session, "one", "two \ud83d odd", 'three "quoted"\u2028 line')
    await say(db, session, "sub", subpath="subagents/agent-1")
    first = await archives.write(session, lease)
    assert [(e["thread"], e["text"]) for e in await everything(archives, session, first.id)] == [
        ("main", "one"),
        ("main", "two \ud83d odd"),
        ("main", 'three "quoted"\u2028 line'),
        ("subagents/agent-1", "sub"),
    ]
    assert await archives.write(session, lease) == first  # nothing was added
    await say(db, session, "four")
    second = await archives.write(session, lease)
    (entry,) = await everything(archives, session, second.id)
    assert entry["entry"] == message("four", "four")
    rows, more = await archives.page(session.workspace_id, session.id, limit=1, before=None)
    assert ([row["id"] for row in rows], more) == ([second.id], True)
    with pytest.raises(NotFound):
        await archives.read("wrkspc_other", session.id, second.id, limit=1, first=0)
    with pytest.raises(NotFound):
        await archives.search("wrkspc_other", session.id, "one", limit=1, start=None)


async def test_an_archive_that_was_removed_is_written_again_when_a_compaction_needs_it(
    db: Database, session: SessionRow
) -> None:
    archives, lease = Archives(db), await claim(db)
    await say(db, session, "one")
    first = await archives.write(session, lease)
    await say(db, session, "two", "three")
    second = await archives.write(session, lease)
    await db.write(lambda c: c.execute(sa.text("UPDATE archives SET state = 'removed'")))
    assert first.upto != second.upto
    again = await archives.write(session, lease)
    assert (again.state, again.upto) == ("complete", second.upto)
    assert [entry["text"] for entry in await everything(archives, session, again.id)] == ["two", "three"]


async def test_search_goes_through_all_archives_in_bounded_steps(
    db: Database, session: SessionRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "CHUNK_BYTES", 300)
    monkeypatch.setattr(archiving, "SCAN_BYTES", 500)
    archives, lease = Archives(db), await claim(db)
    for round_ in range(3):
        await say(db, session, *(f"{round_}-{n} straw" for n in range(6)), f"{round_} a NEEDLE Straße")
        await archives.write(session, lease)

    async def find(words: str, limit: int) -> tuple[list[str], int]:
        found: list[str] = []
        start: int | None = None
        calls = 0
        while calls < 100:
            page, start = await archives.search(session.workspace_id, session.id, words, limit=limit, start=start)
            found += [entry["text"] for entry in page]
            calls += 1
            if start is None:
                return found, calls
        raise AssertionError("it never ends")

    needles = [f"{round_} a NEEDLE Straße" for round_ in (2, 1, 0)]
    found, calls = await find("needle", 10)
    assert found == needles
    assert calls > 1
    assert (await find("STRASSE", 1))[0] == needles
    assert len((await find("straw", 4))[0]) == 18
    assert await find('"', 10) == ([], calls)


async def test_full_store_removes_the_oldest_or_refuses(db: Database, session: SessionRow) -> None:
    lease = await claim(db)
    # What compresses badly, so that sizes are known roughly.
    words = ["".join(chr(33 + (n * n * 7919 + k * 104729) % 90) for n in range(4_000)) for k in range(4)]
    roomy = Archives(db)
    await say(db, session, words[0])
    first = await roomy.write(session, lease)
    tight = Archives(db, ArchiveLimits(session_bytes=first.stored_bytes * 3 // 2, when_full="remove_oldest"))
    await say(db, session, words[1])
    second = await tight.write(session, lease)
    rows, _ = await tight.page(session.workspace_id, session.id, limit=10, before=None)
    assert [(row["id"], row["state"]) for row in rows] == [(second.id, "complete"), (first.id, "removed")]
    with pytest.raises(NotFound, match="removed"):
        await tight.read(session.workspace_id, session.id, first.id, limit=1, first=0)
    used = await tight.used(session.workspace_id, session.id)
    assert used["session_bytes"] == second.stored_bytes <= used["session_most_bytes"]

    refusing = Archives(db, ArchiveLimits(workspace_bytes=second.stored_bytes, when_full="refuse"))
    await say(db, session, words[2])
    with pytest.raises(ArchiveFull, match="workspace_archive_mb"):
        await refusing.write(session, lease)
    with pytest.raises(ArchiveFull, match="1 archives"):
        await Archives(db, ArchiveLimits(session_archives=1, when_full="refuse")).write(session, lease)
    huge = Archives(db, ArchiveLimits(session_bytes=100))
    with pytest.raises(ArchiveFull, match="session_archive_mb"):
        await huge.write(session, lease)
    rows, _ = await huge.page(session.workspace_id, session.id, limit=10, before=None)
    assert len(rows) == 2  # nothing is left of the tries
    third = await roomy.write(session, lease)
    assert [entry["text"] for entry in await everything(roomy, session, third.id)] == [words[2]]
    await say(db, session, words[3])
    fourth = await Archives(db, ArchiveLimits(session_archives=2)).write(session, lease)
    rows, _ = await roomy.page(session.workspace_id, session.id, limit=10, before=None)
    assert [row["id"] for row in rows] == [fourth.id, third.id]


async def test_worker_that_has_lost_the_session_archives_nothing(db: Database, session: SessionRow, skew: Skew) -> None:
    archives, lease = Archives(db), await claim(db)
    await say(db, session, "one")
    skew.seconds += 3600
    with pytest.raises(LeaseLost):
        await archives.write(session, lease)
    rows, _ = await archives.page(session.workspace_id, session.id, limit=10, before=None)
    assert rows == []
