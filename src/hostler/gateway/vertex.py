"""How does Google's Vertex AI speak the Messages API? `rawPredict` and `streamRawPredict` of Anthropic's models there.

The model is in the path and the version in the body; the rest is the Messages API itself, its streams included. Errors
of Google's own, such as those about quotas and permissions, become the Messages API's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from hostler.engine.model_port import Target
from hostler.gateway import google
from hostler.gateway.body import dump
from hostler.gateway.cloud import Dialect, ErrorsTranslated, envelope, text_of, vet_model
from hostler.gateway.http1 import COUNT_TOKENS, Headers, render_head
from hostler.gateway.renewal import Renewal
from hostler.gateway.upstream import AnswerSink, Upstream, UpstreamConnection, UpstreamLimits, UpstreamPool

VERSION = "vertex-2023-10-16"
BETAS = frozenset(
    {
        "compact-2026-01-12",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        "context-management-2025-06-27",
        "interleaved-thinking-2025-05-14",
        "tool-search-tool-2025-10-19",
        "web-search-2025-03-05",
    }
)
"""What Vertex takes in `anthropic-beta`. Any other makes it refuse the whole request ("Unexpected value(s)")."""

_MULTI_REGIONS = ("us", "eu")


def endpoint(region: str) -> str:
    """The host for a region, for `global`, or for a multi-region (`us`, `eu`)."""
    if region == "global":
        return "https://aiplatform.googleapis.com/v1"
    if region in _MULTI_REGIONS:
        return f"https://aiplatform.{region}.rep.googleapis.com/v1"
    return f"https://{region}-aiplatform.googleapis.com/v1"


class VertexChannel:
    """Implements `Channel`."""

    def __init__(
        self,
        name: str,
        project: str,
        region: str,
        *,
        base_url: str = "",
        ca_file: str | None = None,
        betas: Collection[str] = BETAS,
        limits: UpstreamLimits | None = None,
    ) -> None:
        """base_url: empty is the region's own endpoint; its path comes before `/projects`."""
        self._pool = UpstreamPool(
            Upstream(base_url or endpoint(region), "", "bearer", ca_file), limits or UpstreamLimits()
        )
        models = f"/projects/{quote(project, safe='')}/locations/{quote(region, safe='')}/publishers/anthropic/models/"
        self._models = self._pool.prefix + models
        self._chain = google.Chain()
        self._token = Renewal(name, self._chain.look_up, google.age_of)
        self._dialect = Dialect(name, VERSION, betas)

    @property
    def limits(self) -> UpstreamLimits:
        return self._pool.limits

    async def prepare(
        self, target: Target, path: bytes, headers: Headers, body: bytes, fields: Mapping[str, Any]
    ) -> tuple[bytes, bytes]:
        model = vet_model(target.spelled)
        said = {**fields, "anthropic_version": self._dialect.version(headers)}
        if path.partition(b"?")[0] == COUNT_TOKENS:
            said["model"] = model
            where = "count-tokens:rawPredict"
        else:
            del said["model"]
            streams = fields.get("stream") is True
            where = f"{quote(model, safe='@')}:{'streamRawPredict' if streams else 'rawPredict'}"
        payload = dump(said)
        token = await self._token.get()
        own: Headers = [
            (b"host", self._pool.authority),
            (b"authorization", b"Bearer " + token.value.encode()),
            (b"accept", b"application/json"),
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"content-length", b"%d" % len(payload)),
        ]
        betas = self._dialect.betas(headers)
        if betas:
            own.append((b"anthropic-beta", ",".join(betas).encode()))
        return render_head(b"POST " + (self._models + where).encode() + b" HTTP/1.1", own), payload

    async def take(self, *, fresh: bool) -> UpstreamConnection:
        return await self._pool.take(fresh=fresh)

    def reading(self, sink: AnswerSink, *, stream: bool) -> AnswerSink:
        token = self._token.held
        return VertexReading(sink, partial(self._token.worked, token), partial(self._denied, token))

    async def probe(self) -> None:
        await self._token.get()
        await self._pool.probe()

    async def close(self) -> None:
        await self._token.close()
        await self._pool.close()

    def _denied(self, token: Any) -> bool:
        if token is self._token.held:
            self._chain.forget()
        return self._token.denied(token)


class VertexReading(ErrorsTranslated):
    """The AnswerSink that turns Google's errors into those of the Messages API."""

    def __init__(self, sink: AnswerSink, worked: Callable[[], None], denied: Callable[[], bool]) -> None:
        """worked, denied: told of what Google thinks of the token; `denied` returns whether a new one may be better."""
        super().__init__(sink)
        self._worked = worked
        self._denied = denied

    def good_head(self, status: int, headers: Headers) -> None:
        self._worked()
        self.sink.answer_head(status, headers)

    def translate(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, Headers, bytes]:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and value:
            value = value[0]
        error = value.get("error") if isinstance(value, dict) else None
        if isinstance(value, dict) and value.get("type") == "error" and isinstance(error, dict):
            return status, [], body  # The model's own, in the envelope already.
        error = error if isinstance(error, dict) else {}
        message = text_of(error.get("message"), "Vertex AI refused the request.")
        more: Headers = []
        wait = _retry_delay(error.get("details"))
        if wait is not None and b"retry-after" not in headers:
            more.append((b"retry-after", wait))
        if status == 401 and self._denied():
            status, message = 503, "The token for the model had run out; there is a new one for the next attempt."
        return status, more, envelope(status, message, headers.get(b"request-id", b""))


def _retry_delay(details: Any) -> bytes | None:
    """Seconds that Google asks to wait (`google.rpc.RetryInfo`)."""
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                return b"%d" % max(0, -int(-float(delay[:-1]) // 1))
            except (ValueError, OverflowError):
                continue
    return None
