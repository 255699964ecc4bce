"""What would a collector of traces have got? A small OTLP receiver over HTTP, for tests and for looking at one trace.

    async with OtlpReceiver() as collector:
        ...  # a server with telemetry.traces = "otlp" and telemetry.endpoint = collector.url
        spans = await collector.until(lambda spans: any(s.name == "chat claude-opus-5-5" for s in spans))

Takes protobuf and JSON, as OTLP/HTTP has them. `answering` makes it a collector that fails.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it was exported. Ids in hexadecimal, times in nanoseconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it is a root."""
    start: int
    end: int
    kind: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    scope: str
    error: bool
    links: tuple[tuple[str, str], ...] = ()
    """Trace and span."""
    events: tuple[str, ...] = ()


@dataclass
class OtlpReceiver:
    """Listens on loopback while its block is entered."""

    answering: int | Literal["never"] = 200
    """The status of every answer; `never`: there is none."""
    retry_after: str | None = None
    """What every answer says of when to ask again."""
    cuts: int = 0
    """So many requests are not taken: their connections end."""
    tls: ssl.SSLContext | None = None
    """Then it is `localhost` to its clients."""
    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """Whatever was sent, unpacked."""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    """Of each request, names in lower case."""
    _server: asyncio.Server | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _connections: dict[asyncio.StreamWriter, asyncio.Task[Any]] = field(default_factory=dict)

    async def __aenter__(self) -> OtlpReceiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        serving = list(self._connections.values())
        for writer in self._connections:
            writer.transport.abort()
        if serving:
            await asyncio.wait(serving)

    @property
    def url(self) -> str:
        assert self._server is not None, "enter it first"
        where = "http://127.0.0.1" if self.tls is None else "https://localhost"
        return f"{where}:{self._server.sockets[0].getsockname()[1]}/v1/traces"

    async def until(
        self, enough: Callable[[Sequence[ReceivedSpan]], bool], *, seconds: float = 30.0
    ) -> list[ReceivedSpan]:
        """All spans, once `enough` says so. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: enough(self.spans))
        return list(self.spans)

    async def asked(self, times: int, *, seconds: float = 30.0) -> None:
        """Until so many requests have come."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: len(self.bodies) >= times)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "made by the server"
        self._connections[writer] = task
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = {
                    name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
                }
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                if self.cuts:
                    self.cuts -= 1
                    return
                if fields.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                await self._take(fields, body)
                if self.answering == "never":
                    await reader.read()
                    return
                answer = b"{}" if "json" in fields.get("content-type", "") else b""
                more = b"" if self.retry_after is None else b"retry-after: %b\r\n" % self.retry_after.encode()
                status = b"HTTP/1.1 %d Answer\r\n" % self.answering
                writer.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (status, more, len(answer), answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            del self._connections[writer]
            writer.close()

    async def _take(self, fields: Mapping[str, str], body: bytes) -> None:
        async with self._changed:
            self.headers.append(fields)
            self.bodies.append(body)
            if self.answering == 200:
                self.spans += _from_json(body) if "json" in fields.get("content-type", "") else spans_in(body)
            self._changed.notify_all()


def spans_in(body: bytes) -> list[ReceivedSpan]:
    """Of an `ExportTraceServiceRequest`, as the official library reads it."""
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found: list[ReceivedSpan] = []
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = MessageToDict(of_resource.resource)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                found.append(
                    ReceivedSpan(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.kind,
                        dict(_attributes(MessageToDict(span).get("attributes", ()))),
                        dict(_attributes(resource.get("attributes", ()))),
                        of_scope.scope.name,
                        span.status.code == 2,
                        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                        tuple(event.name for event in span.events),
                    )
                )
    return found


def _from_json(body: bytes) -> list[ReceivedSpan]:
    return [
        ReceivedSpan(
            span["name"],
            span["traceId"],
            span["spanId"],
            span.get("parentSpanId", ""),
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            int(span.get("kind", 0)),
            dict(_attributes(span.get("attributes", ()))),
            dict(_attributes(of_resource.get("resource", {}).get("attributes", ()))),
            of_scope.get("scope", {}).get("name", ""),
            span.get("status", {}).get("code") == 2,
            tuple((link["traceId"], link["spanId"]) for link in span.get("links", ())),
            tuple(event["name"] for event in span.get("events", ())),
        )
        for of_resource in json.loads(body)["resourceSpans"]
        for of_scope in of_resource["scopeSpans"]
        for span in of_scope["spans"]
    ]


def _attributes(said: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for one in said:
        yield one["key"], _value(one["value"])


def _value(said: Mapping[str, Any]) -> Any:
    match said:
        case {"intValue": number}:
            return int(number)
        case {"arrayValue": values}:
            return [_value(value) for value in values.get("values", ())]
        case _:
            return next(iter(said.values()), None)


def children_of(spans: Iterable[ReceivedSpan], parent: ReceivedSpan) -> list[ReceivedSpan]:
    """Those that stand directly under `parent`, in the order in which they began."""
    return sorted(
        (span for span in spans if (span.trace_id, span.parent_id) == (parent.trace_id, parent.span_id)),
        key=lambda span: span.start,
    )


def stands_under(spans: Iterable[ReceivedSpan], span: ReceivedSpan) -> list[ReceivedSpan]:
    """The spans above `span`, the nearest first, as far as they are there."""
    known = {(each.trace_id, each.span_id): each for each in spans}
    found: list[ReceivedSpan] = []
    while (above := known.get((span.trace_id, span.parent_id))) is not None and above not in found:
        found.append(above)
        span = above
    return found
