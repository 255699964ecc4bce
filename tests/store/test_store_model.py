"""Does the store agree with a model of it, whatever is done in whatever order?

The model is thirty lines of plain Python: one record per session. Hypothesis claims, extends, releases, appends with
leases old and new, and turns the clock; after every step the store must have said what the model says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from storekit import Databases, Skew, add_catalog, add_session, append, claim_many, event, want

from hostler.domain.errors import LeaseLost
from hostler.store import sequences, work
from hostler.store.database import Database
from hostler.store.eventlog import Change, LogView, read_events
from hostler.store.sessions import delete_session, get_session
from hostler.store.transcripts import TranscriptStore
from hostler.store.work import Lease

T = TypeVar("T")

OWNERS = st.sampled_from(["w1", "w2", "w3"])
TTLS = st.sampled_from([25.0, 45.0])
TURNS = st.sampled_from([10, 20, 30, 50])
"""Never the same as a time to live, so that the milliseconds which really pass decide nothing."""


@dataclass
class Model:
    """One session, as it should be."""

    wanted: bool = False
    available_at: float = 0.0
    enqueued: int = 0
    owner: str | None = None
    epoch: int = 0
    until: float | None = None
    seq: int = 0
    transcript: list[str] = field(default_factory=list)

    def free(self, now: float) -> bool:
        return self.until is None or self.until <= now

    def ready(self, now: float) -> bool:
        return self.wanted and self.available_at <= now and self.free(now)

    def holds(self, lease: Lease, now: float) -> bool:
        return (self.owner, self.epoch) == (lease.owner, lease.epoch) and not self.free(now)

    def lease(self, owner: str, until: float) -> None:
        self.owner, self.until = owner, until
        self.epoch += 1


class StoreMachine(RuleBasedStateMachine):
    runner: ClassVar[asyncio.Runner]
    db: ClassVar[Database]
    skew: ClassVar[Skew]
    examples: ClassVar[int] = 0

    leases = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        type(self).examples += 1
        self.sessions = {f"sesn_{self.examples}_{number}": Model() for number in range(3)}
        self.names = sorted(self.sessions)
        self.issued: list[Lease] = []
        self.order = 0
        self.now = 0.0
        for name in self.names:
            self.run(add_session(self.db, name))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @rule(seconds=TURNS)
    def the_clock_turns(self, seconds: int) -> None:
        self.skew.seconds += seconds
        self.now += seconds

    @rule(number=st.integers(0, 2))
    def somebody_wants(self, number: int) -> None:
        assert self.run(want(self.db, self.names[number]))
        self.wish(self.sessions[self.names[number]], True, 0.0)

    @rule(target=leases, owner=OWNERS, ttl=TTLS, limit=st.integers(1, 3))
    def claim(self, owner: str, ttl: float, limit: int) -> Any:
        ready = [name for name in self.names if self.sessions[name].ready(self.now)]
        ready.sort(key=lambda name: self.sessions[name].enqueued)
        won = self.run(claim_many(self.db, owner, ttl=ttl, limit=limit))
        assert [each.session_id for each in won] == ready[:limit]
        return multiple(*(self.leased(each.lease, ttl) for each in won))

    @rule(target=leases, owner=OWNERS, ttl=TTLS, number=st.integers(0, 2))
    def claim_by_name(self, owner: str, ttl: float, number: int) -> Any:
        name = self.names[number]
        won = self.run(self.db.write(lambda c: work.claim_one(c, self.db.now(c), owner, name, ttl=ttl)))
        assert (won is not None) is self.sessions[name].ready(self.now)
        return multiple() if won is None else self.leased(won.lease, ttl)

    @rule(lease=leases, ttl=TTLS)
    def extend(self, lease: Lease, ttl: float) -> None:
        model = self.sessions[lease.session_id]
        done = self.run(self.db.write(lambda c: work.extend(c, self.db.now(c), lease, ttl=ttl)))
        assert done is model.holds(lease, self.now)
        if done:
            model.until = self.now + ttl

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        model = self.sessions[lease.session_id]
        done = self.run(self.db.write(lambda c: work.release(c, lease)))
        assert done is ((model.owner, model.epoch) == (lease.owner, lease.epoch))
        if done:
            model.owner = model.until = None

    @rule(
        lease=leases,
        count=st.integers(0, 3),
        wanted=st.sampled_from([None, True, False]),
        delay=st.sampled_from([None, 15]),
    )
    def append_as_worker(self, lease: Lease, count: int, wanted: bool | None, delay: float | None) -> None:
        if self.sessions[lease.session_id].holds(lease, self.now):
            self.append(lease.session_id, lease, count, wanted, delay)
        else:
            with pytest.raises(LeaseLost):
                self.append(lease.session_id, lease, count, wanted, delay)

    @rule(number=st.integers(0, 2), count=st.integers(1, 2), wanted=st.sampled_from([None, True]))
    def append_as_request(self, number: int, count: int, wanted: bool | None) -> None:
        self.append(self.names[number], None, count, wanted, None)

    @rule(lease=leases)
    def write_beside_the_log(self, lease: Lease) -> None:
        model = self.sessions[lease.session_id]
        store = TranscriptStore(self.db, session_id=lease.session_id, lease=lease)
        uuid = f"u{len(model.transcript)}"
        entry: Any = {"type": "user", "uuid": uuid}
        mirrored = store.append({"project_key": "p", "session_id": "s"}, [entry])
        saved = self.db.write(
            lambda c: sequences.save_sequence(c, self.db.now(c), lease.session_id, f'"{uuid}"', lease=lease)
        )
        if model.holds(lease, self.now):
            self.run(mirrored)
            self.run(saved)
            model.transcript.append(uuid)
        else:
            with pytest.raises(LeaseLost):
                self.run(mirrored)
            with pytest.raises(LeaseLost):
                self.run(saved)

    @invariant()
    def one_valid_lease_at_most(self) -> None:
        async def valid(lease: Lease) -> bool:
            try:
                await self.db.write(lambda c: work.check(c, self.db.now(c), lease))
            except LeaseLost:
                return False
            return True

        for name in getattr(self, "names", []):
            mine = [lease for lease in self.issued if lease.session_id == name]
            assert [lease.epoch for lease in mine] == list(range(1, len(mine) + 1))  # grows at every claim
            held = [lease for lease in mine[-3:] if self.run(valid(lease))]
            assert held == [lease for lease in mine if self.sessions[name].holds(lease, self.now)]
            assert len(held) <= 1

    @invariant()
    def the_log_has_no_gaps(self) -> None:
        for name in getattr(self, "names", []):
            stored = self.run(self.db.read(lambda c, n=name: read_events(c, n, after_seq=0, limit=10_000)))  # type: ignore[misc]
            row = self.run(self.db.read(lambda c, n=name: get_session(c, None, n)))  # type: ignore[misc]
            assert [each.seq for each in stored] == list(range(1, self.sessions[name].seq + 1))
            assert row.last_seq == self.sessions[name].seq

    def teardown(self) -> None:
        if not hasattr(self, "names"):
            return
        self.the_clock_turns(1000)
        won = self.run(claim_many(self.db, "last", ttl=1))
        assert {each.session_id for each in won} == {name for name in self.names if self.sessions[name].wanted}
        for name in self.names:
            key: Any = {"project_key": "", "session_id": "s"}
            found = self.run(TranscriptStore(self.db, session_id=name).load(key)) or []
            assert [entry["uuid"] for entry in found] == self.sessions[name].transcript
            self.run(self.db.write(lambda c, n=name: delete_session(c, None, n)))  # type: ignore[misc]

    def append(self, name: str, lease: Lease | None, count: int, wanted: bool | None, delay: float | None) -> None:
        model = self.sessions[name]

        def decide(view: LogView) -> Change:
            assert (view.wanted, view.session.last_seq) == (model.wanted, model.seq)
            new = [event(view.session.last_seq + each) for each in range(1, count + 1)]
            at = None if delay is None else view.now + delay
            return Change(view.session.state, view.session.status, new, wanted, at)

        done = self.run(append(self.db, decide, session_id=name, lease=lease))
        assert [each.seq for each in done.events] == list(range(model.seq + 1, model.seq + count + 1))
        model.seq += count
        want_now = model.wanted if wanted is None else wanted
        available = model.available_at if delay is None else self.now + delay
        if delay is None and want_now and not model.wanted:
            available = 0.0
        self.wish(model, want_now, available)

    def wish(self, model: Model, wanted: bool, available_at: float) -> None:
        if wanted and not model.wanted:
            self.order += 1
            model.enqueued = self.order
        model.wanted, model.available_at = wanted, available_at

    def leased(self, lease: Lease, ttl: float) -> Lease:
        model = self.sessions[lease.session_id]
        model.lease(lease.owner, self.now + ttl)
        assert lease.epoch == model.epoch
        self.issued.append(lease)
        return lease


def test_the_store_agrees_with_its_model(databases: Databases, dialect: str) -> None:
    skew = Skew()
    with asyncio.Runner() as runner:
        database = runner.run(Database.open(databases.fresh(dialect), clock_skew=skew))
        try:
            runner.run(add_catalog(database))
            machine = type("Machine", (StoreMachine,), {"runner": runner, "db": database, "skew": skew, "examples": 0})
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                machine,
                settings=settings(
                    max_examples=30,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(database.close())
