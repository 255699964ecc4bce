"""What does the transcript know that the log doesn't?

After a loss the transcript is at least as far as the log: it may have the end of a message, a call that was not
announced, or the result of a call that the log still has open. The log must have them too before the turn goes on, or
nobody would ever see them: the model believes that it has said them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hostler.domain import events as ev
from hostler.domain.ids import new_id
from hostler.engine import runs, turns
from hostler.engine.composer import Composer, Op
from hostler.engine.state import Moment, SessionState, Step, Totals

Recalled = tuple[str, Sequence[runs.RunEvent]]
"""An entry of the transcript: the model's message that it is part of, and what it said."""


def unrecorded(
    recalled: Sequence[Recalled], *, known_calls: Collection[str], messages: int, composer: Composer
) -> list[Op]:
    """What to record so that the log has all that this turn's part of the transcript has.

    known_calls  tool-use ids that were announced.
    messages     how many texts of the model this turn has in the log.
    composer     `dropping_errors` when the run was being stopped: how the harness ended its calls is no news.
    """
    said = _said(recalled)
    known = [at for at, it in enumerate(said) if isinstance(it, runs.ToolCall) and it.tool_use_id in known_calls]
    last_known = known[-1] if known else -1
    out: list[Op] = []
    for at, it in enumerate(said):
        match it:
            case list():
                messages -= 1
                if messages < 0:
                    out.append(_message(it))
            case runs.ToolCall() if at > last_known:
                out.append(composer.announce(it, held=True))  # not begun: nothing runs before it is announced
            case runs.ToolResult() if not (composer.dropping_errors and it.is_error):
                out.append(_finish(it))
            case _:
                pass
    return out


def _said(recalled: Sequence[Recalled]) -> list[list[str] | runs.ToolCall | runs.ToolResult]:
    """In order; a list holds the texts that the log has as one event."""
    out: list[list[str] | runs.ToolCall | runs.ToolResult] = []
    texts: list[str] = []
    before = ""
    for message_id, events in recalled:
        if message_id != before:
            before, texts = message_id, []
        for event in events:
            match event:
                case runs.TextBlock(text=text):
                    if not texts:
                        out.append(texts)
                    texts.append(text)
                case runs.ToolCall() | runs.ToolResult():
                    texts = []
                    out.append(event)
                case runs.ThinkingBlock():
                    texts = []
                case _:
                    pass
    return out


def _message(texts: Sequence[str]) -> Op:
    return lambda s, at, _: Step(s, (ev.agent_message(at.text, new_id("sevt"), texts),))


def _finish(result: runs.ToolResult) -> Op:
    def finish(before: SessionState, at: Moment, _: Totals) -> Step:
        return turns.call_finished(before, at, result.tool_use_id, result.content, result.is_error)

    return finish
