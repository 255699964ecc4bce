"""Does a request's path lie below a prefix, for every server that may read it?

Servers differ in what they make of `..`, `%2e`, `//`, `;x` and `\\`, and in how often they decode. A path is below a
prefix when it is so in every one of these readings; then none of them is a way around.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import product
from urllib.parse import unquote_to_bytes

_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9_~!$&'()*+,=:@.-]*)*/?\Z")
"""Nothing in it that two servers could read differently."""
_MOST_DECODINGS = 4


def below(target: str, prefixes: Sequence[str]) -> bool:
    """Whether the path of `target` (path and query) lies below one of the prefixes, in whole segments."""
    path = target.partition("?")[0]
    if _PLAIN.match(path):
        return _below(path, prefixes)
    readings = list(_readings(path))
    return bool(readings) and all(_below(reading, prefixes) for reading in readings)


def is_prefix(text: str) -> bool:
    """Whether `text` can be a prefix: a path that every server reads the same way."""
    return text.startswith("/") and _PLAIN.match(text) is not None


def _below(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)


def _readings(path: str) -> Iterator[str]:
    """Nothing when the path can't be read at all, so that it lies below no prefix."""
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        return
    level = path
    for _ in range(_MOST_DECODINGS):
        yield level
        for backslash, parameters, doubles in product((False, True), repeat=3):
            yield _resolved(level, backslash=backslash, parameters=parameters, doubles=doubles)
        decoded = unquote_to_bytes(level.encode("utf-8", "surrogateescape"))
        if b"\0" in decoded or re.search(rb"[\xc0\xc1\xf5-\xff]", decoded):
            yield ""  # Cut short by some, an overlong `.` or `/` for others.
            return
        text = decoded.decode("utf-8", "surrogateescape")
        if text == level:
            folded = unicodedata.normalize("NFKC", text)
            if folded != text:
                yield _resolved(folded, backslash=True, parameters=True, doubles=True)
            return
        level = text
    yield ""  # Encoded over and over: no client does that without a reason.


def _resolved(path: str, *, backslash: bool, parameters: bool, doubles: bool) -> str:
    if backslash:
        path = path.replace("\\", "/")
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if parameters:
            segment = segment.partition(";")[0]
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != "." and (segment or not doubles):
            kept.append(segment)
    return "/" + "/".join(kept)
