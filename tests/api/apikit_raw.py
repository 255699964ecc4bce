"""HTTP without a client's manners: requests exactly as they are written here."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class RawAnswer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error inside the envelope, which must be one."""
        envelope = self.json
        assert set(envelope) == {"type", "error", "request_id"}
        assert envelope["type"] == "error"
        assert envelope["request_id"] == self.headers["request-id"]
        assert self.headers["content-type"] == "application/json"
        error: dict[str, Any] = envelope["error"]
        assert error["message"]
        return error


def send(
    base_url: str,
    verb: str,
    path: str,
    *,
    key: str | None = None,
    body: bytes | Iterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> RawAnswer:
    """One request on a connection of its own. An iterator as body is sent chunked."""
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=60)
    sent = dict(headers or {})
    if key is not None:
        sent.setdefault("authorization", f"Bearer {key}")
    if body is not None:
        sent.setdefault("content-type", "application/json")
    try:
        connection.request(
            verb, path, body=body, headers=sent, encode_chunked=not isinstance(body, (bytes, type(None)))
        )
        answer = connection.getresponse()
        return RawAnswer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
