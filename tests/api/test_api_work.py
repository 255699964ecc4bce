"""The work queue of a self-hosted environment, as workers and operators see it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.beta.environments.beta_heartbeat_precondition_failed_error import (
    BetaHeartbeatPreconditionFailedError as HeartbeatPreconditionFailedError,
)
from apikit_queue import Yard, result, token_of

pytestmark = pytest.mark.endpoint(
    "environments.work.poll",
    "environments.work.ack",
    "environments.work.heartbeat",
    "environments.work.stop",
    "environments.work.list",
    "environments.work.retrieve",
    "environments.work.update",
    "environments.work.stats",
)

# ------------------------------------------------------------------------------------------------------------- polling


def test_empty_poll_is_null_at_once_or_after_its_block(yard: Yard) -> None:
    """T37."""
    assert yard.poll() is None
    raw = yard.worker.beta.environments.work.with_raw_response.poll(yard.environment)
    assert (raw.status_code, raw.http_response.content) == (200, b"null")
    begun = time.monotonic()
    assert yard.poll(block_ms=999) is None
    assert 0.9 < time.monotonic() - begun < 30
    for wrong in (0, 1000, -1):
        with pytest.raises(anthropic.BadRequestError, match="block_ms"):
            yard.poll(block_ms=wrong)


def test_session_without_input_has_no_work(yard: Yard) -> None:
    session = yard.session(said=None)
    assert yard.poll() is None
    yard.say(session)
    item = yard.poll()
    assert (item.type, item.state, item.data.type, item.data.id) == ("work", "queued", "session", session)
    assert item.environment_id == yard.environment
    assert item.metadata == {}
    assert item.acknowledged_at is item.started_at is item.stopped_at is item.latest_heartbeat_at is None
    assert yard.item(item.id).secret is None, "only a poll's answer has it"


def test_work_is_there_before_anybody_hears_that_the_session_runs(yard: Yard) -> None:
    session = yard.session()
    assert yard.client.beta.sessions.retrieve(session).status == "running"
    assert yard.poll().data.id == session


def test_waiting_poll_is_woken_by_new_work(yard: Yard) -> None:
    """A poll that nobody wakes looks once more when its second is over: not every one of five may take so long."""
    took = []
    while not took or min(took) > 0.5:
        assert len(took) < 5, took
        session = yard.session(said=None)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(yard.poll, block_ms=999)
            yard.server.until_polled(yard.environment)
            begun = time.monotonic()
            yard.say(session)
            item = waiting.result(60)
            took.append(time.monotonic() - begun)
        assert item is not None
        assert item.data.id == session


def test_unacknowledged_item_is_claimed_again_and_the_first_claim_is_over(yard: Yard) -> None:
    """T38."""
    session = yard.session()
    first = yard.poll()
    assert yard.poll() is None
    assert yard.poll(reclaim_older_than_ms=60_000) is None
    yard.server.clock_skew += 6
    second = yard.poll()
    assert second.id == first.id
    assert token_of(second) != token_of(first)
    yard.server.begins(session)
    call = yard.server.calls(session, "bash", command="ls")
    with pytest.raises(anthropic.PermissionDeniedError, match="lease"):
        yard.as_worker(token_of(first)).beta.sessions.events.send(session, events=[result(call)])  # type: ignore[list-item]
    yard.worker.beta.environments.work.ack(second.id, environment_id=yard.environment)
    yard.as_worker(token_of(second)).beta.sessions.events.send(session, events=[result(call)])  # type: ignore[list-item]


async def test_two_pollers_serve_two_hundred_items_once_each(yard: Yard) -> None:
    with ThreadPoolExecutor(4) as makers:
        sessions = list(makers.map(lambda _: yard.session(), range(200)))

    async def serve(client: anthropic.AsyncAnthropic, name: str) -> list[str]:
        poller = client.beta.environments.work.poller(
            environment_id=yard.environment,
            environment_key=yard.key,
            worker_id=name,
            block_ms=None,
            drain=True,
        )
        return [item.data.id async for item in poller]

    async with anthropic.AsyncAnthropic(base_url=yard.access.base_url, api_key=yard.access.key) as client:
        async with asyncio.TaskGroup() as pollers:
            one, two = (pollers.create_task(serve(client, name)) for name in ("one", "two"))
        first, second = one.result(), two.result()
    assert sorted([*first, *second]) == sorted(sessions)
    assert first
    assert second
    assert yard.stats().depth == yard.stats().pending == 0


def test_acknowledging_twice_is_fine_and_without_a_claim_is_not(yard: Yard) -> None:
    yard.session()
    work = yard.worker.beta.environments.work
    item = yard.poll()
    other = yard.as_worker(yard.new_key(yard.environment))
    for _ in range(2):
        acked = work.ack(item.id, environment_id=yard.environment)
        assert acked.state == "starting"
        assert acked.acknowledged_at is not None
    with pytest.raises(anthropic.BadRequestError, match="starting"):
        other.beta.environments.work.ack(item.id, environment_id=yard.environment)
    yard.session()
    unclaimed = next(i for i in work.list(yard.environment) if i.state == "queued")
    with pytest.raises(anthropic.BadRequestError, match="not claimed"):
        work.ack(unclaimed.id, environment_id=yard.environment)
    with pytest.raises(anthropic.NotFoundError):
        work.ack("work_none", environment_id=yard.environment)


# ---------------------------------------------------------------------------------------------------------- heartbeats


def test_heartbeat_is_a_compare_and_swap(yard: Yard) -> None:
    """T39."""
    yard.session()
    item, token = yard.claim()
    first = yard.beat(token, item)
    assert (first.state, first.lease_extended, first.ttl_seconds, first.type) == ("active", True, 300, "work_heartbeat")
    assert yard.item(item.id).started_at is not None
    with pytest.raises(HeartbeatPreconditionFailedError) as lost:
        yard.beat(yard.worker, item)
    assert lost.value.status_code == 412
    details: Any = lost.value.body["error"]["details"]  # type: ignore[index, call-overload]
    assert details == {
        "error_code": "heartbeat_precondition_failed",
        "current_state": {
            "state": "active",
            "last_heartbeat": first.last_heartbeat,
            "lease_extended": False,
            "ttl_seconds": 300,
        },
    }
    second = yard.beat(token, item, first.last_heartbeat, desired_ttl_seconds=60)
    assert second.last_heartbeat != first.last_heartbeat
    assert second.ttl_seconds == 60
    with pytest.raises(HeartbeatPreconditionFailedError):
        yard.beat(token, item, first.last_heartbeat)
    assert yard.beat(token, item, second.last_heartbeat).lease_extended


def test_repeated_heartbeat_after_a_lost_answer_is_taken(yard: Yard) -> None:
    """T40: the SDK repeats with the value that it knew before; the same from another credential is refused."""
    yard.session()
    item, token = yard.claim()
    repeat = {"extra_headers": {"x-stainless-retry-count": "1"}}
    first = yard.beat(token, item)
    again = yard.beat(token, item, **repeat)
    assert again.last_heartbeat == first.last_heartbeat
    second = yard.beat(token, item, again.last_heartbeat)
    assert yard.beat(token, item, first.last_heartbeat, **repeat).last_heartbeat == second.last_heartbeat
    with pytest.raises(HeartbeatPreconditionFailedError):
        yard.beat(yard.worker, item, first.last_heartbeat, **repeat)
    with pytest.raises(HeartbeatPreconditionFailedError):
        yard.beat(token, item, "NO_HEARTBEAT", **repeat)


def test_worker_that_misses_its_lease_has_lost_the_session(yard: Yard) -> None:
    """T41: the item is queued again, and nothing that the first one says afterwards is recorded."""
    session = yard.session()
    yard.server.begins(session)
    call = yard.server.calls(session, "bash", command="make")
    item, first = yard.claim()
    beat = yard.beat(first, item)
    yard.server.clock_skew += 301
    with pytest.raises(anthropic.PermissionDeniedError):
        first.beta.sessions.events.send(session, events=[result(call, "of the first")])  # type: ignore[list-item]
    with pytest.raises(HeartbeatPreconditionFailedError) as lost:
        yard.beat(first, item, beat.last_heartbeat)
    state: Any = lost.value.body["error"]["details"]["current_state"]  # type: ignore[index, call-overload]
    assert (state["state"], state["last_heartbeat"]) == ("queued", None)
    again, second = yard.claim()
    assert again.id == item.id
    with pytest.raises(HeartbeatPreconditionFailedError):
        yard.beat(first, item)  # it may think that it is the first ever
    yard.beat(second, again)
    with pytest.raises(anthropic.PermissionDeniedError):
        first.beta.sessions.events.send(session, events=[result(call, "of the first")])  # type: ignore[list-item]
    second.beta.sessions.events.send(session, events=[result(call, "of the second")])  # type: ignore[list-item]
    answers = [e for e in yard.client.beta.sessions.events.list(session) if e.type == "user.tool_result"]
    assert [a.content[0].text for a in answers] == ["of the second"]  # type: ignore[union-attr, index]


def test_worker_that_dies_before_its_first_heartbeat_is_replaced(yard: Yard) -> None:
    yard.session()
    item, _ = yard.claim()
    yard.server.clock_skew += 301
    assert yard.poll().id == item.id


def test_lease_that_runs_out_with_nothing_left_to_do_ends_the_work(yard: Yard) -> None:
    session = yard.session()
    yard.server.begins(session)
    item, token = yard.claim()
    beat = yard.beat(token, item)
    yard.server.ends(session)
    yard.server.clock_skew += 301
    assert yard.poll() is None
    assert yard.item(item.id).state == "stopped"
    late = yard.as_worker(yard.key)
    answer = yard.beat(late, item, beat.last_heartbeat)
    assert (answer.state, answer.lease_extended) == ("stopped", False)


# ------------------------------------------------------------------------------------------------------------ stopping


def test_graceful_stop_is_heard_in_the_next_heartbeat(yard: Yard) -> None:
    """T42."""
    yard.session()
    item, token = yard.claim()
    beat = yard.beat(token, item)
    work = yard.client.beta.environments.work
    stopping = work.stop(item.id, environment_id=yard.environment)
    assert (stopping.state, stopping.stop_requested_at is None, stopping.stopped_at) == ("stopping", False, None)
    heard = yard.beat(token, item, "whatever it was")
    assert (heard.state, heard.lease_extended, heard.last_heartbeat) == ("stopping", False, beat.last_heartbeat)
    assert work.stop(item.id, environment_id=yard.environment).state == "stopping"
    stopped = token.beta.environments.work.stop(item.id, environment_id=yard.environment, force=True)
    assert (stopped.state, stopped.stopped_at is None) == ("stopped", False)
    before = len(yard.server.requests)
    with yard.access.client(max_retries=2) as patient, pytest.raises(anthropic.ConflictError):
        patient.beta.environments.work.stop(item.id, environment_id=yard.environment, force=True)
    assert len(yard.server.requests) == before + 1, "nothing is gained by trying again"


def test_stopping_ends_by_itself_when_nobody_beats_any_more(yard: Yard) -> None:
    yard.session()
    item, token = yard.claim()
    yard.beat(token, item)
    yard.client.beta.environments.work.stop(item.id, environment_id=yard.environment)
    yard.server.clock_skew += 301
    assert yard.item(item.id).state == "stopped"


def test_stop_of_work_that_nobody_heartbeats_is_immediate(yard: Yard) -> None:
    """A plain poller stops without force and never sends a heartbeat."""
    yard.session()
    item, _ = yard.claim()
    assert yard.worker.beta.environments.work.stop(item.id, environment_id=yard.environment).state == "stopped"
    yard.session()
    waiting = next(i for i in yard.worker.beta.environments.work.list(yard.environment) if i.state == "queued")
    assert yard.client.beta.environments.work.stop(waiting.id, environment_id=yard.environment).state == "stopped"


def test_message_that_comes_while_the_worker_leaves_gets_a_new_worker(yard: Yard) -> None:
    session = yard.session()
    yard.server.begins(session)
    item, token = yard.claim()
    yard.beat(token, item)
    yard.server.ends(session)
    yard.client.beta.environments.work.stop(item.id, environment_id=yard.environment)
    yard.say(session)
    assert yard.poll() is None, "one live item per session"
    token.beta.environments.work.stop(item.id, environment_id=yard.environment, force=True)
    following = yard.poll()
    assert following.data.id == session
    assert following.id != item.id


def test_worker_that_leaves_in_the_middle_is_replaced_a_few_times_and_an_operator_is_obeyed(yard: Yard) -> None:
    session = yard.session()
    yard.server.begins(session)
    call = yard.server.calls(session, "bash", command="ls")
    yard.server.waits(session)
    for _ in range(4):
        item, token = yard.claim()
        token.beta.environments.work.stop(item.id, environment_id=yard.environment, force=True)
    assert yard.poll() is None, "a worker that fails every time is not asked for ever"
    assert yard.client.beta.sessions.retrieve(session).status == "idle"
    yard.interrupt(session)
    item, _ = yard.claim()  # an interrupt asks for a new worker
    assert item.data.id == session
    with pytest.raises(anthropic.BadRequestError):
        yard.client.beta.sessions.events.send(session, events=[result(call)])  # type: ignore[list-item]
    yard.say(session)
    yard.client.beta.environments.work.stop(item.id, environment_id=yard.environment, force=True)
    assert yard.poll() is None, "an operator's stop is meant"


def test_archiving_a_session_ends_its_work(yard: Yard) -> None:
    """T50, the queue's part: a worker hears of it, and may still say goodbye."""
    waiting, held = yard.session(), yard.session()
    items = [yard.poll(), yard.poll()]
    item = next(i for i in items if i.data.id == held)
    yard.worker.beta.environments.work.ack(item.id, environment_id=yard.environment)
    token = yard.as_worker(token_of(item))
    beat = yard.beat(token, item)
    for session in (waiting, held):
        yard.server.begins(session)
        yard.server.ends(session)
        yard.client.beta.sessions.archive(session)
    unheld = next(i for i in items if i.data.id == waiting)
    assert yard.item(unheld.id).state == "stopped"
    assert yard.beat(token, item, beat.last_heartbeat).state == "stopping"
    assert token.beta.sessions.retrieve(held).status == "terminated"
    token.beta.environments.work.stop(item.id, environment_id=yard.environment, force=True)


# ------------------------------------------------------------------------------------------------- looking and changing


def test_stats_count_what_waits_what_is_polled_and_who_polls(yard: Yard) -> None:
    """T43."""
    empty = yard.stats()
    assert (empty.depth, empty.pending, empty.oldest_queued_at, empty.workers_polling) == (0, 0, None, 0)
    for _ in range(3):
        yard.session()
    yard.poll(anthropic_worker_id="a")
    yard.poll(anthropic_worker_id="b")
    item = yard.poll(anthropic_worker_id="b")
    yard.worker.beta.environments.work.ack(item.id, environment_id=yard.environment)
    stats = yard.stats()
    assert (stats.depth, stats.pending, stats.workers_polling) == (0, 2, 2)
    assert stats.oldest_queued_at is not None
    yard.session()
    assert yard.stats().depth == 1
    yard.server.clock_skew += 31
    assert (yard.stats().workers_polling, yard.stats().depth) == (0, 3)


def test_list_and_metadata(yard: Yard) -> None:
    sessions = [yard.session() for _ in range(5)]
    listed = list(yard.worker.beta.environments.work.list(yard.environment, limit=2))
    assert [item.data.id for item in listed] == sessions[::-1]
    work = yard.client.beta.environments.work
    chosen = listed[0].id
    place = {"environment_id": yard.environment}
    assert work.update(chosen, metadata={"a": "1", "b": "2"}, **place).metadata == {"a": "1", "b": "2"}
    assert work.update(chosen, metadata={"a": None, "c": "3"}, **place).metadata == {"b": "2", "c": "3"}
    assert work.retrieve(chosen, **place).metadata == {"b": "2", "c": "3"}
    with pytest.raises(anthropic.BadRequestError, match="metadata"):
        work.update(chosen, metadata={f"k{n}": "v" for n in range(17)}, **place)
    with pytest.raises(anthropic.NotFoundError):
        work.retrieve("work_none", **place)


def test_cloud_environment_has_no_queue_and_no_keys(yard: Yard) -> None:
    cloud = yard.client.beta.environments.create(name="cloud").id
    with pytest.raises(anthropic.BadRequestError, match="cloud environment"):
        yard.client.beta.environments.work.stats(cloud)
    with pytest.raises(anthropic.BadRequestError, match="cloud environment"):
        yard.new_key(cloud)


def test_poller_of_an_archived_environment_lives_on(yard: Yard) -> None:
    session = yard.session()
    yard.client.beta.environments.archive(yard.environment)
    assert yard.poll().data.id == session
    assert yard.poll() is None


def test_deleting_a_session_takes_its_work_away(yard: Yard) -> None:
    session = yard.session()
    yard.server.begins(session)
    item, token = yard.claim()
    yard.server.ends(session)
    yard.client.beta.sessions.delete(session)
    with pytest.raises(anthropic.NotFoundError):
        yard.item(item.id)
    with pytest.raises((anthropic.NotFoundError, anthropic.AuthenticationError)):
        yard.beat(token, item)


class LosesTheFirstAnswer(httpx2.HTTPTransport):
    """A network that takes the request to the server and loses what comes back, once."""

    lost = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        if not self.lost and request.url.path.endswith("/heartbeat"):
            self.lost += 1
            response.close()
            raise httpx2.ReadError("the connection broke", request=request)
        return response


def test_heartbeat_whose_answer_is_lost_is_repeated_by_the_client_and_taken(yard: Yard) -> None:
    """T40, on a network that does it."""
    yard.session()
    item, token = yard.claim()
    first = yard.beat(token, item)
    network = LosesTheFirstAnswer()
    with yard.as_worker(token.api_key or "", max_retries=2, http_client=httpx2.Client(transport=network)) as client:
        second = yard.beat(client, item, first.last_heartbeat)
        assert network.lost == 1
        assert second.lease_extended
        assert yard.beat(client, item, second.last_heartbeat).lease_extended
