"""A collector that is down, slow or full of errors costs spans, and nothing else."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Literal

import pytest
from certificates import certify

from hostler.telemetry.otlp import OtlpExporter, Target
from hostler.telemetry.pipeline import Exportable, Figures, Pipeline
from hostler.telemetry.spans import Context, Event, Span
from hostler.testing.otlp import OtlpReceiver


def span(number: int = 1) -> Span:
    return Span(
        "work", "ab" * 16, f"{number:016x}", "", 10, 20, {"a": "text", "b": 7, "c": True, "d": 1.5, "e": ("x", "y")},
        links=(Context("cd" * 16, "ef" * 8, True),), events=(Event("began", 11, {"n": 1}),), failed=True,
    )  # fmt: skip


async def close(pipeline: Pipeline, seconds: float = 5.0) -> float:
    """How long it took."""
    since = monotonic()
    await asyncio.to_thread(pipeline.close, seconds)
    return monotonic() - since


@pytest.mark.parametrize("gzip", [False, True])
async def test_spans_arrive_as_they_are(gzip: bool) -> None:
    async with OtlpReceiver() as collector:
        target = Target(collector.url, {"x-key": "k"}, resource={"service.name": "hostler"}, gzip=gzip)
        pipeline = Pipeline(lambda: OtlpExporter(target), every_seconds=0.01)
        pipeline.put(span())
        [got] = await collector.until(lambda spans: len(spans) == 1)
        await close(pipeline)
    assert (got.name, got.trace_id, got.span_id, got.parent_id) == ("work", "ab" * 16, f"{1:016x}", "")
    assert got.attributes == {"a": "text", "b": 7, "c": True, "d": 1.5, "e": ["x", "y"]}
    assert (got.start, got.end, got.error, got.events) == (10, 20, True, ("began",))
    assert got.links == (("cd" * 16, "ef" * 8),)
    assert got.resource["service.name"] == "hostler"
    assert collector.headers[0]["x-key"] == "k"
    assert pipeline.figures() == Figures(sent=1, dropped=0, failed=0, waiting=0)


@pytest.mark.parametrize("answering", ["never", 400, 503])
async def test_a_collector_that_fails_loses_spans_and_holds_nobody_up(answering: Literal["never", 400, 503]) -> None:
    async with OtlpReceiver(answering) as collector:
        pipeline = Pipeline(
            lambda: OtlpExporter(Target(collector.url, seconds=60.0)), most=100, batch=10, every_seconds=0.01
        )
        pipeline.put(span())
        await collector.asked(1)
        since = monotonic()
        for number in range(1000):
            pipeline.put(span(number))
        assert monotonic() - since < 1.0
        assert pipeline.figures().waiting <= 100 + 10  # and those that are on their way
        took = await close(pipeline, 0.2)
    assert took < 5.0
    figures = pipeline.figures()
    assert figures.sent == 0
    assert figures.dropped + figures.failed + figures.waiting == 1001


@pytest.mark.parametrize("busy", [429, 503])
async def test_a_collector_that_is_busy_is_asked_again_when_it_says(busy: Literal[429, 503]) -> None:
    async with OtlpReceiver(busy, retry_after="0") as collector:
        pipeline = Pipeline(lambda: OtlpExporter(Target(collector.url)), every_seconds=0.01)
        pipeline.put(span())
        await collector.asked(2)
        assert pipeline.figures() == Figures(sent=0, dropped=0, failed=0, waiting=1)
        collector.answering = 200
        await collector.until(lambda spans: len(spans) == 1)
        await close(pipeline)
    assert pipeline.figures() == Figures(sent=1, dropped=0, failed=0, waiting=0)
    assert len(set(collector.bodies)) == 1


async def test_nobody_else_gets_what_the_collector_does_not_take() -> None:
    async with OtlpReceiver() as other:

        async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 307 Moved\r\nlocation: {other.url}\r\ncontent-length: 0\r\n\r\n".encode())
            writer.close()

        async with await asyncio.start_server(elsewhere, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            target = Target(f"http://127.0.0.1:{port}/v1/traces", {"x-key": "secret"})
            pipeline = Pipeline(lambda: OtlpExporter(target), every_seconds=0.01)
            pipeline.put(span())
            await close(pipeline)
    assert other.headers == []
    assert pipeline.figures() == Figures(sent=0, dropped=0, failed=1, waiting=0)


async def test_a_collector_that_hangs_up_is_asked_again_at_once() -> None:
    """So it does to connections that it has kept for long enough, just as the next batch is on its way."""
    async with OtlpReceiver(cuts=1) as collector:
        # After other failures there would be a pause, for which there is no time.
        pipeline = Pipeline(lambda: OtlpExporter(Target(collector.url), pause=3600.0), every_seconds=0.01)
        pipeline.put(span())
        await collector.until(lambda spans: len(spans) == 1)
        await close(pipeline)
    assert pipeline.figures() == Figures(sent=1, dropped=0, failed=0, waiting=0)


async def test_a_collector_with_an_authority_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = certify(tmp_path, ["localhost"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
    tls.load_cert_chain(tmp_path / "server.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    async with OtlpReceiver(tls=tls) as collector:
        unknown = Pipeline(lambda: OtlpExporter(Target(collector.url, seconds=0.2)), every_seconds=0.01)
        unknown.put(span())
        await close(unknown)
        assert unknown.figures().sent == 0
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(authority))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", str(tmp_path / "server.pem"))
        known = Pipeline(lambda: OtlpExporter(Target(collector.url)), every_seconds=0.01)
        known.put(span())
        await collector.until(lambda spans: len(spans) == 1)
        await close(known)


async def test_nobody_there_at_all() -> None:
    async with OtlpReceiver() as collector:
        url = collector.url
    pipeline = Pipeline(lambda: OtlpExporter(Target(url, seconds=0.2)), every_seconds=0.01)
    pipeline.put(span())
    assert await close(pipeline, 3.0) < 6.0
    assert pipeline.figures() == Figures(sent=0, dropped=0, failed=1, waiting=0)


async def test_stopping_sends_what_waits() -> None:
    async with OtlpReceiver() as collector:
        pipeline = Pipeline(lambda: OtlpExporter(Target(collector.url)), every_seconds=3600.0)
        for number in range(1, 1201):
            pipeline.put(span(number))
        await close(pipeline, 20.0)
        assert len({got.span_id for got in collector.spans}) == 1200
        pipeline.put(span())
        assert pipeline.figures().dropped == 1


class BreaksOnce:
    """An exporter that raises for its first batch."""

    def __init__(self) -> None:
        self.got: list[Exportable] = []
        self.done = threading.Event()
        self._broke = False

    def export(self, spans: Sequence[Exportable]) -> bool:
        if not self._broke:
            self._broke = True
            raise RuntimeError("a span that can't be written")
        self.got += spans
        self.done.set()
        return True

    def close(self) -> None:
        pass


async def test_a_batch_that_breaks_the_exporter_is_not_the_last_one() -> None:
    exporter = BreaksOnce()
    pipeline = Pipeline(lambda: exporter, batch=1, every_seconds=0.01)
    pipeline.put(span(1))
    pipeline.put(span(2))
    assert await asyncio.to_thread(exporter.done.wait, 20.0)
    await close(pipeline)
    assert pipeline.figures() == Figures(sent=1, dropped=0, failed=1, waiting=0)


async def test_an_exporter_that_can_not_be_made_loses_spans() -> None:
    def fails() -> BreaksOnce:
        raise ImportError("no exporter")

    pipeline = Pipeline(fails, every_seconds=0.01)
    assert await close(pipeline) < 5.0
    pipeline.put(span())
    assert pipeline.figures().dropped == 1


def test_nothing_that_only_exports_is_loaded_where_traces_are_off() -> None:
    program = (
        "import sys, hostler.compose, hostler.compose.telemetry\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.proto', 'hostler.telemetry.otlp'))])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"
