"""Does a session say the same in every place where it can be looked at, and is that what it must be?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sequence_model as model
from chaos_client import Body
from sequence_hosts import Asked
from sequence_line import Line

BY_A_HIT = frozenset({"files_lost"})
"""What a session may say only when somebody was killed; besides errors of the wire that are being retried."""


def problems(line: Line, listed: Sequence[Body], asked: Sequence[Asked], hits: int) -> Iterator[str]:
    """`listed`: the log as the official client gives it. `hits`: how often somebody was killed in this sequence."""
    told = sorted(line.seen.items())
    if [event for _, event in told] != list(listed):
        yield f"the stream told {[e['type'] for _, e in told]}, the list has {[e['type'] for e in listed]}"
    if len({event["id"] for event in listed}) != len(listed):
        yield "an event is in the list twice"
    walked = model.walk(told, line.copied)
    yield from walked.problems
    yield from model.differences(line.expected.items, walked.end.items, line.expected.loose)
    errors = [error for error in walked.errors if error != "waiting_for_place"]  # that is a word about the server
    if not hits and errors:
        yield f"nobody was killed, and there are errors: {errors}"
    if walked.end.results.keys() != {item.mark for item in walked.end.items if item.sort == "call"}:
        yield f"calls without a result, or results without a call: {sorted(walked.end.results)}"
    if not hits and any(words not in ("good", model.DENIAL) for words in walked.end.results.values()):
        yield f"nobody was killed, and calls failed: {dict(walked.end.results)}"
    yield from _views(line, walked.at_prompt, asked)


def _views(line: Line, places: dict[str, model.Place], asked: Sequence[Asked]) -> Iterator[str]:
    """What the model was shown, and how often it was asked."""
    for mark, wanted in line.steps.items():
        requests = [one for one in asked if one.view.newest == mark]
        if not requests:
            if 0 in wanted:
                yield f"the model was never asked about {mark}"
            continue
        if 0 in wanted:
            yield from (f"at {mark}: {problem}" for problem in model.agree(places[mark], requests[0].view))
        steps = sorted(one.step if one.step is not None else -1 for one in requests)
        if mark not in line.hit and steps != sorted(wanted):
            yield f"about {mark} the model was asked for the steps {steps}, wanted {sorted(wanted)}"
    for one in asked:
        prompts = [item for item in one.view.items if item.sort == "prompt"]
        if len(set(prompts)) != len(prompts):
            yield f"a prompt is twice in what the model was shown: {prompts}"
