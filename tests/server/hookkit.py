"""A receiver of webhooks: a real HTTP server on loopback that answers what it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from housekit import DEADLINE, House


@dataclass
class Receiver:
    """What arrived, in order: headers and body. `answers` are used up one by one; then 204."""

    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    silent: threading.Event = field(default_factory=threading.Event)
    """An answer of 0 is none, until this is set."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, headers: dict[str, str], body: bytes) -> int:
        with self._changed:
            self.got.append((headers, body))
            self._changed.notify_all()
            return self.answers.pop(0) if self.answers else 204

    async def until(self, true: Callable[[Sequence[tuple[dict[str, str], bytes]]], bool]) -> None:
        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: true(self.got), DEADLINE)

        assert await asyncio.to_thread(wait), f"arrived: {self.got}"


@contextmanager
def receiving(*answers: int) -> Iterator[Receiver]:
    receiver = Receiver(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = receiver.take({name.lower(): value for name, value in self.headers.items()}, body)
            if status == 0:
                receiver.silent.wait(DEADLINE)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", receiver.url + "elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.silent.set()
            server.shutdown()
            thread.join()


async def own(house: House, verb: str, path: str, body: Any = None) -> Any:
    """A request to one of our own endpoints, with the official client's transport."""
    client = house.client
    match verb:
        case "GET":
            return await client.get(f"/hostler/v1{path}", cast_to=object)
        case "DELETE":
            return await client.delete(f"/hostler/v1{path}", cast_to=object)
        case _:
            return await client.post(f"/hostler/v1{path}", body=body, cast_to=object)


async def listen(house: House, url: str, *types: str) -> Any:
    """An endpoint, with its secret."""
    return await own(house, "POST", "/webhook_endpoints", {"url": url, "enabled_events": list(types)})
