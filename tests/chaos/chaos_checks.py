"""What must be true of a session after everything that happened to it?

`Story` is all that there is to look at: the log three times (as the database has it, as the API lists it, as the stream
told it), the transcript, and what the tools left in the workspace. `problems` says what is wrong with it.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from chaos_client import Body, token_of
from chaos_plan import SessionPlan
from sqlalchemy import Connection

from hostler.domain.events import INTERRUPTED, NOT_RECORDED, OUTCOME_UNKNOWN
from hostler.store import tables
from hostler.store.database import Database

SAYING = re.compile(r"\bsay-[a-z0-9]+")
USES = {"agent.tool_use": "tool_use_id", "agent.custom_tool_use": "custom_tool_use_id"}
RESULTS = {"agent.tool_result": "tool_use_id", "user.custom_tool_result": "custom_tool_use_id"}


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database has of one session."""

    rows: tuple[tuple[int, str, Body], ...]
    """(sequence, id, body) in the order of the sequence, superseded tellings included."""
    last_seq: int
    state: Body
    transcript: tuple[Body, ...]


@dataclass(frozen=True, slots=True)
class Story:
    plan: SessionPlan
    interrupted: bool
    lost: int
    """How often the server or the agent's process was killed while this session existed."""
    stored: Stored
    listed: Sequence[Body]
    streamed: Mapping[int, Body]
    done: Sequence[str]
    """Tokens in the workspace, in the order of the file."""


async def read_stored(database: Database, session_id: str) -> Stored:
    def unit(connection: Connection) -> Stored:
        events, sessions, entries = tables.events.c, tables.sessions.c, tables.transcript_entries.c
        rows = connection.execute(
            sa.select(events.seq, events.id, events.body).where(events.session_id == session_id).order_by(events.seq)
        ).all()
        last_seq, state = connection.execute(
            sa.select(sessions.last_seq, sessions.state).where(sessions.id == session_id)
        ).one()
        transcript = (
            connection.execute(
                sa.select(entries.entry)
                .where(entries.project_key == session_id, entries.subpath == "")
                .order_by(entries.ordinal)
            )
            .scalars()
            .all()
        )
        return Stored(
            tuple((seq, id_, json.loads(body)) for seq, id_, body in rows),
            last_seq,
            json.loads(state),
            tuple(json.loads(entry) for entry in transcript),
        )

    return await database.read(unit)


def read_log(workspace: Path) -> list[str]:
    """What the tools of a session did, in order. Its files may be mounted, or lie in the image of its volume."""
    home = workspace.parent
    image = home.parents[1] / "volumes" / f"{home.name}.img"
    for _ in range(2):  # it can be mounted or unmounted between the looks
        with contextlib.suppress(FileNotFoundError):
            return (workspace / "log").read_text().split()
        if not image.exists():
            return []
        # Unmounted here, a volume can still be mounted in a sandbox that is being made: then its image is behind.
        held = subprocess.run(["losetup", "-nO", "NAME", "-j", image], capture_output=True, text=True, check=True)
        if held.stdout:
            with tempfile.TemporaryDirectory() as place:
                if subprocess.run(["mount", held.stdout.split()[0], place], capture_output=True).returncode == 0:
                    try:
                        return read_log(Path(place) / "workspace")
                    finally:
                        subprocess.run(["umount", place], check=True)
            continue
        read = ["debugfs", "-R", "cat /workspace/log", image]
        done = subprocess.run(read, capture_output=True, text=True, check=True)
        if "not found" not in done.stderr:
            return done.stdout.split()
    return []


def unannounced(rows: Sequence[tuple[int, str, Body]], done: Sequence[str]) -> list[str]:
    """Effects without a recorded call. Must be empty at every moment, also while the server is dead."""
    announced = {token_of(body) for _, _, body in rows if body["type"] in USES}
    return [f"{token} took effect before its call was recorded" for token in done if token not in announced]


def problems(story: Story) -> list[str]:
    log = [body for _, _, body in story.stored.rows]
    return [
        *_sequence(story),
        *_statuses(log),
        *_end(story),
        *_prompts(story, log),
        *_calls(log),
        *_requests(log),
        *_effects(story, log),
        *_sayings(story, log),
        *_transcript(story),
    ]


# ------------------------------------------------------------------------------------------------------------- the log


def _sequence(story: Story) -> Iterator[str]:
    rows = story.stored.rows
    if [seq for seq, _, _ in rows] != list(range(1, len(rows) + 1)):
        yield f"the sequence has gaps: {[seq for seq, _, _ in rows]}"
    if story.stored.last_seq != len(rows):
        yield f"last_seq is {story.stored.last_seq}, and there are {len(rows)} events"
    for id_, count in Counter(id_ for _, id_, _ in rows).items():
        if count > 1:
            yield f"event {id_} is there {count} times"
    log = [body for _, _, body in rows]
    if [e["id"] for e in story.listed] != [e["id"] for e in log] or list(story.listed) != log:
        yield "the list of the API differs from the log"
    told = [story.streamed.get(seq) for seq in range(1, len(rows) + 1)]
    if told != log or len(story.streamed) != len(rows):
        missing = [seq for seq in range(1, len(rows) + 1) if story.streamed.get(seq) != log[seq - 1]]
        yield f"the stream differs from the log: missing or different {missing}, told {sorted(story.streamed)}"


def _statuses(log: Sequence[Body]) -> Iterator[str]:
    before: Body | None = None
    for at, event in enumerate(log):
        if event["type"] == "session.status_idle":
            if [e["type"] for e in log[max(0, at - 2) : at]] != ["session.thread_status_idle", "session.usage"]:
                yield f"idle at {at + 1} does not follow its thread's idle and session.usage"
            again = before is not None and before["type"] == "session.status_idle"
            # An interrupt that comes when the session is idle already is recorded, and followed by idle once more.
            again = again and (at < 3 or log[at - 3]["type"] != "user.interrupt")
            if before is None or (again and before["stop_reason"]["type"] != "requires_action"):
                yield f"idle at {at + 1} follows an idle"
            before = event
        elif event["type"] == "session.status_running":
            if before is not None and before["type"] == "session.status_running":
                yield f"running at {at + 1} follows a running"
            before = event
        elif event["type"] == "session.status_rescheduled":  # it waits for a place, and runs again from there
            if before is None or before["type"] != "session.status_running":
                yield f"rescheduled at {at + 1} does not follow a running"
            before = event


def _end(story: Story) -> Iterator[str]:
    log = [body for _, _, body in story.stored.rows]
    if not log or log[-1]["type"] != "session.status_idle":
        yield f"the last event is {log[-1]['type'] if log else 'missing'}"
        return
    reason = log[-1]["stop_reason"]["type"]
    if reason != "end_turn" and not (reason == "retries_exhausted" and story.lost > 3):
        yield f"the session ended with {reason}"
    state = story.stored.state
    left = {key: state[key] for key in ("turn", "calls", "queue", "interrupt", "open_request") if state[key]}
    if state["status"] != "idle" or left:
        yield f"the state is {state['status']} with {left}"


def _prompts(story: Story, log: Sequence[Body]) -> Iterator[str]:
    said = [e for e in log if e["type"] == "user.message"]
    marks = [turn.mark for turn in story.plan.turns]
    found = [mark for e in said for mark in marks if f"do {mark}." in json.dumps(e["content"])]
    if found != marks:
        yield f"prompts are {found}, sent were {marks}"
    if any(e["processed_at"] is None for e in said):
        yield "a prompt in the log was never processed"


def _calls(log: Sequence[Body]) -> Iterator[str]:
    uses = {e["id"]: at for at, e in enumerate(log) if e["type"] in USES}
    ends: Counter[str] = Counter()
    closed: set[str] = set()
    for at, event in enumerate(log):
        if event["type"] in RESULTS:
            name = event[RESULTS[event["type"]]]
            ends[name] += 1
            closed.add(name)
            if uses.get(name, at) >= at:
                yield f"the result at {at + 1} has no call before it"
        elif event["type"] == "user.tool_confirmation":
            closed.add(event["tool_use_id"])
        elif event["type"] == "session.status_idle":
            again = closed & set(event["stop_reason"].get("event_ids", ()))
            if again:
                yield f"the idle at {at + 1} asks for what is answered: {sorted(again)}"
    for name, at in uses.items():
        if ends[name] != 1:
            yield f"the call {token_of(log[at])} at {at + 1} has {ends[name]} results"
    for token, count in Counter(token_of(log[at]) for at in uses.values()).items():
        if count > 1:
            yield f"the call {token} is announced {count} times"


def _requests(log: Sequence[Body]) -> Iterator[str]:
    open_: list[str] = []
    for at, event in enumerate(log):
        if event["type"] == "span.model_request_start":
            open_.append(event["id"])
        elif event["type"] == "span.model_request_end":
            if event["model_request_start_id"] not in open_:
                yield f"the request end at {at + 1} has no open start"
            else:
                open_.remove(event["model_request_start_id"])
    if open_:
        yield f"{len(open_)} model requests have no end"


# ---------------------------------------------------------------------------------------------- what came of the turns


def _effects(story: Story, log: Sequence[Body]) -> Iterator[str]:
    yield from unannounced(story.stored.rows, story.done)
    done = Counter(story.done)
    for token, count in done.items():
        if count > 1:
            yield f"{token} took effect {count} times"
    ends = {e["tool_use_id"]: e for e in log if e["type"] == "agent.tool_result"}
    for use in log:
        if use["type"] != "agent.tool_use" or use["id"] not in ends:
            continue
        token, end = token_of(use), ends[use["id"]]
        words = "".join(block.get("text", "") for block in end["content"])
        denied = token in story.plan.denied
        if not end["is_error"]:
            if done[token] != 1 or denied:
                yield f"{token} has a good result (denied: {denied}) and took effect {done[token]} times"
        elif denied:
            if done[token] or words not in ("No.", INTERRUPTED):
                yield f"{token} was denied, took effect {done[token]} times, and says {words!r}"
        elif words == NOT_RECORDED and not done[token]:
            continue
        elif words not in (OUTCOME_UNKNOWN, INTERRUPTED):
            yield f"{token} failed with {words!r}"
        elif words == INTERRUPTED and done[token] and not story.interrupted:
            yield f"{token} is said not to have begun, and took effect"
        elif not story.lost and not story.interrupted:
            yield f"{token} failed though nothing happened to it: {words!r}"


def _sayings(story: Story, log: Sequence[Body]) -> Iterator[str]:
    texts = [json.dumps(e["content"]) for e in log if e["type"] == "agent.message"]
    said = Counter(saying for text in texts for saying in SAYING.findall(text))
    asked = Counter(token_of(e) for e in log if e["type"] in USES)
    for saying, count in said.items():
        if count > 1:
            yield f"{saying} is in the log {count} times"
    if story.interrupted:
        return
    answers = json.dumps([e["content"] for e in log if e["type"] == "user.custom_tool_result"])
    for turn in story.plan.turns:
        for number, marks in enumerate(turn.steps):
            missing = {mark for mark in marks if not said[mark] and not asked[mark]}
            # An answer of which a call was announced already when the process was lost is not asked for again.
            if missing == marks or (missing and not story.lost):
                yield f"of the answer {number} to {turn.mark} there is no {sorted(missing)}"
        for saying, token in turn.heard:
            if f"ans-{token}" in answers and not any(saying in text and f"ans-{token}" in text for text in texts):
                yield f"{saying} did not hear the answer to {token}"


def _transcript(story: Story) -> Iterator[str]:
    entries = [e for e in story.stored.transcript if e.get("type") in ("user", "assistant")]
    prompts = [json.dumps(e) for e in entries if e["type"] == "user" and not _has_result(e)]
    for turn in story.plan.turns:
        count = sum(f"do {turn.mark}." in text for text in prompts)
        if count > 1 or (count == 0 and not story.interrupted):
            yield f"the prompt {turn.mark} is in the transcript {count} times"
    uses = Counter(
        block["id"] for e in entries for block in _blocks(e) if block.get("type") == "tool_use" and not e.get("isMeta")
    )
    yield from (f"the transcript has the call {name} {count} times" for name, count in uses.items() if count > 1)
    answered = Counter(b["tool_use_id"] for e in entries for b in _blocks(e) if b.get("type") == "tool_result")
    yield from (f"the transcript has {count} results of {name}" for name, count in answered.items() if count > 1)


def _blocks(entry: Mapping[str, Any]) -> list[Body]:
    content = entry.get("message", {}).get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _has_result(entry: Mapping[str, Any]) -> bool:
    return any(block.get("type") == "tool_result" for block in _blocks(entry))
