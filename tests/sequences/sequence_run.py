"""How are many sequences run at once, and how is one that failed made smaller?

A *batch* of sequences shares two servers, because a start costs seconds. Who is killed there is killed for all: where a
sequence has a hit of a meeting, it waits until all others are at theirs; then all go on, and while they do the killer
strikes. For each sequence it is written down what that was for it (after so many of its events, and so much later), so
that it can be run again alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random  # noqa: TID251 - a seed must give the same run again, as far as the machine lets it
from time import monotonic
from typing import cast

import anthropic
from chaos_client import Body
from sequence_checks import problems
from sequence_hosts import IDLE_SECONDS, LEASE_SECONDS, Hosts
from sequence_line import Line
from sequence_model import Expected, Message
from sequence_plan import ROOT, Hit, Kind, Op, Ops, Who, count_of, possible, sequence, smaller, to_json

BATCH = 20
STUCK_SECONDS = 240.0
"""Longest time that one operation of one sequence may take, kills and everybody else's operations included."""
REPLAYS, REPLAY_SECONDS = 40, 300.0
"""What may be spent on making a failed sequence smaller."""
TRUST = ssl.create_default_context()
LOOKUP: Body = {
    "type": "custom",
    "name": "lookup",
    "description": "Looks a key up.",
    "input_schema": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
}
TOOLSET: Body = {"type": "agent_toolset_20260401"}
ASK: Body = {"configs": [{"name": "bash", "permission_policy": {"type": "always_ask"}}]}
"""Sequences with calls that a person must allow have an agent that asks for every shell call."""


class Broken(AssertionError):
    """The message has the sequence, made as small as it could be, and what differed."""


@dataclass
class Tally:
    sequences: int = 0
    quiet: int = 0
    """Of these, in how many nobody was killed."""
    events: int = 0
    requests: int = 0
    done: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    """Operations during which somebody was killed."""
    seen: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        def said(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"

        return (
            f"{self.sequences} sequences in {self.seconds:.0f} s ({self.sequences / max(self.seconds, 0.1):.2f}/s), "
            f"{self.events} events, {self.requests} model requests\n"
            f"  operations: {said(self.done)}\n  killed: {said(self.hits)}; while {said(self.struck)}; "
            f"in {self.quiet} sequences nobody\n"
            f"  seen: {said(self.seen)}"
        )


class Meeting:
    """All sequences that are not over come here; then it begins, and is over when the killer is done."""

    def __init__(self) -> None:
        self.here = 0
        self.begun = asyncio.Event()
        self.over = asyncio.Event()


@dataclass
class Story:
    """What one sequence did, for whoever wants to know why it failed."""

    ops: Ops
    prefix: str
    actual: list[Op] = field(default_factory=list)
    lines: dict[str, Line] = field(default_factory=dict)
    busy: tuple[Line, int] | None = None
    """The line of the operation under way, and how many events it had before."""
    hits: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def asks(self) -> bool:
        return any(op.how == "ask" for op in self.ops)

    @property
    def moves(self) -> bool:
        return any(op.do in ("hibernate", "move") for op in self.ops)


class Runner:
    """Runs sequences on two servers."""

    def __init__(self, hosts: Hosts, say: Callable[[str], None], spares: int = 0) -> None:
        """`say`: to whoever watches, at once. `spares`: of each server, for each environment."""
        self.tally = Tally()
        self._say = say
        self._hosts = hosts
        self._spares = spares
        self._agents: dict[bool, str] = {}
        self._environments: dict[bool, str] = {}
        self._numbers = iter(range(10**9))

    async def begin(self) -> None:
        api = self._hosts.apis[0]
        for asks in (False, True):
            tools: list[Body] = [TOOLSET | ASK if asks else TOOLSET, LOOKUP]
            body: Body = {"name": f"asks: {asks}", "model": "claude-opus-5-5", "tools": tools}
            self._agents[asks] = (await api.post("/v1/agents", body))["id"]
        for moves, seconds in IDLE_SECONDS.items():
            body = {
                "name": f"moves: {moves}",
                "config": {
                    "type": "cloud",
                    "networking": {"type": "limited", "allowed_hosts": []},
                    "hosting": {"idle_timeout_seconds": seconds, "spares": self._spares},
                },
            }
            self._environments[moves] = (await api.post("/v1/environments", body))["id"]

    async def batch(self, random: Random, count: int) -> None:
        """Raises Broken for the first sequence that failed."""
        begun = monotonic()
        meetings = [] if random.random() < 0.15 else [self._planned(random) for _ in range(random.choice((1, 2, 2, 3)))]
        stories = await self.run([sequence(random, len(meetings)) for _ in range(count)], meetings)
        self.tally.seconds += monotonic() - begun
        for hit in meetings:
            self.tally.hits[f"{hit.who}{' (late)' if hit.late else ''}"] += 1
        failed = [story for story in stories if story.problems]
        if failed:
            await self._explain(failed[0], failed[1:])

    def _planned(self, random: Random) -> Hit:
        # PostgreSQL is killed by scripts/chaos: a turn that can't be recorded may end with an error that says so.
        whos: tuple[Who, ...] = ("servers", "server", "stop")
        who = random.choices(whos, (4, 5, 2))[0]
        late = round(LEASE_SECONDS + 1.5, 3) if who == "server" and random.random() < 0.4 else 0.0
        return Hit(who, victim=random.randrange(2), late=late, delay=random.random())

    async def run(self, plans: Sequence[Ops], meetings: Sequence[Hit] = ()) -> list[Story]:
        """All at once, to their ends. A sequence that fails has `problems`; nothing is raised for that."""
        stories = [Story(possible(ops), f"s{next(self._numbers)}") for ops in plans]
        group = _Group(len(stories), [Meeting() for _ in meetings])
        async with asyncio.TaskGroup() as tasks:
            killer = tasks.create_task(self._kill(meetings, group, stories))
            await asyncio.wait([tasks.create_task(self._play(story, group)) for story in stories])
            killer.cancel()
        for story in stories:
            self._count(story)
        self._hosts.told.forget_all()
        return stories

    # -- one sequence

    async def _play(self, story: Story, group: _Group) -> None:
        try:
            async with asyncio.TaskGroup() as followers, contextlib.AsyncExitStack() as after:
                root = await self._root(story)
                self._add(story, ROOT, root, followers, after)
                for number, op in enumerate(story.ops):
                    await self._op(story, number, op, group, followers, after)
                await self._last_look(story)
                story.problems += await self._examine(story)
        except* TimeoutError:
            at = story.actual[-1] if story.actual else "the beginning"
            story.problems.append(f"stuck: not over after {STUCK_SECONDS:g} s: {at}")
        except* Exception as failed:
            story.problems += [f"{type(error).__name__}: {error}" for error in _leaves(failed)]
        finally:
            group.leave()

    async def _root(self, story: Story) -> Line:
        agent, environment = self._agents[story.asks], self._environments[story.moves]
        body = {"agent": agent, "environment_id": environment, "title": story.prefix}
        home = sum(map(ord, story.prefix)) % 2
        made = await self._hosts.api(home).post("/v1/sessions", body)
        return Line(self._hosts, made["id"], Expected(), home, 0)

    def _add(
        self, story: Story, name: str, line: Line, followers: asyncio.TaskGroup, after: contextlib.AsyncExitStack
    ) -> None:
        story.lines[name] = line
        task = followers.create_task(line.follow())
        after.callback(task.cancel)

    async def _op(
        self,
        story: Story,
        number: int,
        op: Op,
        group: _Group,
        followers: asyncio.TaskGroup,
        after: contextlib.AsyncExitStack,
    ) -> None:
        line = story.lines[op.line]
        story.actual.append(op)
        meeting = None
        if op.hit is not None and op.hit.meeting is not None:
            meeting = await group.arrive(op.hit.meeting)
        async with asyncio.timeout(STUCK_SECONDS), asyncio.TaskGroup() as tasks:
            story.busy = line, len(line.seen)
            doing = tasks.create_task(self._do(story, line, op, followers, after))
            if meeting is not None:
                await meeting.over.wait()
            elif op.hit is not None:
                await self._hit(story, line, op.hit, doing)
            await doing
        story.busy = None

    async def _do(
        self, story: Story, line: Line, op: Op, followers: asyncio.TaskGroup, after: contextlib.AsyncExitStack
    ) -> None:
        match op.do:
            case "message":
                await line.say(Message.of(cast(Kind, op.how), f"{story.prefix}{op.name}"))
            case "answer":
                await line.answer(op.how)
            case "hibernate":
                await line.hibernate()
            case "move":
                await line.move()
            case "compact":
                await line.compact()
            case "checkpoint":
                await line.checkpoint(op.name)
            case "rewind":
                await line.rewind(op.to)
            case "fork":
                fork = await line.fork(op, f"{story.prefix}{op.name}")
                self._add(story, op.name, fork, followers, after)
                await fork.caught_up()
            case "wrong":
                await line.wrong()

    async def _hit(self, story: Story, line: Line, hit: Hit, doing: asyncio.Task[None]) -> None:
        """Of a sequence that is run alone, and of one process."""
        begun = len(line.seen)

        async def moment() -> None:
            await line.until(lambda: len(line.seen) >= begun + hit.events)

        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(moment())
            await asyncio.wait([waiting, doing], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        await asyncio.sleep(hit.delay)  # the moment itself is what is random
        self._struck(story, hit)
        struck = await self._hosts.strike(hit, line.session_id)
        if hit.who == "agent":
            self.tally.hits["agent" if struck else "agent (none there)"] += 1

    def _struck(self, story: Story, hit: Hit) -> None:
        story.hits += 1
        for line in story.lines.values():
            if hit.who != "agent" or (story.busy is not None and story.busy[0] is line):
                line.was_hit()
        if story.actual:
            self.tally.struck[story.actual[-1].do] += 1

    async def _last_look(self, story: Story) -> None:
        """Bring every line to rest, and let the agent look at its files once more."""
        for name, line in story.lines.items():
            if line.looked:
                continue
            self.tally.done["last look"] += 1
            async with asyncio.timeout(STUCK_SECONDS):
                if line.expected.waits is not None:
                    await line.answer("allow")
                await line.say(Message.of("ask" if story.asks else "call", f"{story.prefix}last{name}"))
                if story.asks:
                    await line.answer("allow")
                await line.caught_up()

    async def _examine(self, story: Story) -> list[str]:
        found: list[str] = []
        for name, line in story.lines.items():
            for attempt in range(100):
                await self._hosts.one_is_up()
                api = self._hosts.api(line.home)
                try:
                    async with anthropic.AsyncAnthropic(
                        base_url=await api.url(""),
                        api_key=api.key,
                        max_retries=0,
                        http_client=anthropic.DefaultAsyncHttpxClient(verify=TRUST),
                        _strict_response_validation=True,
                    ) as client:
                        listed = [
                            event.to_dict(mode="json")
                            async for event in client.beta.sessions.events.list(line.session_id, limit=500)
                        ]
                    break
                except (anthropic.APIConnectionError, anthropic.InternalServerError):
                    if attempt == 99:
                        raise
                    await asyncio.sleep(0.1)
            asked, spares = await self._hosts.asked(line.session_id)
            self.tally.seen["spare that became a session's"] += spares
            said = problems(line, await line.events(), asked, story.hits)
            found += [f"{name} ({line.session_id}): {problem}" for problem in said]
            if [e["id"] for e in listed] != [e["id"] for _, e in sorted(line.seen.items())]:
                found.append(f"{name}: the official client lists something else than the stream told")
            self.tally.events += len(listed)
            self.tally.requests += len(asked)
        return found

    # -- the killer of a batch

    async def _kill(self, meetings: Sequence[Hit], group: _Group, stories: Sequence[Story]) -> None:
        for planned, meeting in zip(meetings, group.meetings, strict=True):
            await meeting.begun.wait()
            # Starts of processes are what takes the time: half a second of work for each sequence.
            await asyncio.sleep(planned.delay * (0.5 + 0.3 * group.left))
            now = monotonic()
            for story in stories:
                if story.busy is None or story.actual[-1].hit is None:
                    continue
                line, begun = story.busy
                delay = round(min(3.0, max(0.0, now - line.heard_at)), 3)
                actual = replace(planned, events=len(line.seen) - begun, delay=delay)
                story.actual[-1] = replace(story.actual[-1], hit=actual)
                self._struck(story, actual)
            await self._hosts.strike(planned, "")
            meeting.over.set()

    # -- afterwards

    def _count(self, story: Story) -> None:
        self.tally.sequences += 1
        self.tally.quiet += not story.hits
        self.tally.done.update(count_of(story.ops))
        for line in story.lines.values():
            self.tally.seen.update(f"compaction {how.split(':')[0]}" for how in line.compactions)
            self.tally.seen["moved"] += line.moves
            for event in line.seen.values():
                if event["type"] == "session.error":
                    self.tally.seen[(event["error"].get("hostler") or {}).get("type") or "error, retried"] += 1
                elif event["type"] == "agent.tool_result" and event["is_error"]:
                    words = "".join(block.get("text", "") for block in event["content"])
                    self.tally.seen[f"result: {words[:32]}"] += 1

    async def _explain(self, story: Story, others: Sequence[Story]) -> None:
        """Run it again, and smaller, as long as it fails. Always raises Broken."""
        broken = failed_alone(story, self._hosts.folder)
        self._say(f"{broken}\n({len(others)} more of its batch failed.) Making it smaller ...")
        for other in others:
            failed_alone(other, self._hosts.folder)
        first, smallest, again = story, story, 0
        until = monotonic() + REPLAY_SECONDS
        candidates: Iterator[Ops] = iter([tuple(story.actual)])
        for number in range(REPLAYS):
            ops = next(candidates, None)
            if ops is None or monotonic() > until:
                break
            (replayed,) = await self.run([ops])
            if replayed.problems:
                again += 1
                smallest = replayed
                candidates = iter(smaller(replayed.ops))
            elif number == 0:
                candidates = iter([tuple(story.actual)] * 3)  # it may need luck
        how = f"failed again {again} times" if again else "did not fail again when it was run alone"
        broken = failed_alone(smallest, self._hosts.folder, first)
        broken.add_note(f"The sequence {how}. More of its batch that failed: {len(others)}")
        for other in others:
            broken.add_note(f"{other.prefix}: {'; '.join(map(str, other.actual))}: {'; '.join(other.problems)}")
        raise broken


def failed_alone(story: Story, folder: Path, first: Story | None = None) -> Broken:
    """What to say of a sequence that failed. `first`: as it failed at first."""
    evidence = folder / f"evidence-{story.prefix}.txt"
    evidence.write_text("\n".join([*_evidence(story), "", *(_evidence(first) if first is not None else ())]))
    return Broken(
        f"a sequence failed: {'; '.join(map(str, story.actual))}\n"
        f"what differed: {'; '.join(story.problems)}\n"
        f"run it again: scripts/sequences --replay '{to_json(tuple(story.actual))}'\n"
        f"evidence: {evidence}"
    )


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _evidence(story: Story) -> Iterator[str]:
    yield f"==== {story.prefix}: {'; '.join(map(str, story.actual))}"
    yield from story.problems
    for name, line in story.lines.items():
        yield f"---- {name} {line.session_id}, {line.copied} events copied, hit: {sorted(line.hit)}"
        yield from (f"{seq} {event}" for seq, event in sorted(line.seen.items()))


class _Group:
    """The sequences of a batch that are not over yet."""

    def __init__(self, count: int, meetings: list[Meeting]) -> None:
        self.left = count
        self.meetings = meetings

    async def arrive(self, number: int) -> Meeting:
        meeting = self.meetings[number]
        meeting.here += 1
        self._look()
        await meeting.begun.wait()
        return meeting

    def leave(self) -> None:
        self.left -= 1
        self._look()

    def _look(self) -> None:
        for meeting in self.meetings:
            if not meeting.begun.is_set():
                if self.left and meeting.here >= self.left:
                    meeting.begun.set()
                return
