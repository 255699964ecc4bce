"""What is a page token? The kind of list, its order and the place of a row, readable by nobody else by agreement.

Not secret and not signed: a token says where a page begins, never whose rows are shown. It is checked strictly, so that
a token of another list, another order or another version of this server is refused instead of misread.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from hostler.domain.clock import parse_rfc3339, rfc3339
from hostler.domain.errors import InvalidRequest
from hostler.domain.sessions import Order, Position, TimeRange

Direction = Literal["next", "prev"]
_VERSION: Final = 1
MAX_LENGTH: Final = 512
MAX_PATH_LENGTH: Final = 2048
"""Of a token that holds the path of a memory."""

MAX_KEYS_LENGTH: Final = 8192
"""Of a token that holds the keys of a group, such as names of models."""


@dataclass(frozen=True, slots=True)
class Cursor:
    position: Position
    direction: Direction


def row_cursor(kind: str, order: Order, position: Position, direction: Direction = "next") -> str:
    return _encode([_VERSION, kind, order, direction, position.created_at, position.id])


def parse_row_cursor(
    token: str | None, kind: str, order: Order, *, created_at: TimeRange | None = None, backwards: bool = False
) -> Cursor | None:
    """The place that `token` names; None without one. Raises InvalidRequest when it doesn't belong to this list."""
    if token is None:
        return None
    match _decode(token):
        case [1, str(of), str(ordered), ("next" | "prev") as direction, str(moment), str(row)] if of == kind:
            _same_order(ordered, order)
            position = Position(_wire_moment(moment), row)
            if (direction == "prev" and not backwards) or not row or len(row) > 128 or "\x00" in row:
                raise _invalid()
            if created_at is not None:
                _inside(position, created_at)
            return Cursor(position, direction)
        case _:
            raise _invalid()


def number_cursor(kind: str, order: Order, number: int) -> str:
    return _encode([_VERSION, kind, order, number])


def parse_number_cursor(token: str | None, kind: str, order: Order) -> int | None:
    """The number that `token` holds (a sequence, a version); None without one."""
    if token is None:
        return None
    match _decode(token):
        case [1, str(of), str(ordered), int(number)] if of == kind and not isinstance(number, bool):
            _same_order(ordered, order)
            if not 0 <= number < 2**63:
                raise _invalid()
            return number
        case _:
            raise _invalid()


def path_cursor(kind: str, path: str) -> str:
    return _encode([_VERSION, kind, "asc", base64.b64encode(path.encode()).decode()])


def parse_path_cursor(token: str | None, kind: str) -> str | None:
    """The path that `token` holds, of at most 1,025 bytes; None without one. Its list has one order only."""
    if token is None:
        return None
    match _decode(token, longest=MAX_PATH_LENGTH):
        case [1, str(of), "asc", str(coded)] if of == kind:
            try:
                path = base64.b64decode(coded, validate=True).decode()
            except ValueError:
                raise _invalid() from None
            if not path.startswith("/") or len(path) < 2 or len(path.encode()) > 1025 or "\x00" in path:
                raise _invalid()
            return path
        case _:
            raise _invalid()


def keys_cursor(kind: str, keys: Sequence[str]) -> str:
    return _encode([_VERSION, kind, "asc", list(keys)])


def parse_keys_cursor(token: str | None, kind: str, count: int) -> tuple[str, ...] | None:
    """The `count` keys that `token` holds; None without one. Its list has one order only."""
    if token is None:
        return None
    match _decode(token, longest=MAX_KEYS_LENGTH):
        case [1, str(of), "asc", list(keys)] if of == kind and len(keys) == count:
            if not all(isinstance(key, str) and "\x00" not in key for key in keys):
                raise _invalid()
            return tuple(keys)
        case _:
            raise _invalid()


def _encode(parts: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _decode(token: str, *, longest: int = MAX_LENGTH) -> Any:
    if len(token) > longest:
        raise _invalid()
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        return json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        raise _invalid() from None


def _wire_moment(text: str) -> str:
    try:
        if rfc3339(parse_rfc3339(text)) == text:
            return text
    except (ValueError, OverflowError):
        pass
    raise _invalid()


def _same_order(of: str, order: Order) -> None:
    if of != order:
        raise InvalidRequest(f"page: belongs to a list in another order; keep order={of[:10]}, or start without a page")


def _inside(position: Position, bounds: TimeRange) -> None:
    at = parse_rfc3339(position.created_at)
    if (
        (bounds.gt is not None and at <= bounds.gt)
        or (bounds.gte is not None and at < bounds.gte)
        or (bounds.lt is not None and at >= bounds.lt)
        or (bounds.lte is not None and at > bounds.lte)
    ):
        raise InvalidRequest("page: lies outside the created_at filter; keep the filter, or start without a page")


def _invalid() -> InvalidRequest:
    return InvalidRequest("page: is not a page token of this list; pass next_page of the previous answer unchanged")
