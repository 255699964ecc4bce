"""What does the model road cost? Run: `python bench/roads.py` (about 15 s, nothing to prepare).

Three processes: a fake model that answers at once, the gateway, and this one, which sends requests alternately
straight to the fake and through the gateway. Rounds are paired, so that the ratio survives a noisy machine; absolute
numbers don't.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httptools
import uvloop

from hostler.engine.model_port import Caller, Shortage
from hostler.engine.ports import HeldCall, ModelRequestRecord
from hostler.gateway import ModelGateway, Upstream, one_upstream

MESSAGE = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "ok"}],
    "stop_reason": "end_turn",
}
USAGE = {"input_tokens": 10, "output_tokens": 5}


def sse() -> bytes:
    def event(name: str, **data: object) -> bytes:
        return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()

    events = [event("message_start", message={**MESSAGE, "content": [], "usage": USAGE})]
    events.append(event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
    delta = {"type": "text_delta", "text": "some words of an answer "}
    events += [event("content_block_delta", index=0, delta=delta)] * 20
    events.append(event("content_block_stop", index=0))
    events.append(event("message_delta", delta={"stop_reason": "end_turn"}, usage=USAGE))
    events.append(event("message_stop"))
    return b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in events) + b"0\r\n\r\n"


# ----------------------------------------------------------------------------------------------------------- processes


class FakeModel(asyncio.Protocol):
    whole = json.dumps({**MESSAGE, "usage": USAGE}).encode()
    json_answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(whole),
        whole,
    )
    sse_answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + sse()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.stream = False

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.stream = b"stream" in url

    def on_message_complete(self) -> None:
        self.transport.write(self.sse_answer if self.stream else self.json_answer)


class Silent:
    """A listener and store that cost nothing."""

    caller = Caller("sesn_bench")

    async def on_calls_held(self, calls: Sequence[HeldCall]) -> None:
        return

    async def on_budget_reached(self, why: str, short: Shortage) -> None:
        return

    async def on_model_request(self, record: ModelRequestRecord) -> None:
        return

    async def load(self) -> str | None:
        return None

    async def save(self, state: str) -> None:
        return


async def run_model() -> None:
    server = await asyncio.get_running_loop().create_server(FakeModel, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


async def run_gateway(port: int, directory: Path) -> None:
    gateway = ModelGateway(one_upstream(Upstream(f"http://127.0.0.1:{port}", "key")))
    for name, one_call in (("plain", False), ("held", True)):
        await gateway.open(
            name, directory / name, Silent(), one_call_at_a_time=one_call, sequence=Silent(), allowed_models=None
        )
    print("ready", flush=True)
    await asyncio.Event().wait()


# ---------------------------------------------------------------------------------------------------------------- load


class Asker(asyncio.Protocol):
    """Sends the same request again and again on one connection, each as soon as the last answer is whole."""

    def __init__(self, request: bytes, until: float) -> None:
        self.request = request
        self.until = until
        self.times: list[float] = []
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpResponseParser(self)
        self._ask()

    def _ask(self) -> None:
        self.asked = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        self.times.append(now - self.asked)
        if now < self.until:
            self._ask()
        else:
            self.transport.close()
            self.done.set_result(None)


@dataclass
class Round:
    times: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        return len(self.times) / self.seconds


async def run_round(where: int | Path, request: bytes, connections: int, seconds: float) -> Round:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    askers = [Asker(request, started + seconds) for _ in range(connections)]
    for asker in askers:
        if isinstance(where, int):
            await loop.create_connection(lambda asker=asker: asker, "127.0.0.1", where)  # type: ignore[misc]
        else:
            await loop.create_unix_connection(lambda asker=asker: asker, str(where))  # type: ignore[misc]
    for asker in askers:
        await asker.done
    return Round([t for asker in askers for t in asker.times], time.perf_counter() - started)


def request_of(size: int, stream: bool) -> bytes:
    filler = [{"role": "user", "content": [{"type": "text", "text": "x" * 200}]} for _ in range(max(1, size // 250))]
    body = json.dumps({"model": "m", "stream": stream, "messages": filler}).encode()
    head = (
        f"POST /v1/messages?{'stream' if stream else 'json'} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(port: int, directory: Path, gateway_pid: int, rounds: int, seconds: float) -> None:
    print(f"{'case':<34}{'direct p50/p99 ms':>20}{'through p50/p99 ms':>20}{'added p50':>11}{'added p99':>11}", end="")
    print(f"{'req/s through (direct)':>25}{'ratio':>7}{'CPU us':>8}")
    cases = [
        ("json 1 kB", "plain", 1_000, False),
        ("sse 20 deltas, 1 kB", "plain", 1_000, True),
        ("sse 20 deltas, 42 kB", "plain", 42_000, True),
        ("sse 20 deltas, 42 kB, held mode", "held", 42_000, True),
    ]
    for label, socket, size, stream in cases:
        request = request_of(size, stream)
        for connections in (1, 20):
            direct: list[Round] = []
            through: list[Round] = []
            cpu = 0.0
            for number in range(rounds * 2):
                if (number + number // 2) % 2:
                    direct.append(await run_round(port, request, connections, seconds))
                else:
                    before = cpu_seconds(gateway_pid)
                    through.append(await run_round(directory / socket, request, connections, seconds))
                    cpu += cpu_seconds(gateway_pid) - before
            d, t = quantiles(direct), quantiles(through)
            served = sum(len(r.times) for r in through)
            rates = [statistics.median(r.rate for r in side) for side in (through, direct)]
            print(
                f"{label + f', c={connections}':<34}{d[0]:>12.3f} /{d[1]:>6.2f}{t[0]:>12.3f} /{t[1]:>6.2f}"
                f"{t[0] - d[0]:>11.3f}{t[1] - d[1]:>11.3f}{rates[0]:>15,.0f} ({rates[1]:,.0f})"
                f"{rates[0] / rates[1]:>7.2f}{cpu / served * 1e6:>8.0f}"
            )


def quantiles(rounds: list[Round]) -> tuple[float, float]:
    """Medians over the rounds of each round's p50 and p99, in ms."""
    sorted_times = [sorted(r.times) for r in rounds]
    p50 = statistics.median(times[len(times) // 2] for times in sorted_times)
    p99 = statistics.median(times[int(len(times) * 0.99)] for times in sorted_times)
    return p50 * 1000, p99 * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3)
    options = parser.parse_args()
    if options.role[:1] == ["model"]:
        uvloop.run(run_model())
    elif options.role[:1] == ["gateway"]:
        uvloop.run(run_gateway(int(options.role[1]), Path(options.role[2])))
    else:
        with tempfile.TemporaryDirectory() as directory:
            started: list[subprocess.Popen[str]] = []

            def start(*role: str) -> tuple[subprocess.Popen[str], str]:
                process = subprocess.Popen([sys.executable, __file__, *role], stdout=subprocess.PIPE, text=True)
                started.append(process)
                assert process.stdout is not None
                return process, process.stdout.readline().strip()

            try:
                _, port = start("model")
                gateway, _ = start("gateway", port, directory)
                uvloop.run(measure(int(port), Path(directory), gateway.pid, options.rounds, options.seconds))
            finally:
                for process in started:
                    process.terminate()
                    process.wait()


if __name__ == "__main__":
    main()
