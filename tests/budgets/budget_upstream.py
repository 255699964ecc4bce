"""A model's API that keeps its own book: what it has charged, also for answers that nobody got.

It decides what a request costs when it takes it in, and charges that whatever becomes of the answer. Prices and sums
here are its own: nothing of the product is used.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - a seed must give the same run again
from typing import Any

NANOS = {
    "claude-opus-5-5": (4_000, 200, 5_000, 8_000, 20_000),
    "claude-fable-5-1": (10_000, 250, 12_500, 20_000, 50_000),
    "claude-haiku-5-5": (100, 10, 125, 200, 500),
}
"""For a token of plain prompt, read from a cache, written for five minutes, for an hour, and of output."""
LONG = {"claude-haiku-5-5": (100_000, (500, 50, 625, 1_000, 2_500))}
"""What prompts of more tokens than that cost."""
SEARCH = 10_000_000

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Book:
    """What was charged, by the key that requests of one budget have in common."""

    charged: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What the real API would have refused."""


class Upstream:
    """Answers on a port of this machine. Whose request it is stands in the prompt; how it goes, too."""

    def __init__(self) -> None:
        self.book = Book()
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 22)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # Cancelled by `stop` only, which waits for this.
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in head[1:] if ":" in line}
        raw = await reader.readexactly(int(fields["content-length"]))
        body: dict[str, Any] = json.loads(raw)
        text = body["messages"][0]["content"][0]["text"]
        plan: dict[str, Any] = json.loads(text.partition("\n")[0])
        random = Random(f"{plan['seed']} {plan['key']} {self.book.answers.total()}")
        prompt = int(len(raw) * plan["density"])
        if "count_tokens" in head[0]:
            return await self._count(writer, random, prompt)
        return await self._answer(writer, random, body, plan, prompt)

    async def _count(self, writer: asyncio.StreamWriter, random: Random, prompt: int) -> bool:
        self.book.answers["counted"] += 1
        if random.random() < 0.1:
            await _json(writer, 500, {"type": "error", "error": {"type": "api_error", "message": "no"}})
            return True
        # An estimate: a little off, in either direction. A count never needs `max_tokens`.
        await _json(writer, 200, {"input_tokens": int(prompt * random.uniform(0.985, 1.01))})
        return True

    async def _answer(
        self, writer: asyncio.StreamWriter, random: Random, body: dict[str, Any], plan: dict[str, Any], prompt: int
    ) -> bool:
        most = body["max_tokens"]
        thinking = body.get("thinking")
        if thinking is not None and not 1024 <= thinking["budget_tokens"] < most:
            self.book.wrong.append(f"budget_tokens {thinking['budget_tokens']} with max_tokens {most}")
        how = random.choices(
            ("stream", "json", "429", "529", "500", "reset", "cut", "early cut", "no end", "drip"),
            weights=(30, 12, 4, 4, 4, 5, 12, 5, 4, 6),
        )[0]
        self.book.answers[how] += 1
        if how in ("429", "529", "500"):
            await _json(writer, int(how), {"type": "error", "error": {"type": "x", "message": "no"}})
            return True
        if how == "reset" and random.random() < 0.5:
            return False  # Nothing was done, but who can know?
        usage, cost = self._usage(random, body, plan, prompt, most)
        self.book.charged[plan["key"]] += cost
        if how == "reset":
            return False
        if how == "json" and not body.get("stream"):
            await _json(writer, 200, _message(body["model"], usage))
            return True
        return await self._stream(writer, random, body["model"], usage, how)

    def _usage(
        self, random: Random, body: dict[str, Any], plan: dict[str, Any], prompt: int, most: int
    ) -> tuple[dict[str, Any], int]:
        output = most if random.random() < 0.3 else random.randint(1, max(1, most))
        searches = 0
        for tool in body.get("tools", ()):
            if tool["type"].startswith("web_search"):
                searches = random.randint(0, tool["max_uses"])
        tokens = prompt * (searches + 1) + 15_000 * searches * (searches + 1) // 2
        above, dearer = LONG.get(body["model"], (0, NANOS[body["model"]]))
        plain, read, five, hour, out = dearer if tokens > above else NANOS[body["model"]]
        cached = plan.get("cache")
        kinds = [0, 0, 0, 0]
        if cached is None:
            kinds[0] = tokens
        else:
            kinds[0] = random.randint(0, tokens // 10)
            kinds[1] = random.randint(0, tokens - kinds[0]) if random.random() < 0.5 else 0
            kinds[3 if cached == "1h" else 2] = tokens - kinds[0] - kinds[1]
        prices = (plain, read, five, hour)
        cost = sum(price * kind for price, kind in zip(prices, kinds, strict=True)) + out * output + SEARCH * searches
        usage = {
            "input_tokens": kinds[0],
            "cache_read_input_tokens": kinds[1],
            "cache_creation_input_tokens": kinds[2] + kinds[3],
            "cache_creation": {"ephemeral_5m_input_tokens": kinds[2], "ephemeral_1h_input_tokens": kinds[3]},
            "output_tokens": output,
            "server_tool_use": {"web_search_requests": searches},
        }
        return usage, cost

    async def _stream(
        self, writer: asyncio.StreamWriter, random: Random, model: str, usage: dict[str, Any], how: str
    ) -> bool:
        searches = usage["server_tool_use"]["web_search_requests"]
        # What the searches add to the prompt is not known when the answer begins.
        begun = {**usage, "output_tokens": 1}
        if searches:
            begun.pop("server_tool_use")
        writer.write(HEAD)
        if how == "early cut":
            await writer.drain()
            return False
        writer.write(_event("message_start", message=_message(model, begun)))
        for at in range(random.randint(1, 6)):
            delta = {"type": "text_delta", "text": f"{at} "}
            writer.write(_event("content_block_delta", index=0, delta=delta))
            if how == "drip":
                await writer.drain()
                await asyncio.sleep(random.uniform(0, 0.01))
        await writer.drain()
        if how == "cut":
            return False
        if how == "no end":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        writer.write(_event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage))
        writer.write(_event("message_stop") + b"0\r\n\r\n")
        await writer.drain()
        return True


def _message(model: str, usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def _event(name: str, **data: Any) -> bytes:
    text = f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(text), text)


async def _json(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
