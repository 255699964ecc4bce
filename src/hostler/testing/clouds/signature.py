"""Is a request signed as AWS wants it, with the keys that it claims? Signature Version 4, from what was received.

Written from AWS's description, without AWS's code: what signs is not what checks.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/,]+)/(?P<day>\d{8})/(?P<region>[^/,]+)/(?P<service>[^/,]+)/aws4_request, "
    r"SignedHeaders=(?P<headers>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)
_MUST_BE_SIGNED = {"host", "x-amz-date"}
_MOST_SECONDS_OFF = 300


class WrongSignature(Exception):
    """The message says what is wrong."""


def claimed_key(headers: Mapping[str, str]) -> str:
    """The id of the access key that a request claims. Raises WrongSignature."""
    return _parts(headers)["key"]


def check(
    method: str, target: str, headers: Mapping[str, str], body: bytes, *, secret: str, region: str, service: str,
    now: datetime | None = None,
) -> None:  # fmt: skip
    """Raises WrongSignature. `target` and `headers` (names in lower case) as they came over the wire."""
    parts = _parts(headers)
    if (parts["region"], parts["service"]) != (region, service):
        raise WrongSignature(f"signed for {parts['service']} in {parts['region']}, not for {service} in {region}")
    signed = parts["headers"].split(";")
    if signed != sorted(set(signed)) or not set(signed) >= _MUST_BE_SIGNED:
        raise WrongSignature("the signed headers are not sorted, or lack host or x-amz-date")
    if "x-amz-security-token" in headers and "x-amz-security-token" not in signed:
        raise WrongSignature("the session token is not signed")
    at = headers.get("x-amz-date", "")
    when = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs(((now or datetime.now(UTC)) - when).total_seconds()) > _MOST_SECONDS_OFF:  # noqa: TID251
        raise WrongSignature("the signature is too old or of the future")
    path, _, query = target.partition("?")
    canonical = "\n".join(
        (
            method,
            quote(path, safe="/~-_."),  # What came is encoded once; the canonical form encodes that again.
            "&".join(sorted(query.split("&"))) if query else "",
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed),
            "",
            parts["headers"],
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{parts['day']}/{region}/{service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for piece in (parts["day"], region, service, "aws4_request"):
        key = hmac.new(key, piece.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest(), parts["signature"]):
        raise WrongSignature("the signature does not match the request")


def _parts(headers: Mapping[str, str]) -> dict[str, str]:
    found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if found is None:
        raise WrongSignature("there is no signature")
    return found.groupdict()
