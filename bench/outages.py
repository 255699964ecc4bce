"""What does a user see when a model's API fails, how often is it asked, and how long does it take?

    .venv/bin/python bench/outages.py [--check] [--only 529,hang]

Runs every kind of outage against every way out of it, each in a server of its own with the real `claude` and with
rehearsal models as upstreams, and writes docs/reference/outages.md. --check: runs it and fails when the page says
something else, times aside; nothing is written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import anthropic
import sqlalchemy as sa
import uvloop

from hostler import compose, config
from hostler.compose.attempts import patience
from hostler.engine.model_port import Asked, Choice
from hostler.gateway import Desk, Entry, MessagesChannel, Roster, Upstream
from hostler.testing.rehearsal import RehearsalModel, prompt, step

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "outages.md"
MODEL, FALLBACK = "claude-opus-5-5", "claude-haiku-4-5"
SETTINGS: dict[str, Any] = {
    "model__retries": 4,
    "attempts__base_seconds": 0.2,
    "attempts__longest_pause_seconds": 1,
    "attempts__total_seconds": 30,
    "attempts__first_event_seconds": 2,
    "attempts__breaker_failures": 100,
    "attempts__harness_retries": 2,
}
"""Small, so that it is quick; the breaker stays out of it."""
KINDS: dict[str, dict[str, Any]] = {
    "429, `retry-after: 1`": {"error": 429, "retry_after": 1},
    "429": {"error": 429},
    "529": {"error": 529},
    "500": {"error": 500},
    "refused": {},
    "reset": {"reset": True},
    "garbage": {"garbage": 0},
    "hang": {"hang": 0},
    "slow first byte": {"delay_ms": 1000},
    "mid-stream cut": {"cut": 4},
}
WAYS = {
    "One upstream, and it passes": "The first two requests fail (refused: until the session says that it waits).",
    "One upstream, and it lasts": "Every request fails.",
    "A fallback model": f"Every request for `{MODEL}` fails; `{FALLBACK}` at the same upstream answers.",
    "A second upstream": "Every request at the first upstream fails; the second one answers.",
}
PASSES, LASTS, WITH_MODEL, WITH_UPSTREAM = WAYS
_SHOWN = {"agent.message": "message", "session.status_rescheduled": "rescheduled", "session.status_running": "running"}


@dataclass
class Line:
    """One row of a table."""

    kind: str
    view: str
    attempts: str
    seen: str
    seconds: float

    def markdown(self) -> str:
        return f"| {self.kind} | {self.view} | {self.attempts} | {self.seen} | {self.seconds:.1f} |"


@dataclass
class Fallbacks:
    """Implements `Router`."""

    models: tuple[str, ...]

    async def choose(self, asked: Asked) -> Choice:
        return Choice((asked.model, *self.models))


@dataclass
class Upstreams:
    """The rehearsal models of one run. The first one can be stopped, and begin again at the same port."""

    first: RehearsalModel
    second: RehearsalModel
    port: int
    stack: AsyncExitStack
    seen: list[int] = field(default_factory=lambda: [0, 0])

    def warm(self) -> None:
        """What was asked up to now doesn't count."""
        self.seen = [len(self.first.message_requests), len(self.second.message_requests)]

    async def refuse(self) -> None:
        await self.first.stop()
        self.seen[0] = 0
        self.first = RehearsalModel()

    async def listen(self) -> None:
        await self.first.start(port=self.port)
        self.stack.push_async_callback(self.first.stop)

    def counts(self) -> str:
        first = len(self.first.message_requests) - self.seen[0]
        second = len(self.second.message_requests) - self.seen[1]
        return f"{first} + {second}" if second else str(first)


@asynccontextmanager
async def server(way: str) -> AsyncIterator[tuple[compose.Hostler, anthropic.AsyncAnthropic, Upstreams]]:
    async with AsyncExitStack() as stack:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        first = RehearsalModel()
        await first.start(port=port)
        stack.push_async_callback(first.stop)
        upstreams = Upstreams(first, await stack.enter_async_context(RehearsalModel()), port, stack)

        async def desk(settings: config.Settings, _: AsyncExitStack) -> Desk:
            addresses = {"first": upstreams.first.url}
            entries = [Entry("first")]
            if way == WITH_UPSTREAM:
                addresses["second"] = upstreams.second.url
                entries.append(Entry("second", order=1, models={MODEL: FALLBACK}))
            channels = {name: MessagesChannel(Upstream(url, "none")) for name, url in addresses.items()}
            clock = asyncio.get_running_loop().time
            roster = Roster(entries, clock, patience(settings), chance=lambda: 0.5)
            return Desk(channels, roster, Fallbacks((FALLBACK,) if way == WITH_MODEL else ()))

        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="hostler-outages-", ignore_cleanup_errors=True))
        environ = {"HOME": "/nonexistent", "HOSTLER_SANDBOX__TECHNOLOGY": "bubblewrap"}
        settings = config.load(environ, state_dir=state, server__port=0, model__base_url=first.url, **SETTINGS)
        hostler = await stack.enter_async_context(compose.running(settings, desks=desk))
        _, secret = await compose.create_key(hostler.database, "outages")
        client = anthropic.AsyncAnthropic(base_url=hostler.base_url, api_key=secret)
        stack.push_async_callback(client.close)
        yield hostler, client, upstreams


async def turn(
    client: anthropic.AsyncAnthropic, session: str, text: str, upstreams: Upstreams | None = None
) -> list[Any]:
    """What the stream of a session says about one message. `upstreams`: the first one listens once it waits."""
    events: list[Any] = []
    async with asyncio.timeout(120), await client.beta.sessions.events.stream(session) as stream:
        content: list[Any] = [{"type": "text", "text": text}]
        await client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": content}])
        async for event in stream:
            events.append(event)
            if event.type == "session.status_rescheduled" and upstreams is not None:
                await upstreams.listen()
                upstreams = None
            if event.type == "session.status_idle":
                break
    return events


def view(events: Sequence[Any]) -> str:
    """In few words: errors with their retry status, changes of the session's status, and messages."""
    words: list[str] = []
    for event in events:
        word = _SHOWN.get(event.type)
        if event.type == "session.error":
            word = f"`{event.error.type}` ({event.error.retry_status.type})"
        elif event.type == "session.status_idle":
            word = f"idle: `{event.stop_reason.type}`"
        elif word == "running" and not words:
            continue
        if word is not None:
            words.append(word)
    told: list[list[Any]] = []
    for word in words:
        if told and told[-1][0] == word:
            told[-1][1] += 1
        else:
            told.append([word, 1])
    return ", ".join(word if count == 1 else f"{count} × {word}" for word, count in told)


async def run(kind: str, way: str) -> Line:
    options = dict(KINDS[kind])
    if kind not in ("refused", "slow first byte"):
        options["times"] = 2 if way == PASSES else "always"
        if way in (WITH_MODEL, WITH_UPSTREAM):
            options["for_models"] = [MODEL]
    async with server(way) as (hostler, client, upstreams):
        agent = await client.beta.agents.create(name="Outages", model=MODEL)
        environment = await client.beta.environments.create(
            name="outages", config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
        )
        made = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
        await turn(client, made.id, prompt([step("Ready.")]))
        upstreams.warm()
        before = await attempts(hostler)
        if kind == "refused":
            await upstreams.refuse()
        begun = monotonic()
        said = prompt([step("An answer of some length, in several pieces.", **options)])
        events = await turn(client, made.id, said, upstreams if kind == "refused" and way == PASSES else None)
        seconds = monotonic() - begun
        after = await attempts(hostler)
        asked = {key: count - before.get(key, 0) for key, count in after.items() if count > before.get(key, 0)}
        return Line(kind, view(events), " + ".join(map(str, asked.values())), upstreams.counts(), seconds)


async def attempts(hostler: compose.Hostler) -> dict[tuple[str, str], int]:
    """Of the gateway, as they are written down: by upstream and model, in the order in which they were asked first."""
    rows = await hostler.database.read(
        lambda conn: conn.execute(
            sa.text(
                "SELECT upstream, model, count(*) FROM model_requests GROUP BY upstream, model ORDER BY min(created_at)"
            )
        ).all()
    )
    return {(upstream, model): count for upstream, model, count in rows}


def page(tables: dict[str, list[Line]]) -> str:
    names = ", ".join(f"`{name.replace('__', '.')} = {value}`" for name, value in SETTINGS.items())
    parts = [
        "# Outages: what a session shows when a model's API fails",
        "<!-- made by bench/outages.py -->",
        "Each row is a turn of a session on a server of its own: the real `claude`, and rehearsal models as upstreams\n"
        "that fail in this way. The view is what the session's stream says after the message, without threads, spans\n"
        "and usage. Attempts are those of the gateway as they are written down, by model and upstream, and requests\n"
        "those that the upstreams saw: a kept connection that is reset without a word counts as one that was closed\n"
        "meanwhile, and is replaced within the same attempt. Times are seconds from the message to `idle`, on a busy\n"
        "machine with two cores.",
        f"Pauses and limits are small here, and pauses without chance, so that it is quick: {names}.\n"
        "What they are otherwise: [configuration](configuration.md). Why it is so:\n"
        "[the gateway](../explanation/gateway.md).",
    ]
    for way, lines in tables.items():
        rows = "\n".join(line.markdown() for line in lines)
        head = "| failure | what the session shows | attempts | requests | seconds |\n|---|---|---|---|---|"
        parts += [f"## {way}", WAYS[way], f"{head}\n{rows}"]
    return "\n\n".join(parts) + "\n"


def compared(text: str) -> list[str]:
    """What must be the same every time. How much `claude` has told of an answer when that breaks off is chance."""
    lines = [re.sub(r" [0-9.]+ \|$", "", line) for line in text.splitlines() if line.startswith(("|", "#"))]
    return [re.sub(r"^(\| mid-stream cut \|).*(, idle)", r"\1\2", line) for line in lines]


async def main(only: set[str], *, check: bool) -> int:
    tables: dict[str, list[Line]] = {}
    for way in WAYS:
        for kind in KINDS:
            if only and kind.split(",")[0] not in only and kind not in only:
                continue
            line = await run(kind, way)
            tables.setdefault(way, []).append(line)
            print(f"{way}: {line.markdown()}", file=sys.stderr, flush=True)
    made = page(tables)
    if not check:
        if not only:
            PAGE.write_text(made)
        return 0
    committed = set(compared(PAGE.read_text()))
    changed = [line for line in compared(made) if line not in committed]
    for line in changed:
        print(f"not in {PAGE.name}: {line}")
    return 1 if changed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        sys.exit(runner.run(main({part for part in chosen.only.split(",") if part}, check=chosen.check)))
