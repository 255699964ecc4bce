"""How is a request's body read? Bounded in bytes, time and depth, as UTF-8 JSON, or refused with what to change."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Final, NoReturn

from starlette.requests import ClientDisconnect, Request

from hostler.domain.errors import InvalidRequest

MAX_DEPTH: Final = 100
READ_SECONDS: Final = 60.0
"""A client that sends slower than this holds a connection for nothing."""


class BodyTimeout(Exception):
    """The body did not arrive in time."""


async def json_object(request: Request) -> dict[str, Any]:
    """The body as an object. No body is the empty object, as clients send for archive and the like.

    Raises InvalidRequest, TooLarge (by the transport, while reading), BodyTimeout, ClientDisconnect.
    """
    try:
        async with asyncio.timeout(READ_SECONDS):
            raw = await request.body()
    except TimeoutError:
        raise BodyTimeout from None
    if not raw.strip():
        return {}
    # E3: a web page can send text/plain and forms anywhere without asking first; JSON it can't.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise InvalidRequest(f"content-type is {kind[:100] or 'missing'!r}; send application/json")
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise InvalidRequest("the request body must be a JSON object")
    return value


async def no_fields(request: Request) -> None:
    """For requests whose body says nothing: whatever field is there is refused, rather than ignored."""
    fields = await json_object(request)
    if fields:
        raise InvalidRequest(f"{next(iter(fields))}: is not a field of this request; remove it")


def parse_json(raw: bytes) -> Any:
    """The value of `raw`. Raises InvalidRequest for what is not UTF-8 JSON, or nested deeper than 100."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the request body is not UTF-8 (byte {error.start})") from None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the request body is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        # Integers of thousands of digits: the interpreter refuses them before they cost quadratic time.
        raise _too_large_number() from None
    _check(value, escapes=b"\\u" in raw)
    return value


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"the request body holds {name}, which is not JSON")


def _too_large_number() -> InvalidRequest:
    return InvalidRequest("the request body holds a number that is too large")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the request body is nested deeper than {MAX_DEPTH} levels")


def _check(value: object, *, escapes: bool) -> None:
    """Raises for deep nesting, infinite numbers, and halves of surrogate pairs, which only escapes can bring."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                if escapes:
                    below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise _too_large_number()  # 1e999 reads as infinity, which no JSON can say back
            elif escapes and isinstance(item, str) and not item.isascii():
                try:
                    item.encode()
                except UnicodeEncodeError:
                    raise InvalidRequest(
                        "the request body holds half of a surrogate pair; send whole characters"
                    ) from None
        if not below:
            return
        level = below
    raise _too_deep()


__all__ = ["BodyTimeout", "ClientDisconnect", "json_object", "no_fields", "parse_json"]
