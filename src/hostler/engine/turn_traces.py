"""What is told of a run of a turn to whoever draws traces, and how do log lines learn what they are about?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hostler.engine.about import About
from hostler.engine.records import Applied
from hostler.engine.state import SessionState, Turn
from hostler.engine.trace_port import Tracing, TurnBegun, TurnTrace
from hostler.engine.turns import Plan
from hostler.store.sessions import SessionRow


def turn_begun(session: SessionRow, turn: Turn, how: str, links: Sequence[str], waited: float) -> TurnBegun:
    """`links`: contexts of requests besides those of its prompts."""
    traces = [prompt.trace for prompt in turn.prompts if prompt.trace]
    if turn.ask is not None and turn.ask.trace:
        traces.append(turn.ask.trace)
    # The last message is the one that began it; what was left from before goes along.
    parent = traces[-1] if traces else ""
    others = [trace for trace in dict.fromkeys((*traces, *links)) if trace and trace != parent]
    return TurnBegun(
        turn.id,
        session.id,
        session.workspace_id,
        session.environment_id,
        session.agent_id,
        session.agent_version,
        session.agent["name"],
        session.agent["model"]["id"],
        how,
        parent,
        others,
        waited,
        [block for prompt in turn.prompts for block in prompt.content],
    )


def answered_by(state: SessionState) -> list[str]:
    """Contexts of the requests that answered the calls that the turn has waited for."""
    return [said.trace for call in state.calls for said in (call.verdict, call.answer) if said is not None]


def waited(applied: Applied) -> float:
    """Seconds since a worker was wanted for the turn that was just taken up."""
    since = applied.wanted_since
    return 0.0 if since is None else max(0.0, applied.at.unix - since)


@contextmanager
def traced(tracing: Tracing, about: About, session: SessionRow, plan: Plan, applied: Applied) -> Iterator[TurnTrace]:
    """While the block runs, it is a run of the turn of `plan`, which has just been taken up, as `applied` says."""
    turn = plan.turn
    assert turn is not None, "a plan to act has a turn"
    new = plan.do != "recover"
    begun = turn_begun(session, turn, plan.do, answered_by(applied.state), waited(applied) if new else 0.0)
    trace = tracing.turn(about, begun)
    try:
        yield trace
    except BaseException:
        trace.ending("broken", "runner_broke")
        raise
    finally:
        trace.ended()
