"""The log: gap-free, fenced, decided under lock."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection
from storekit import Skew, add, add_session, append, claim, event

from hostler.domain.errors import Conflict, LeaseLost, NotFound
from hostler.store import work
from hostler.store.database import Database
from hostler.store.eventlog import (
    Change,
    LogView,
    NewEvent,
    list_events,
    read_events,
    transact,
)
from hostler.store.jsontext import decode, encode
from hostler.store.pages import Range
from hostler.store.sessions import SessionRow, SessionUpdate, delete_session, get_session
from hostler.store.work import Lease


async def test_events_are_numbered_from_one_without_gaps(db: Database, session: SessionRow) -> None:
    first = await append(db, add(event(1), event(2)))
    second = await append(db, add(event(3)))

    assert (first.seq_first, second.seq_first) == (1, 3)
    assert second.session.last_seq == 3
    stored = await db.read(lambda conn: read_events(conn, "sesn_1", after_seq=0, limit=10))
    assert [(each.seq, each.id) for each in stored] == [(1, "sevt_1"), (2, "sevt_2"), (3, "sevt_3")]
    assert stored == [*first.events, *second.events]
    assert await db.read(lambda conn: read_events(conn, "sesn_1", after_seq=1, limit=1)) == [stored[1]]


async def test_the_answer_is_the_session_as_it_is_stored(db: Database, session: SessionRow) -> None:
    update = SessionUpdate(
        title="t", metadata={"a": "b"}, agent={"name": "x"}, archived_at="2026-01-01T00:00:00.000000Z"
    )
    done = await append(db, add(event(1), state='{"a":1}', update=update))

    assert done.session == await db.read(lambda conn: get_session(conn, None, "sesn_1"))
    assert (done.session.state, done.session.status, done.session.title) == ('{"a":1}', "running", "t")
    assert (done.session.metadata, done.session.agent) == ({"a": "b"}, {"name": "x"})
    assert done.session.updated_at > session.updated_at


async def test_a_decision_that_changes_nothing_writes_nothing(db: Database, session: SessionRow) -> None:
    done = await append(db, lambda view: Change(view.session.state, view.session.status))

    assert (done.seq_first, done.events, done.session) == (1, [], session)
    assert await db.read(lambda conn: get_session(conn, None, "sesn_1")) == session


async def test_what_decide_raises_undoes_everything(db: Database, session: SessionRow) -> None:
    class Refused(Exception):
        pass

    def unit(conn: Connection) -> None:
        transact(conn, db.now(conn), "sesn_1", add(event(1), wanted=True), lease=None, workspace_id=None)

        def refuse(view: LogView) -> Change:
            assert view.session.last_seq == 1
            assert view.wanted
            raise Refused

        transact(conn, db.now(conn), "sesn_1", refuse, lease=None, workspace_id=None)

    with pytest.raises(Refused):
        await db.write(unit)
    assert await db.read(lambda conn: get_session(conn, None, "sesn_1")) == session
    assert await db.read(lambda conn: read_events(conn, "sesn_1", after_seq=0, limit=9)) == []


async def test_unknown_and_foreign_sessions_are_not_told_apart(db: Database, session: SessionRow) -> None:
    with pytest.raises(NotFound) as unknown:
        await append(db, add(event(1)), session_id="sesn_2")
    with pytest.raises(NotFound) as foreign:
        await append(db, add(event(1)), workspace_id="wrkspc_other")
    assert unknown.value.message.replace("sesn_2", "sesn_1") == foreign.value.message


async def test_a_worker_with_a_valid_lease_appends(db: Database, session: SessionRow) -> None:
    lease = await claim(db)
    assert (await append(db, add(event(1)), lease=lease)).seq_first == 1


async def test_second_worker_cannot_append_after_lease_expired(db: Database, session: SessionRow, skew: Skew) -> None:
    lease = await claim(db, ttl=30)
    skew.seconds += 31
    with pytest.raises(LeaseLost):
        await append(db, add(event(1)), lease=lease)


async def test_a_worker_cannot_append_after_another_took_over(db: Database, session: SessionRow, skew: Skew) -> None:
    old = await claim(db, "w1", ttl=30)
    skew.seconds += 31
    new = await claim(db, "w2", ttl=30)
    skew.seconds -= 31  # even a clock that goes back does not bring the old lease to life

    with pytest.raises(LeaseLost):
        await append(db, add(event(1)), lease=old)
    assert (await append(db, add(event(1)), lease=new)).seq_first == 1


@pytest.mark.parametrize("change", [{"owner": "w9"}, {"epoch": 7}, {"session_id": "sesn_9"}])
async def test_a_lease_must_match_in_every_part(db: Database, session: SessionRow, change: dict[str, object]) -> None:
    lease = await claim(db)
    parts = {"session_id": lease.session_id, "owner": lease.owner, "epoch": lease.epoch} | change
    with pytest.raises(LeaseLost):
        await append(db, add(event(1)), lease=Lease(**parts))  # type: ignore[arg-type]


async def test_a_released_lease_is_worthless(db: Database, session: SessionRow) -> None:
    lease = await claim(db)
    assert await db.write(lambda conn: work.release(conn, lease))
    with pytest.raises(LeaseLost):
        await append(db, add(event(1)), lease=lease)


async def test_a_worker_of_a_deleted_session_has_lost_its_lease(db: Database, session: SessionRow) -> None:
    lease = await claim(db)
    await db.write(lambda conn: delete_session(conn, None, "sesn_1"))
    with pytest.raises(LeaseLost):
        await append(db, add(event(1)), lease=lease)


async def test_a_stale_lease_is_found_out_before_anything_is_decided(db: Database, session: SessionRow) -> None:
    lease = await claim(db)
    await db.write(lambda conn: work.release(conn, lease))
    seen: list[LogView] = []
    with pytest.raises(LeaseLost):
        await append(db, lambda view: seen.append(view) or Change("{}", "idle"), lease=lease)  # type: ignore[func-returns-value]
    assert seen == []


async def test_an_event_id_is_told_once(db: Database, session: SessionRow) -> None:
    await append(db, add(event(1)))
    with pytest.raises(Conflict):
        await append(db, add(event(2), event(1)))
    assert (await append(db, add(event(2)))).seq_first == 2


async def test_two_sessions_may_have_the_same_event_id(db: Database, session: SessionRow) -> None:
    await add_session(db, "sesn_2")
    await append(db, add(event(1)))
    assert (await append(db, add(event(1)), session_id="sesn_2")).seq_first == 1


async def test_lists_filter_by_type_and_moment_and_go_both_ways(db: Database, session: SessionRow) -> None:
    moments = [f"2026-01-01T00:00:0{second}.000000Z" for second in range(7)]
    kinds = [*(["user.message", "agent.message", "agent.tool_use"] * 2), "user.message"]
    events = [event(n, kind, at=at) for n, (kind, at) in enumerate(zip(kinds, moments, strict=True))]
    await append(db, add(*events))

    async def numbers(**filters: object) -> tuple[list[int], bool]:
        found, more = await db.read(lambda conn: list_events(conn, "sesn_1", **{"limit": 10, **filters}))  # type: ignore[arg-type]
        return [int(each.id.removeprefix("sevt_")) for each in found], more

    assert await numbers() == ([0, 1, 2, 3, 4, 5, 6], False)
    assert await numbers(order="desc", limit=3) == ([6, 5, 4], True)
    assert await numbers(order="desc", after_seq=5, limit=4) == ([3, 2, 1, 0], False)
    assert await numbers(after_seq=5) == ([5, 6], False)
    assert await numbers(types=["user.message"]) == ([0, 3, 6], False)
    assert await numbers(processed=Range(gt=moments[1], lte=moments[3])) == ([2, 3], False)
    assert await numbers(processed=Range(gte=moments[1], lt=moments[3])) == ([1, 2], False)
    assert await numbers(types=["agent.message"], processed=Range(gte=moments[2])) == ([4], False)


async def test_bodies_come_back_as_they_went_in(db: Database, session: SessionRow) -> None:
    bodies = [{"text": "\x00 \ud800 \udfff é 😀 \u2028 \x7f"}, {"big": "x" * 2_000_000}, {"n": 2**80, "f": 1e300}]
    await append(
        db,
        add(
            *(NewEvent(f"sevt_{n}", "t", "2026-01-01T00:00:00.000000Z", encode(body)) for n, body in enumerate(bodies))
        ),
    )
    stored = await db.read(lambda conn: read_events(conn, "sesn_1", after_seq=0, limit=9))
    assert [decode(each.body) for each in stored] == bodies


async def test_a_state_with_half_a_surrogate_pair_survives(db: Database, session: SessionRow) -> None:
    await append(db, add(state='{"a":"\ud800"}'))
    stored = await db.read(lambda conn: get_session(conn, None, "sesn_1"))
    assert decode(stored.state) == {"a": "\ud800"}


class TestTheWishForAWorker:
    async def test_is_written_with_the_events(self, db: Database, session: SessionRow) -> None:
        await append(db, add(event(1), wanted=True))
        assert (await self._claim(db)) == ["sesn_1"]

    async def test_stays_when_nothing_is_said(self, db: Database, session: SessionRow) -> None:
        await append(db, add(event(1), wanted=True))
        await append(db, add(event(2)))
        assert (await self._claim(db)) == ["sesn_1"]

    async def test_ends_when_told_so(self, db: Database, session: SessionRow) -> None:
        await append(db, add(event(1), wanted=True))
        await append(db, add(event(2), wanted=False))
        assert (await self._claim(db)) == []

    async def test_can_wait_for_its_moment(self, db: Database, session: SessionRow, skew: Skew) -> None:
        await append(db, lambda view: Change("{}", "rescheduling", wanted=True, available_at=view.now + 60))
        assert (await self._claim(db)) == []
        await append(db, add(event(1), wanted=True))  # wanted already: the moment stays
        assert (await self._claim(db)) == []
        skew.seconds += 61
        assert (await self._claim(db)) == ["sesn_1"]

    async def test_that_ended_does_not_leave_its_moment_behind(self, db: Database, session: SessionRow) -> None:
        await append(db, lambda view: Change("{}", "rescheduling", wanted=True, available_at=view.now + 60))
        await append(db, add(wanted=False))
        await append(db, add(wanted=True))
        assert (await self._claim(db)) == ["sesn_1"]

    @staticmethod
    async def _claim(db: Database) -> list[str]:
        won = await db.write(lambda conn: work.claim(conn, db.now(conn), "w", ttl=30, limit=9))
        return [each.session_id for each in won]
