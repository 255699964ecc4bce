"""What may pass between a sandbox and an MCP server? Pure: messages in, what to do with them out.

A program in the sandbox can write to the road what `claude` would never write. So every message is read here, and only
what a client of tools needs goes on; a call of a tool is named, so that the gate can be asked about it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

_METHODS = frozenset(
    {"initialize", "ping", "server/discover", "subscriptions/listen", "logging/setLevel", "tools/list", "tools/call"}
)
NOT_FOUND = -32601
REFUSED = -32000
"""Code of errors that the road answers itself, in the range that JSON-RPC leaves to implementations."""


class BadMessage(ValueError):
    """Not one JSON-RPC message that every reader would read the same. The message says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message from the sandbox."""

    id: str | int | float | None
    """None for notifications, and for answers to the server."""
    method: str | None
    """None for answers to the server."""
    tool: str | None = None
    """With `tools/call`: the tool, and what it is called with."""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def may_pass(self) -> bool:
        method = self.method
        return method is None or method in _METHODS or method.startswith("notifications/")


def read(raw: bytes) -> Message:
    """Raises BadMessage."""
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_each_key_once, parse_constant=_no_constants)
    except (ValueError, RecursionError) as error:
        raise BadMessage("the body is not JSON that can be read in one way only") from error
    if not isinstance(found, dict):
        raise BadMessage("the body is not one message; send one at a time")
    id_, method = found.get("id"), found.get("method")
    if isinstance(id_, bool) or not isinstance(id_, str | int | float | None):
        raise BadMessage("the id is neither text nor a number")
    if method is None:
        return Message(None, None)
    if not isinstance(method, str):
        raise BadMessage("the method is not text")
    if method != "tools/call":
        return Message(id_, method)
    params = found.get("params")
    name, arguments = (params.get("name"), params.get("arguments")) if isinstance(params, dict) else (None, None)
    if id_ is None or not isinstance(name, str) or not isinstance(arguments, dict | None):
        raise BadMessage("a tools/call needs an id, the name of a tool, and an object of arguments")
    return Message(id_, method, name, arguments or {})


def error(id_: str | int | float | None, code: int, message: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": message}}).encode()


def answer_to(id_: str | int | float | None, text: bytes) -> dict[str, Any] | None:
    """The answer to the request `id_`, if that is what the text is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("id") == id_ and "method" not in found else None


def only_offered(answer: dict[str, Any], offers: Callable[[str], bool]) -> dict[str, Any]:
    """The answer to `tools/list`, without the tools that the model must not see."""
    result = answer.get("result")
    tools = result.get("tools") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(tools, list):
        return answer
    kept = [
        tool for tool in tools if isinstance(tool, dict) and isinstance(tool.get("name"), str) and offers(tool["name"])
    ]
    return {**answer, "result": {**result, "tools": kept}}


class Events:
    """The data of each event of a stream, as it comes. Each byte is looked at once, however small its pieces are."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._returned = False
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Of the events that are whole by now."""
        if not piece:
            return []
        if self._returned:  # a line feed now belongs to the end of the line before
            piece = piece.removeprefix(b"\n")
        self._returned = piece.endswith(b"\r")
        self._line += piece
        if b"\n" not in piece and b"\r" not in piece:
            return []
        *lines, rest = bytes(self._line).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line = bytearray(rest)
        return [event for line in lines if (event := self._take(line)) is not None]

    def end(self) -> list[bytes]:
        """Of the one that the end of the stream has cut off behind its data, too."""
        return self.feed(b"\n\n")

    def _take(self, line: bytes) -> bytes | None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        if line or not self._data:
            return None
        event, self._data = b"\n".join(self._data), []
        return event


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constants(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
