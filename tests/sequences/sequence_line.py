"""How is each operation done to a real session, by a client that doesn't lose its head when the server dies?

Whoever does not know whether a request was carried out looks before repeating it: a message by its mark, a point by its
name, a fork by its title. An answer can simply be sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from chaos_client import UNSURE, Body, Follower, Refused
from sequence_hosts import Hosts
from sequence_model import ASKED, DENIAL, Expected, Message
from sequence_plan import Op

STATUSES = ("session.status_idle", "session.status_running", "session.status_rescheduled")


class Line(Follower):
    """One session of a sequence."""

    def __init__(self, hosts: Hosts, session_id: str, expected: Expected, home: int, copied: int) -> None:
        super().__init__(session_id, lambda: hosts.api(self.home))
        self.hosts = hosts
        self.home = home
        """Which server is asked."""
        self.copied = copied
        self.expected = expected
        self.message: Message | None = None
        """The newest."""
        self.steps: dict[str, list[int]] = {}
        """By prompt: which steps of its script the model had to be asked for."""
        self.hit: set[str] = set()
        """Prompts during whose turns somebody was killed."""
        self.looked = False
        """Whether nothing has happened since the agent has looked at its files."""
        self.points: dict[str, str] = {}
        self.compactions: list[str] = []
        """How each that was asked for went."""
        self.moves = 0
        """How often another worker than before has had its files."""
        self._worker: str | None = None
        self.heard_at = monotonic()
        """When the newest event came."""
        self._status = ""
        self._status_at = 0
        self._prompts: dict[str, int] = {}
        self._asked: tuple[str, ...] = ()

    def took(self, event: Body) -> None:
        at = len(self.seen)
        self.heard_at = monotonic()
        if event["type"] in STATUSES:
            self._status, self._status_at = event["type"], max(self.seen)
            if event["type"] == "session.status_idle":
                self._asked = tuple(event["stop_reason"].get("event_ids") or ())
        elif event["type"] == "user.message":
            for block in event["content"]:
                self._prompts |= dict.fromkeys(ASKED.findall(block.get("text", "")), at)

    def was_hit(self) -> None:
        """Somebody was killed just now who may have been at work for this session."""
        self.looked = False
        if self.message is not None:
            self.hit.add(self.message.mark)
            self.expected.loose |= set(self.message.calls[1:])

    # -- asking

    @property
    def _own(self) -> str:
        return f"/hostler/v1/sessions/{self.session_id}"

    async def _get(self, path: str, **params: str | int) -> Any:
        await self.hosts.one_is_up()
        return await self.hosts.api(self.home).get(path, **params)

    async def _ask(self, path: str, body: Body, known: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            await self.hosts.one_is_up()
            api = self.hosts.api(self.home)
            try:
                return await api.post(path, body)
            except UNSURE:
                await asyncio.sleep(0.05)
                found = await known()
                if found is not None:
                    return found

    async def _idle_after(self, seq: int) -> None:
        await self.until(lambda: self._status == "session.status_idle" and self._status_at > seq)

    def _newest(self) -> int:
        return max(self.seen, default=0)

    async def events(self) -> list[Body]:
        await self.hosts.one_is_up()
        return await self.hosts.api(self.home).events(self.session_id)

    # -- operations

    async def say(self, message: Message) -> None:
        self.message = message
        before = self._newest()

        async def known() -> Any:
            listed = await self.events()
            return any(message.mark in str(event.get("content")) for event in listed) or None

        content = [{"type": "text", "text": message.script}]
        await self._ask(self._path, {"events": [{"type": "user.message", "content": content}]}, known)
        await self.until(lambda: message.mark in self._prompts)
        await self._idle_after(before)
        self.expected.said(message)
        self.looked = not message.waits and bool(message.calls) and message.mark not in self.hit
        await self._look_who_serves()
        self.steps.setdefault(message.mark, []).extend([0] if message.waits or not message.calls else [0, 1])

    async def answer(self, how: str) -> None:
        self.looked = False
        message = self.expected.waits
        assert message is not None
        self.message = message
        before = self._newest()
        (name,) = self._asked
        if message.kind == "custom":
            content = [{"type": "text", "text": f"ans-{message.mark}"}]
            event: Body = {"type": "user.custom_tool_result", "custom_tool_use_id": name, "content": content}
        else:
            event = {"type": "user.tool_confirmation", "tool_use_id": name, "result": how}
            if how == "deny":
                event["deny_message"] = DENIAL

        async def known() -> None:
            return None

        await self._ask(self._path, {"events": [event]}, known)
        await self._idle_after(before)
        self.expected.answered(how)
        await self._look_who_serves()
        self.steps.setdefault(message.mark, []).append(1)

    async def hibernate(self) -> None:
        self.looked = False
        await self.hosts.until_hibernated(self.session_id)

    async def _look_who_serves(self) -> None:
        worker = await self.hosts.worker_of(self.session_id)
        self.moves += None not in (worker, self._worker) and worker != self._worker
        self._worker = worker

    async def move(self) -> None:
        await self.hibernate()
        self.home = 1 - self.home

    async def compact(self) -> None:
        self.looked = False
        before, count = self._newest(), len((await self._get(f"{self._own}/compactions", limit=100))["data"])

        async def rows() -> list[Body]:
            found: list[Body] = (await self._get(f"{self._own}/compactions", limit=100))["data"]
            return found[: len(found) - count]

        async def known() -> Any:
            return await rows() or None

        await self._ask(f"{self._own}/compact", {}, known)
        await self._idle_after(before)
        found = await rows()
        self.compactions += [f"{row['state']}: {row['reason'] or ''}" for row in found]
        told = [e["type"] for seq, e in self.seen.items() if seq > before].count("agent.thread_context_compacted")
        done = sum(row["state"] == "completed" for row in found)
        if told != done:
            raise AssertionError(f"{done} compactions are completed, and {told} were told of")

    async def checkpoint(self, name: str) -> None:
        async def known() -> Any:
            rows = (await self._get(f"{self._own}/checkpoints", limit=100))["data"]
            return next((row for row in rows if row["name"] == name), None)

        row = await self._ask(f"{self._own}/checkpoints", {"name": name}, known)
        self.points[name] = row["id"]
        self.expected.kept(name)

    async def rewind(self, name: str) -> None:
        self.looked = False
        before, count = self._newest(), len((await self._get(f"{self._own}/rewinds", limit=100))["data"])

        async def known() -> Any:
            return len((await self._get(f"{self._own}/rewinds", limit=100))["data"]) > count or None

        await self._ask(f"{self._own}/rewind", {"checkpoint_id": self.points[name]}, known)
        await self.until(lambda: any(seq > before and _is_rewound(event) for seq, event in self.seen.items()))
        self.expected.returned(name)
        if self.expected.waits is not None:
            await self._idle_after(before)

    async def fork(self, op: Op, title: str) -> Line:
        body = {"title": title} | ({"checkpoint_id": self.points[op.to]} if op.to else {})

        async def known() -> Any:
            rows = (await self._get("/v1/sessions", limit=100))["data"]
            return next((row for row in rows if row["title"] == title), None)

        made = await self._ask(f"{self._own}/fork", body, known)
        listed = await self._get(f"/v1/sessions/{made['id']}/events", limit=1000)
        return Line(self.hosts, made["id"], self.expected.fork(op.to), self.home, len(listed["data"]))

    async def caught_up(self) -> None:
        listed = len(await self.events())
        await self.until(lambda: len(self.seen) >= listed)

    async def wrong(self) -> None:
        """What nobody asked for is refused, and changes nothing."""
        confirmation = {"type": "user.tool_confirmation", "tool_use_id": "sevt_of_nobody", "result": "allow"}
        for path, body, status in (
            (self._path, {"events": [confirmation]}, 400),
            (f"{self._own}/rewind", {"checkpoint_id": "ckpt_of_nobody"}, 404),
        ):
            try:
                await self._ask(path, body, lambda: asyncio.sleep(0))
            except Refused as refused:
                if f": {status} " not in str(refused):
                    raise
            else:
                raise AssertionError(f"{path} took {body}")


def _is_rewound(event: Body) -> bool:
    return event["type"] == "session.error" and (event["error"].get("hostler") or {}).get("type") == "session_rewound"
