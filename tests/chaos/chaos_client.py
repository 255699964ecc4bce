"""How does a good client get its session through a server that dies again and again?

It follows the log by `Last-Event-ID`, answers what it is asked, repeats an answer that it isn't sure of (a repeated
answer is recognised), and looks into the log before it repeats a prompt (a repeated prompt would be a new one).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import httpx2 as httpx
from chaos_plan import SessionPlan, Turn

TOKEN = re.compile(r"\b(?:tok|cus)-[a-z0-9]+")
Body = dict[str, Any]


class Refused(Exception):
    """The server said no to something that it should have taken."""


class Unsure(Exception):
    """The server said that its database is away: it may have happened, or not."""


UNSURE = (httpx.TransportError, Unsure)
OVERLOADED = 529


@dataclass
class Address:
    """Where the server is now. Clients wait here while there is none."""

    url: str = ""
    up: asyncio.Event = field(default_factory=asyncio.Event)


def sure(answer: httpx.Response) -> bool:
    """False: the server has no time now, or it stops and can't say what came of the request."""
    stopping = answer.status_code == 503 and "The server is stopping" in answer.text
    return answer.status_code != OVERLOADED and not stopping


class Api:
    """The few requests that a session needs. What raises one of UNSURE may have happened, or not."""

    def __init__(self, address: Address, key: str) -> None:
        self.key = key
        self._address = address
        self.http = httpx.AsyncClient(
            headers={"x-api-key": key, "anthropic-version": "2023-06-01"},
            trust_env=False,
            timeout=httpx.Timeout(30.0, read=30.0),
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=50),
        )

    async def close(self) -> None:
        await self.http.aclose()

    async def url(self, path: str) -> str:
        await self._address.up.wait()
        return self._address.url + path

    async def post(self, path: str, body: Body) -> Any:
        answer = await self.http.post(await self.url(path), json=body)
        if not sure(answer):
            raise Unsure(answer.text)
        if answer.status_code != 200:
            raise Refused(f"POST {path} {json.dumps(body)[:300]}: {answer.status_code} {answer.text[:500]}")
        return answer.json()

    async def get(self, path: str, **params: str | int) -> Any:
        while True:
            try:
                answer = await self.http.get(await self.url(path), params=params)
            except httpx.TransportError:
                await asyncio.sleep(0.01)  # it died under us; the next one announces itself
                continue
            if not sure(answer):
                await asyncio.sleep(0.05)
                continue
            if answer.status_code != 200:
                raise Refused(f"GET {path}: {answer.status_code} {answer.text[:500]}")
            return answer.json()

    async def events(self, session_id: str) -> list[Body]:
        found: list[Body] = []
        page: str | None = None
        while True:
            params: dict[str, str | int] = {"limit": 500} | ({"page": page} if page else {})
            answer = await self.get(f"/v1/sessions/{session_id}/events", **params)
            found += answer["data"]
            page = answer.get("next_page")
            if not page:
                return found


class Follower:
    """Hears everything that the stream of a session tells, through whatever happens to whoever tells it."""

    def __init__(self, session_id: str, api: Callable[[], Api]) -> None:
        """`api`: whom to ask now; asked anew for each connection."""
        self.session_id = session_id
        self.seen: dict[int, Body] = {}
        """What the stream told, by sequence."""
        self._path = f"/v1/sessions/{session_id}/events"
        self._whom = api
        self._changed = asyncio.Condition()

    async def until(self, true: Callable[[], bool]) -> None:
        """Looks after each event."""
        async with self._changed:
            await self._changed.wait_for(true)

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            api = self._whom()
            url = await api.url(self._path + "/stream")
            last = max(self.seen, default=0)
            try:
                async with api.http.stream("GET", url, headers={"last-event-id": str(last)}) as answer:
                    if answer.status_code != 200:
                        said = await answer.aread()
                        if not sure(answer):
                            raise Unsure("no stream")
                        raise Refused(f"stream: {answer.status_code} {said[:300]!r}")
                    await self._read(answer)
            except UNSURE:
                await asyncio.sleep(0.01)

    def took(self, event: Body) -> None:
        """Called for each event, before whoever waits looks."""

    async def _read(self, answer: httpx.Response) -> None:
        seq: int | None = None
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                seq = int(line[4:])
            elif line.startswith("data: ") and seq is not None:
                await self._take(seq, json.loads(line[6:]))
            elif not line:
                seq = None

    async def _take(self, seq: int, event: Body) -> None:
        async with self._changed:
            if seq in self.seen:
                raise Refused(f"the stream told {seq} a second time")
            self.seen[seq] = event
            self.took(event)
            self._changed.notify_all()


class Client(Follower):
    """One session, from its first prompt to the idle after its last. `on_event` is told of every event that is seen."""

    def __init__(self, api: Api, plan: SessionPlan, session_id: str, on_event: Callable[[Body], None]) -> None:
        super().__init__(session_id, lambda: api)
        self.plan = plan
        self.interrupted = False
        self.lost = 0
        """How many kills it lived through."""
        self._sent = 0
        """Turns of the plan that were sent already."""
        self._api = api
        self._on_event = on_event
        self._waiting: tuple[str, ...] = ()
        """Calls that the last idle named."""
        self._idle: Body | None = None
        """The last event, when it is an idle."""
        self._uses: dict[str, Body] = {}

    def go_on(self, turns: tuple[Turn, ...], on_event: Callable[[Body], None]) -> None:
        """More to do for the next `run`."""
        self.plan = replace(self.plan, turns=(*self.plan.turns, *turns))
        self._on_event = on_event

    async def run(self) -> None:
        """Until everything is sent and the session is idle for good. Then the log is still followed: see `stop`."""
        async with asyncio.TaskGroup() as tasks:
            follower = tasks.create_task(self.follow())
            interrupter = tasks.create_task(self._interrupt())
            answerer = tasks.create_task(self._answer())
            for turn in self.plan.turns[self._sent :]:
                self._sent += 1
                await self._say(turn.prompt, turn.mark)
                waits = self._sent == 1 and self.plan.second_waits and len(self.plan.turns) > 1
                if not waits:
                    await self.until(partial(self._settled, turn.mark))
            if not self.interrupted:
                interrupter.cancel()
            await asyncio.wait([interrupter])
            # An interrupt that came after the last idle is followed by another one: hear that too.
            heard = len(await self._api.events(self.session_id))
            await self.until(lambda: len(self.seen) >= heard)
            for task in (answerer, follower):
                task.cancel()

    # -- what the log says

    def _said(self, mark: str) -> bool:
        return any(e["type"] == "user.message" and mark in _text(e) for e in self.seen.values())

    def _settled(self, mark: str) -> bool:
        done = self._idle is not None and self._idle["stop_reason"]["type"] != "requires_action"
        return done and self._said(mark)

    def took(self, event: Body) -> None:
        if event["type"] in ("agent.tool_use", "agent.custom_tool_use"):
            self._uses[event["id"]] = event
        idle = event["type"] == "session.status_idle"
        self._idle = event if idle else None
        if idle:
            self._waiting = tuple(event["stop_reason"].get("event_ids", ()))
        self._on_event(event)

    # -- what it does

    async def _say(self, text: str, mark: str) -> None:
        body = {"events": [{"type": "user.message", "content": [{"type": "text", "text": text}]}]}
        while True:
            try:
                await self._api.post(self._path, body)
                return
            except UNSURE:
                known = await self._api.events(self.session_id)
                if any(e["type"] == "user.message" and mark in _text(e) for e in known):
                    return

    async def _interrupt(self) -> None:
        after = self.plan.interrupt_after
        if after is None:
            return
        await self.until(lambda: len(self.seen) >= after)
        self.interrupted = True
        while True:
            try:
                await self._api.post(self._path, {"events": [{"type": "user.interrupt"}]})
                return
            except UNSURE:
                if any(e["type"] == "user.interrupt" for e in await self._api.events(self.session_id)):
                    return

    async def _answer(self) -> None:
        answered: set[str] = set()
        while True:
            await self.until(lambda: any(name not in answered for name in self._waiting))
            asked = [name for name in self._waiting if name not in answered]
            batches = [[name] for name in reversed(asked)] if self.plan.one_by_one else [asked]
            for names in batches:
                await self._send_answers([self._answer_to(self._uses[name]) for name in names])
                answered.update(names)

    async def _send_answers(self, answers: list[Body]) -> None:
        while True:
            try:
                await self._api.post(self._path, {"events": answers})
                return
            except UNSURE:
                continue  # the same answer again: it counts once
            except Refused:
                if self.interrupted:  # the interrupt was faster and has closed the calls
                    return
                raise

    def _answer_to(self, use: Body) -> Body:
        token = token_of(use)
        if use["type"] == "agent.custom_tool_use":
            content = [{"type": "text", "text": f"ans-{token}"}]
            return {"type": "user.custom_tool_result", "custom_tool_use_id": use["id"], "content": content}
        if token in self.plan.denied:
            return {"type": "user.tool_confirmation", "tool_use_id": use["id"], "result": "deny", "deny_message": "No."}
        return {"type": "user.tool_confirmation", "tool_use_id": use["id"], "result": "allow"}


def token_of(use: Mapping[str, Any]) -> str:
    """The mark of a tool call."""
    found = TOKEN.findall(json.dumps(use["input"]))
    assert found, f"a call without a mark: {use}"
    return str(found[0])


def _text(event: Mapping[str, Any]) -> str:
    return "".join(str(block.get("text", "")) for block in event["content"])
