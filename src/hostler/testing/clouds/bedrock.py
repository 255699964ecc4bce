"""A rehearsed Amazon Bedrock (`bedrock-runtime`): signatures are checked, streams are AWS event streams."""

from __future__ import annotations

import json
import re
import secrets
import struct
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

from hostler.testing.clouds.front import Front, Refused, events, object_of, without_its_beta
from hostler.testing.clouds.signature import WrongSignature, check, claimed_key
from hostler.testing.rehearsal.http import Connection, Request

REGION = "eu-central-1"
_PATH = re.compile(r"/model/(?P<model>[^/]+(?:/[^/]+)*)/(?P<action>invoke|invoke-with-response-stream|count-tokens)")
_VERSION = "bedrock-2023-05-31"
_BETAS = frozenset({"interleaved-thinking-2025-05-14", "effort-2025-11-24"})
_NAMES = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    413: "ValidationException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    529: "ServiceUnavailableException",
}
_IN_STREAMS = {
    "rate_limit_error": "throttlingException",
    "overloaded_error": "serviceUnavailableException",
    "invalid_request_error": "validationException",
}


class BedrockFront(Front):
    """Set `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`) to keys made by `new_keys`; or
    `AWS_CONTAINER_CREDENTIALS_FULL_URI` to `credentials_url`, where new keys are given out at each request.
    """

    def __init__(self, model_url: str, *, region: str = REGION, api_key: str = "") -> None:
        """api_key: a key of Bedrock that is taken in place of a signature."""
        super().__init__(model_url)
        self.region = region
        self._api_key = api_key
        self._keys: dict[str, tuple[str, str]] = {}
        self._ended: set[str] = set()
        self.lifetime = 3600.0
        """Seconds that the keys of `credentials_url` live."""

    @property
    def credentials_url(self) -> str:
        return f"{self.url}/credentials"

    def new_keys(self, *, session: bool = True) -> tuple[str, str, str]:
        """Id of an access key, its secret, and a session token (empty without `session`)."""
        key, secret = f"ASIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)
        token = secrets.token_urlsafe(60) if session else ""
        self._keys[key] = (secret, token)
        return key, secret, token

    def end_keys(self) -> None:
        """All keys that were given out have run out."""
        self._ended |= set(self._keys)

    def answer_own(self, request: Request, connection: Connection) -> bool:
        if (request.method, request.path) != ("GET", "/credentials"):
            return False
        key, secret, token = self.new_keys()
        ends = datetime.now(UTC) + timedelta(seconds=self.lifetime)  # noqa: TID251
        given = {"AccessKeyId": key, "SecretAccessKey": secret, "Token": token}
        connection.respond(200, json.dumps({**given, "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode())
        return True

    async def answer(self, request: Request, connection: Connection) -> None:
        self._authenticate(request)
        found = _PATH.fullmatch(request.path)
        if found is None:
            raise Refused(404, "UnknownOperationException", f"There is no {request.path} here.")
        body = object_of(request.body)
        if found["action"] == "count-tokens":
            if not found["model"].startswith("anthropic."):
                raise Refused(400, "ValidationException", "The provided model doesn't support counting tokens.")
            body = object_of(b64decode(body["input"]["invokeModel"]["body"]))
        betas = _vetted(body)
        asked = {**body, "model": _ours(found["model"])}
        if found["action"] == "count-tokens":
            del asked["max_tokens"]
            async with self.asked("/v1/messages/count_tokens", asked, betas) as response:
                raw = await response.aread()
                if response.status_code != 200:
                    raise _as_refused(response.status_code, raw)
                self._whole(connection, json.dumps({"inputTokens": json.loads(raw)["input_tokens"]}).encode())
            return
        asked["stream"] = found["action"] != "invoke"
        async with self.asked("/v1/messages", asked, betas) as response:
            if response.status_code != 200:
                raise _as_refused(response.status_code, await response.aread())
            if not asked["stream"]:
                self._whole(connection, await response.aread())
                return
            head = {"content-type": "application/vnd.amazon.eventstream", "x-amzn-requestid": _request_id()}
            connection.start(200, head)
            async for name, data in events(response):
                connection.send(_frame(name, data))
                await connection.drain()
            connection.finish()

    def say_no(self, refused: Refused, connection: Connection) -> None:
        headers = {"x-amzn-errortype": f"{refused.name}:http://internal.amazon.com/", "x-amzn-requestid": _request_id()}
        connection.respond(refused.status, json.dumps({"message": str(refused)}).encode(), headers)

    def _whole(self, connection: Connection, body: bytes) -> None:
        connection.respond(200, body, {"x-amzn-requestid": _request_id()})

    def _authenticate(self, request: Request) -> None:
        if self._api_key and request.headers.get("authorization") == f"Bearer {self._api_key}":
            return
        try:
            key = claimed_key(request.headers)
            if key not in self._keys:
                raise Refused(403, "UnrecognizedClientException", "The security token in the request is invalid.")
            secret, token = self._keys[key]
            if request.headers.get("x-amz-security-token", "") != token:
                raise Refused(403, "UnrecognizedClientException", "The security token in the request is invalid.")
            check(
                request.method,
                request.target,
                request.headers,
                request.body,
                secret=secret,
                region=self.region,
                service="bedrock",
            )
        except WrongSignature as wrong:
            raise Refused(403, "InvalidSignatureException", str(wrong)) from wrong
        if key in self._ended:
            raise Refused(403, "ExpiredTokenException", "The security token included in the request is expired")


def _vetted(body: dict[str, Any]) -> list[str]:
    """The betas of a body, which is then one of the Messages API. Raises Refused."""
    if body.pop("anthropic_version", None) != _VERSION:
        raise Refused(400, "ValidationException", "anthropic_version: Field required")
    extra = next((name for name in ("model", "stream", "betas") if name in body), None)
    if extra is not None:
        raise Refused(400, "ValidationException", f"{extra}: Extra inputs are not permitted")
    if "max_tokens" not in body:
        raise Refused(400, "ValidationException", "max_tokens: Field required")
    betas = body.pop("anthropic_beta", [])
    if not isinstance(betas, list) or not set(betas) <= _BETAS:
        raise Refused(400, "ValidationException", "invalid beta flag")
    without_its_beta(body, betas)
    return betas


def _ours(model: str) -> str:
    """The Messages API's name for one of Bedrock's."""
    return re.sub(r"-v\d(:\d)?\Z", "", model.rpartition("anthropic.")[2])


def _as_refused(status: int, raw: bytes) -> Refused:
    message = json.loads(raw)["error"]["message"]
    name = _NAMES.get(status, "InternalServerException" if status >= 500 else "ValidationException")
    return Refused(503 if status == 529 else status, name, message)


def _request_id() -> str:
    raw = secrets.token_hex(16)
    return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"


def _frame(name: str, data: str) -> bytes:
    if name == "error":
        error = json.loads(data)["error"]
        kind = _IN_STREAMS.get(error["type"], "internalServerException")
        headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
        return frame(headers, json.dumps({"message": error["message"]}).encode())
    if name == "message_stop":
        metrics = {"inputTokenCount": 1, "outputTokenCount": 1, "invocationLatency": 1, "firstByteLatency": 1}
        data = json.dumps({**json.loads(data), "amazon-bedrock-invocationMetrics": metrics})
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    padding = "abcdefghijklmnopqrstuvwxyz"[: 1 + len(data) % 26]
    return frame(headers, json.dumps({"bytes": b64encode(data.encode()).decode(), "p": padding}).encode())


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message of an AWS event stream; all headers are text."""
    head = b""
    for name, value in headers.items():
        key, said = name.encode(), value.encode()
        head += bytes((len(key),)) + key + b"\x07" + struct.pack(">H", len(said)) + said
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack(">I", crc32(prelude)) + head + payload
    return message + struct.pack(">I", crc32(message))
