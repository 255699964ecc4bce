"""How does Amazon Bedrock speak the Messages API? `InvokeModel` of the endpoint `bedrock-runtime`.

The model is in the path, version and betas are in the body, a stream is an AWS event stream whose chunks hold the
events, and errors are AWS's. A stream whose first message is an exception becomes an answer with a status: nothing was
said yet, so it can be tried again.
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from hostler.engine.model_port import Target
from hostler.gateway import aws
from hostler.gateway.body import dump
from hostler.gateway.cloud import Dialect, ErrorsTranslated, envelope, kind_of, replaced, text_of, vet_model
from hostler.gateway.errors import Refusal, error_event
from hostler.gateway.event_stream import BadEventStream, EventStreamFramer, Message
from hostler.gateway.http1 import COUNT_TOKENS, Headers, render_head
from hostler.gateway.renewal import Renewal
from hostler.gateway.sse import render_event
from hostler.gateway.upstream import AnswerSink, Upstream, UpstreamConnection, UpstreamLimits, UpstreamPool

VERSION = "bedrock-2023-05-31"
BETAS = frozenset(
    {
        "compact-2026-01-12",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        "context-1m-2025-08-07",
        "context-management-2025-06-27",
        "effort-2025-11-24",
        "interleaved-thinking-2025-05-14",
        "token-efficient-tools-2025-02-19",
        "tool-examples-2025-10-29",
        "tool-search-tool-2025-10-19",
    }
)
"""What AWS documents for Claude. Any other makes it refuse the whole request ("invalid beta flag")."""

_SIGNED_IN_A_THREAD = 1 << 20
"""Bytes of a body from which on its checksum would hold up everybody else."""
_PROFILE = re.compile(r"[a-z-]+\.(anthropic\..+)\Z")

_STATUSES: Mapping[str, int] = {
    "accessdenied": 403,
    "expiredtoken": 401,
    "incompletesignature": 401,
    "internalserver": 500,
    "invalidclienttokenid": 401,
    "invalidsignature": 401,
    "missingauthenticationtoken": 401,
    "modelerror": 500,
    "modelnotready": 529,
    "modelstreamerror": 500,
    "modeltimeout": 504,
    "resourcenotfound": 404,
    "servicequotaexceeded": 429,
    "serviceunavailable": 503,
    "throttling": 429,
    "unrecognizedclient": 401,
    "validation": 400,
}
"""By the name of the exception, without its end."""
_RUN_OUT = frozenset({"expiredtoken", "invalidclienttokenid", "unrecognizedclient"})
"""What AWS says of keys that were good and aren't any more."""


def endpoint(region: str) -> str:
    return f"https://bedrock-runtime.{region}.{'amazonaws.com.cn' if region.startswith('cn-') else 'amazonaws.com'}"


class BedrockChannel:
    """Implements `Channel`. With `api_key` (a Bedrock API key) nothing is signed."""

    def __init__(
        self,
        name: str,
        region: str,
        *,
        profile: str = "",
        api_key: str = "",
        base_url: str = "",
        ca_file: str | None = None,
        betas: Collection[str] = BETAS,
        limits: UpstreamLimits | None = None,
    ) -> None:
        """base_url: empty is the region's own endpoint."""
        self._region = region
        self._pool = UpstreamPool(
            Upstream(base_url or endpoint(region), api_key, "bearer", ca_file), limits or UpstreamLimits()
        )
        self._api_key = api_key
        self._chain = aws.Chain(profile)
        self._keys = Renewal(name, self._chain.look_up, aws.age_of)
        self._dialect = Dialect(name, VERSION, betas)

    @property
    def limits(self) -> UpstreamLimits:
        return self._pool.limits

    async def prepare(
        self, target: Target, path: bytes, headers: Headers, body: bytes, fields: Mapping[str, Any]
    ) -> tuple[bytes, bytes]:
        model = vet_model(target.spelled)
        said = {name: value for name, value in fields.items() if name not in ("model", "stream")}
        said["anthropic_version"] = self._dialect.version(headers)
        betas = self._dialect.betas(headers)
        if betas:
            said["anthropic_beta"] = betas
        if path.partition(b"?")[0] == COUNT_TOKENS:
            model, action, payload = _counted(model), "count-tokens", _to_count(said)
        else:
            action = "invoke-with-response-stream" if fields.get("stream") is True else "invoke"
            payload = dump(said)
        where = f"{self._pool.prefix}/model/{quote(model, safe=':')}/{action}"
        own: Headers = [
            (b"host", self._pool.authority),
            (b"accept", b"application/json"),
            (b"content-type", b"application/json"),
        ]
        if self._api_key:
            own.append((b"authorization", b"Bearer " + self._api_key.encode()))
        else:
            own = await self._sign(where, own, payload)
        own += [(b"accept-encoding", b"identity"), (b"content-length", b"%d" % len(payload))]
        return render_head(b"POST " + where.encode() + b" HTTP/1.1", own), payload

    async def take(self, *, fresh: bool) -> UpstreamConnection:
        return await self._pool.take(fresh=fresh)

    def reading(self, sink: AnswerSink, *, stream: bool) -> AnswerSink:
        keys = self._keys.held
        worked, denied = partial(self._keys.worked, keys), partial(self._denied, keys)
        return BedrockReading(sink, self._pool.limits.answer_bytes, worked, denied)

    async def probe(self) -> None:
        if not self._api_key:
            await self._keys.get()
        await self._pool.probe()

    async def close(self) -> None:
        await self._keys.close()
        await self._pool.close()

    async def _sign(self, where: str, headers: Headers, payload: bytes) -> Headers:
        keys = await self._keys.get()
        url = self._pool.origin + where
        if len(payload) > _SIGNED_IN_A_THREAD:
            return await asyncio.to_thread(aws.sign, keys, self._region, url, headers, payload)
        return aws.sign(keys, self._region, url, headers, payload)

    def _denied(self, keys: Any) -> bool:
        if keys is self._keys.held:
            self._chain.forget()
        return self._keys.denied(keys)


def _counted(model: str) -> str:
    """AWS counts for models, not for the profiles that reach them."""
    found = _PROFILE.match(model)
    if found:
        return found.group(1)
    if not model.startswith("anthropic."):
        raise Refusal(501, "api_error", f"Bedrock counts no tokens for {model}.")
    return model


def _to_count(said: dict[str, Any]) -> bytes:
    said.setdefault("max_tokens", 1)
    return dump({"input": {"invokeModel": {"body": b64encode(dump(said)).decode()}}})


class BedrockReading(ErrorsTranslated):
    """The AnswerSink that turns Bedrock's answer into one of the Messages API."""

    def __init__(self, sink: AnswerSink, limit: int, worked: Callable[[], None], denied: Callable[[], bool]) -> None:
        """worked, denied: told of what AWS thinks of the keys; `denied` returns whether new ones may be better."""
        super().__init__(sink)
        self._limit = limit
        self._worked = worked
        self._denied = denied
        self._frames: EventStreamFramer | None = None
        self._waiting: tuple[int, Headers] | None = None
        self._over = False
        self._count: list[bytes] | None = None
        self._first = True

    def translate(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, Headers, bytes]:
        name = headers.get(b"x-amzn-errortype", b"").decode("latin-1")
        message, said_type = _said(body)
        return self._translated(name or said_type, message, status)

    def good_head(self, status: int, headers: Headers) -> None:
        self._worked()
        kind = dict(headers).get(b"content-type", b"").lower()
        headers = replaced(headers, self._request_id(headers))
        if kind.startswith(b"application/vnd.amazon.eventstream"):
            self._frames = EventStreamFramer(self._limit)
            self._waiting = (status, replaced(headers, [(b"content-type", b"text/event-stream; charset=utf-8")]))
        else:
            self.sink.answer_head(status, headers)

    def good_body(self, data: bytes) -> None:
        if self._over:
            return
        if self._frames is not None:
            try:
                for message in self._frames.feed(data):
                    self._take(message)
            except (BadEventStream, ValueError, RecursionError):
                self._lose()
            return
        if self._first:
            self._first = False
            self._count = [] if data.lstrip().startswith(b'{"inputTokens"') else None
        if self._count is None:
            self.sink.answer_body(data)
        else:
            self._count.append(data)

    def good_end(self) -> None:
        if self._over:
            return
        if self._frames is not None and (self._frames.unfinished or self._waiting is not None):
            self._lose()
            return
        if self._count is not None:
            self.sink.answer_body(_count_of(b"".join(self._count)))
        self.sink.answer_end()

    def answer_lost(self) -> None:
        if not self._over:
            self._begin()
            super().answer_lost()

    # ------------------------------------------------------------------------------------------------- the stream

    def _take(self, message: Message) -> None:
        if self._over:
            return
        kind = message.headers.get(":message-type", "event")
        if kind != "event":
            name = message.headers.get(":exception-type") or message.headers.get(":error-code", "")
            text = message.headers.get(":error-message") or _said(message.payload)[0]
            self._over = True
            status, more, body = self._translated(name, text, 500)
            if self._waiting is not None:
                self._waiting = None
                self.say_error(status, more, body)
            else:
                self.sink.answer_body(error_event(kind_of(status), text))
                self.sink.answer_flush()
                self.sink.answer_end()
        elif message.headers.get(":event-type") == "chunk":
            event, data = _event(message.payload)
            self._begin()
            self.sink.answer_body(render_event(event, data))

    def _begin(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self.sink.answer_head(*waiting)

    def _lose(self) -> None:
        """What came can't be trusted, so what follows isn't read."""
        self._begin()
        self._over = True
        self.sink.answer_lost()

    def _translated(self, name: str, message: str, status: int) -> tuple[int, Headers, bytes]:
        known = re.sub(r"(exception|error|fault)\Z", "", name.partition(":")[0].rpartition("#")[2].lower())
        status = _STATUSES.get(known) or _STATUSES.get(f"{known}error") or status
        if known in _RUN_OUT and self._denied():
            status, message = 503, "The credentials for the model had run out; there are new ones for the next attempt."
        request_id = self._request_id(self._headers)
        return status, request_id, envelope(status, message, dict(request_id).get(b"request-id", b""))

    def _request_id(self, headers: Headers) -> Headers:
        found = dict(headers).get(b"x-amzn-requestid")
        return [(b"request-id", found)] if found else []


def _said(body: bytes) -> tuple[str, str]:
    """Message and type of an error of AWS, which are written in several ways."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        value = {}
    message = text_of(value.get("message"), text_of(value.get("Message"), "Bedrock refused the request."))
    return message, text_of(value.get("__type"), "")


def _event(payload: bytes) -> tuple[bytes, bytes]:
    """Name and data of the event in a chunk. Raises ValueError."""
    wrapped = json.loads(payload)
    data = b64decode(wrapped["bytes"], validate=True) if isinstance(wrapped, dict) and "bytes" in wrapped else b""
    event = json.loads(data)
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ValueError("no event of the Messages API")
    if event.pop("amazon-bedrock-invocationMetrics", None) is not None or b"\n" in data:
        data = dump(event)
    return event["type"].encode(), data


def _count_of(raw: bytes) -> bytes:
    try:
        return dump({"input_tokens": json.loads(raw)["inputTokens"]})
    except (ValueError, KeyError, TypeError):
        return raw
