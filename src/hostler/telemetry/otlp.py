"""How do spans leave the server? As OTLP's protobuf over HTTP.

Written here and not by the OpenTelemetry SDK, whose exporter took a third of what a small model request costs (figures:
`docs/explanation/telemetry.md`). Called in the thread that exports; whoever makes spans never waits for it.
"""

from __future__ import annotations

import gzip
import logging
import os
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import httpx2

from hostler.domain.ids import chance
from hostler.telemetry import protobuf
from hostler.telemetry.pipeline import Exportable

_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
_SPAN: Final = protobuf.heads(2)
_ENVIRONMENT: Final = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"


@dataclass(frozen=True, slots=True)
class Target:
    """Where spans go, and as whose."""

    endpoint: str
    """`http://collector:4318/v1/traces`"""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    seconds: float = 10.0
    """For one export, repetitions included."""
    resource: Mapping[str, str] = field(default_factory=dict)
    """What is said of this server with each batch: `service.name` and more."""
    gzip: bool = False


class Envelope:
    """What a batch says before its spans: whose they are."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        # The harness speaks for itself, under the name that it gives itself, on the resource of this server.
        theirs = {**resource, "service.name": "claude-code"}
        self._heads = {
            False: _head(resource, "hostler"),
            True: _head(theirs, "com.anthropic.claude_code.tracing"),
        }

    def around(self, spans: Sequence[Exportable]) -> bytes:
        """An `ExportTraceServiceRequest`."""
        ours: list[bytes] = []
        theirs: list[bytes] = []
        for span in spans:
            said = span.written()
            size = len(said)
            written = theirs if span.inside else ours
            written += (_SPAN[size], said) if size < len(_SPAN) else (protobuf.field(2, said),)
        whole = b""
        for inside, all_of_them in ((False, ours), (True, theirs)):
            if all_of_them:
                resource, scope = self._heads[inside]
                whole += protobuf.field(1, resource + protobuf.field(2, b"".join((scope, *all_of_them))))
        return whole


def _head(resource: Mapping[str, str], scope: str) -> tuple[bytes, bytes]:
    said = protobuf.attributes(resource, 1)
    return protobuf.field(1, said), protobuf.field(1, protobuf.field(1, protobuf.text(scope)))


class OtlpExporter:
    """Implements `Exporter`."""

    def __init__(self, target: Target, pause: float = 1.0) -> None:
        """`pause`: seconds before the second try; twice as many before each one more, a fifth more or less."""
        # It would say each request, and what it can't send. The pipeline says that once a minute.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._target = target
        self._pause = pause
        self._envelope = Envelope(target.resource)
        headers = {"content-type": "application/x-protobuf", "user-agent": "hostler", **target.headers}
        if target.gzip:
            headers["content-encoding"] = "gzip"
        # Somewhere else the headers, which may be keys, are nobody's business, and what is posted would be a GET.
        self._http = httpx2.Client(headers=headers, verify=_tls(os.environ), follow_redirects=False)
        self._closing = threading.Event()
        self._sending = threading.Lock()

    def export(self, spans: Sequence[Exportable]) -> bool:
        body = self._envelope.around(spans)
        with self._sending:
            return not self._closing.is_set() and self._sent(gzip.compress(body, 6) if self._target.gzip else body)

    def close(self) -> None:
        self._closing.set()
        if self._sending.acquire(blocking=False):  # Else the process ends with it: nothing ends a request from here.
            self._http.close()
            self._sending.release()

    def _sent(self, body: bytes) -> bool:
        """Tries for as long as there is time. What is refused is not sent again."""
        until = monotonic() + self._target.seconds
        pause, broken = self._pause, 0
        while True:
            wait = pause * (0.8 + 0.4 * chance())
            try:
                answer = self._http.post(self._target.endpoint, content=body, timeout=max(until - monotonic(), 0.001))
            except httpx2.TransportError as error:
                broken += 1
                if broken == 1 and isinstance(error, httpx2.RemoteProtocolError | httpx2.WriteError | httpx2.ReadError):
                    wait = 0.0  # A connection that was kept is closed by now.
            except httpx2.HTTPError:
                return False
            else:
                if answer.is_success:
                    return True
                if answer.status_code not in _TRANSIENT:
                    return False
                said = answer.headers.get("retry-after", "")
                wait = max(float(said), pause / 10) if said.isascii() and said.isdigit() else wait
            if monotonic() + wait > until or self._closing.wait(wait):
                return False
            pause *= 2


def _tls(environment: Mapping[str, str]) -> ssl.SSLContext | bool:
    """As every exporter of OTLP has it from its environment: an authority of one's own, a certificate for oneself."""

    def named(what: str) -> str | None:
        return next((found for prefix in _ENVIRONMENT if (found := environment.get(prefix + what))), None)

    authority, certificate = named("CERTIFICATE"), named("CLIENT_CERTIFICATE")
    if authority is None and certificate is None:
        return True
    context = ssl.create_default_context(cafile=authority)
    if certificate is not None:
        context.load_cert_chain(certificate, named("CLIENT_KEY"))
    return context
