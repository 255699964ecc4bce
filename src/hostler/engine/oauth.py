"""How is an access token renewed? One exchange of a refresh token at a token endpoint (RFC 6749, section 6)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

from hostler.engine.ports import Outgoing, OutgoingAnswer, OutgoingFailed, OutgoingRequest

EXCHANGE_SECONDS: Final = 15.0
ANSWER_BYTES: Final = 64 << 10
_LONGEST_LIFE: Final = 10 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class Grant:
    """What the token endpoint gave."""

    access_token: str = field(repr=False)
    lives_seconds: float | None
    """From the moment of asking. None: it didn't say."""
    refresh_token: str | None = field(repr=False)
    """A new one, in place of the one that was used."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It answered with something else than a token that can be used."""

    answer: OutgoingAnswer


@dataclass(frozen=True, slots=True)
class Unreached:
    """It didn't answer. `reason` is one of `OutgoingFailed`."""

    reason: str
    message: str


async def exchange(
    outgoing: Outgoing, refresh: Mapping[str, Any], secrets: Mapping[str, str]
) -> Grant | Refused | Unreached:
    """One attempt. `refresh` is the public half of a credential's refresh configuration."""
    form = {"grant_type": "refresh_token", "refresh_token": secrets["refresh_token"]}
    for name in ("scope", "resource"):
        if refresh.get(name):
            form[name] = refresh[name]
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    match refresh["token_endpoint_auth"]["type"]:
        case "client_secret_basic":
            headers["Authorization"] = basic(refresh["client_id"], secrets["client_secret"])
        case "client_secret_post":
            form |= {"client_id": refresh["client_id"], "client_secret": secrets["client_secret"]}
        case _:
            form["client_id"] = refresh["client_id"]
    request = OutgoingRequest("POST", refresh["token_endpoint"], headers, urlencode(form).encode())
    try:
        answer = await outgoing.send(request, seconds=EXCHANGE_SECONDS, limit_bytes=ANSWER_BYTES)
    except OutgoingFailed as failed:
        return Unreached(failed.reason, str(failed))
    return _grant(answer) or Refused(answer)


def basic(client_id: str, client_secret: str) -> str:
    """The Authorization header of a client. Both halves are form-encoded first (RFC 6749, 2.3.1)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _grant(answer: OutgoingAnswer) -> Grant | None:
    if not 200 <= answer.status < 300 or answer.truncated:
        return None
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    token, kind, fresh = said.get("access_token"), said.get("token_type", "bearer"), said.get("refresh_token")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        return None
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return None
    return Grant(token, _seconds(said.get("expires_in")), fresh if isinstance(fresh, str) and fresh else None)


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)  # Some servers quote it.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST_LIFE:
        return None
    return float(value)
