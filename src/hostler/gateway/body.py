"""What is in the body of a request, and how is a part of it replaced without touching the rest?

The outermost object is walked by hand (its values by the C scanner): a key given twice, wherever it is, is refused,
since the gateway and the upstream could take a different one of the two, and the place of `messages` is kept, so that
rewriting the history leaves every other byte as it came.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final, NoReturn

from hostler.gateway.errors import Refusal

MOST_VALUES: Final = 2_000_000
"""Of a body, counted as brackets and commas, also those in texts. A token of text has about one at most, and no model
reads so many. Others cost many times their bytes in memory, and keep everybody waiting for seconds."""
MOST_OUTPUT: Final = 1_000_000
"""Tokens, more than any model writes. Who asked for more would set aside all that is left of a budget, or of a rate
limit, and others that share it would wait."""
_SPACE = re.compile(r"[ \t\n\r]*")


def _no_constants(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


_scan = json.JSONDecoder(parse_constant=_no_constants, object_pairs_hook=_once).scan_once  # type: ignore[attr-defined]


@dataclass(slots=True)
class MessagesBody:
    """A parsed request for a message."""

    text: str
    fields: dict[str, Any]
    spans: dict[str, tuple[int, int]]

    @property
    def model(self) -> str:
        return str(self.fields["model"])

    @property
    def stream(self) -> bool:
        return self.fields.get("stream") is True

    @property
    def messages(self) -> list[Any]:
        value = self.fields.get("messages")
        return value if isinstance(value, list) else []

    def rewritten(self, changes: Mapping[str, Any]) -> bytes:
        """The body with other values for some of its fields; all else is as it came, byte for byte.

        A field that it doesn't have is put in front.
        """
        pieces: list[bytes] = []
        at = 0
        for name in sorted((name for name in changes if name in self.spans), key=self.spans.__getitem__):
            start, end = self.spans[name]
            pieces += [encode(self.text[at:start]), dump(changes[name])]
            at = end
        rest = b"".join((*pieces, encode(self.text[at:])))
        new = {name: value for name, value in changes.items() if name not in self.spans}
        if not new:
            return rest
        brace = rest.index(b"{") + 1
        return rest[:brace] + dump(new)[1:-1] + b"," + rest[brace:]


def parse(raw: bytes) -> MessagesBody:
    """Raises Refusal: 400 when `raw` isn't one JSON object with a model, each key once; 413 for too many values."""
    if len(raw) > MOST_VALUES and sum(map(raw.count, (b"[", b"{", b","))) > MOST_VALUES:
        raise Refusal(413, "request_too_large", f"The body has too many values: send fewer than {MOST_VALUES:,}.")
    try:
        text = raw.decode()
        fields, spans = _walk(text)
    except (ValueError, StopIteration, IndexError, RecursionError) as error:
        raise Refusal(
            400, "invalid_request_error", "The body is not one JSON object in which each key stands once."
        ) from error
    if not isinstance(fields.get("model"), str):
        raise Refusal(400, "invalid_request_error", "model: Field required")
    most = fields.get("max_tokens")
    if isinstance(most, int) and most > MOST_OUTPUT:
        raise Refusal(
            400, "invalid_request_error", f"max_tokens: ask for {MOST_OUTPUT:,} at most; no model writes more."
        )
    return MessagesBody(text, fields, spans)


_REACHING_TOOLS = ("web_fetch", "code_execution", "mcp_")
"""Beginnings of the types of tools that the model's API runs itself, and that reach what the caller names."""


def reaches_outside(body: MessagesBody) -> str | None:
    """Attack A8: what in a request makes the model's API connect to where the sandbox itself may not, or None.

    Web searches stay: they reach a search engine, and an agent may have them.
    """
    fields = {name.casefold(): value for name, value in body.fields.items()}  # as in `_walk`
    for field in ("mcp_servers", "container"):
        if fields.get(field):
            return f"The field {field}"
    tools = fields.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        for name, kind in tool.items() if isinstance(tool, dict) else ():
            if name.casefold() == "type" and isinstance(kind, str) and kind.casefold().startswith(_REACHING_TOOLS):
                return f"A tool of type {kind[:64]}"
    return None


def _walk(text: str) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    fields: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()

    def skip(at: int) -> int:
        found = _SPACE.match(text, at)
        return found.end() if found else at

    def expect(at: int, what: str) -> int:
        if text[at] != what:
            raise ValueError(what)
        return at + 1

    at = skip(expect(skip(0), "{"))
    while text[at] != "}":
        if fields:
            at = skip(expect(at, ","))
        key, at = scanstring(text, expect(at, '"'), True)
        folded = key.casefold()  # Some upstreams make no difference, and take the last: `Model` for `model`.
        if folded in seen:
            raise ValueError("a key is given twice")
        seen.add(folded)
        start = skip(expect(skip(at), ":"))
        fields[key], end = _scan(text, start)
        spans[key] = (start, end)
        at = skip(end)
    if skip(at + 1) != len(text):
        raise ValueError("something follows the object")
    return fields, spans


def dump(value: object) -> bytes:
    """Compact JSON; the same value gives the same bytes."""
    return encode(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, cut off by some tool's output: JSON can say it only as an escape.
        return text.encode("utf-8", "surrogate_escape_json")


def _escape_surrogates(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    escaped = "".join(f"\\u{ord(char):04x}" for char in error.object[error.start : error.end])
    return escaped, error.end


codecs.register_error("surrogate_escape_json", _escape_surrogates)
