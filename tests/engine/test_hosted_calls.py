"""Calls that a worker of a self-hosted environment executes, step by step."""

from __future__ import annotations

import pytest
from test_state import IDLE, INTERRUPT, RUNNING, Session, allow, answer, deny, worked

from hostler.domain.errors import InvalidRequest
from hostler.domain.events import INTERRUPTED
from hostler.engine.self_hosting import needs_worker
from hostler.engine.state import for_workers


def begun() -> Session:
    session = Session(self_hosted=True)
    session.say("go")
    session.take_up()
    return session


def test_result_of_a_worker_resumes_the_turn() -> None:
    session = begun()
    call = session.call("bash", hosted=True)
    assert session.end("deferred") == IDLE
    assert session.asked() == [call]
    assert for_workers(session.state) == {call}
    assert session.send(worked(call)) == ["user.tool_result", *RUNNING]
    assert for_workers(session.state) == frozenset()
    assert session.take_up().do == "resume"
    assert session.finish("bash") == [], "its result is in the log already"
    assert session.end("completed") == IDLE


def test_result_that_comes_before_the_run_has_ended_skips_the_idle() -> None:
    session = begun()
    call = session.call("bash", hosted=True)
    assert session.send(worked(call)) == ["user.tool_result"]
    assert session.end("deferred") == []
    assert session.wanted


def test_cloud_session_refuses_a_workers_result() -> None:
    session = Session()
    session.say("go")
    session.take_up()
    call = session.call("bash", gated=True)
    with pytest.raises(InvalidRequest, match="self_hosted"):
        session.send(worked(call))


def test_call_that_asks_needs_a_verdict_and_then_a_result() -> None:
    session = begun()
    call = session.call("bash", hosted=True, asks=True)
    session.end("deferred")
    assert for_workers(session.state) == frozenset()
    assert not needs_worker(session.state), "a person is asked first"
    with pytest.raises(InvalidRequest, match="allowed first"):
        session.send(worked(call))
    assert session.send(allow(call)) == ["user.tool_confirmation", *IDLE]
    assert session.asked() == [call]
    assert needs_worker(session.state)
    with pytest.raises(InvalidRequest, match="already"):
        session.send(deny(call))
    assert session.send(worked(call)) == ["user.tool_result", *RUNNING]


def test_denied_call_is_over_for_workers() -> None:
    session = begun()
    call = session.call("bash", hosted=True, asks=True)
    session.end("deferred")
    assert session.send(deny(call, "no")) == ["user.tool_confirmation", *RUNNING]
    with pytest.raises(InvalidRequest, match="already"):
        session.send(worked(call))
    session.take_up()
    assert session.finish("bash") == ["user.tool_result"]
    assert session.log[-1]["is_error"]
    assert session.send(deny(call, "no")) == [], "said once more"


def test_verdict_and_empty_result_are_not_taken_for_each_other() -> None:
    session = begun()
    call = session.call("bash", hosted=True, asks=True)
    session.end("deferred")
    session.send(allow(call))
    empty = {"type": "user.tool_result", "tool_use_id": call}
    assert session.send(empty) == ["user.tool_result", *RUNNING]
    assert session.send(allow(call)) == []
    assert session.send(empty) == []


def test_call_without_a_question_takes_no_verdict_and_no_result_of_another_kind() -> None:
    session = begun()
    call = session.call("bash", hosted=True)
    with pytest.raises(InvalidRequest, match=r"user\.tool_result"):
        session.send(allow(call))
    with pytest.raises(InvalidRequest, match=r"user\.tool_result"):
        session.send(answer(call))


def test_interrupt_closes_a_workers_call_with_a_workers_result() -> None:
    session = begun()
    call = session.call("bash", hosted=True)
    session.end("deferred")
    assert session.send(INTERRUPT) == ["user.interrupt", "user.tool_result", *IDLE]
    assert session.texts_of(call) == [INTERRUPTED]
    with pytest.raises(InvalidRequest, match="already"):
        session.send(worked(call))


def test_loss_of_the_process_leaves_a_workers_call_waiting() -> None:
    session = begun()
    call = session.call("bash", hosted=True)
    assert session.take_up().do == "nothing"
    assert session.asked() == [call]
    session.send(worked(call))
    assert session.take_up().do == "resume"
