"""How is a JSON value kept in a text column, so that whatever came in comes out again on both databases?

PostgreSQL refuses the NUL character in text, and no database encodes half a surrogate pair. Both can arrive in a JSON
string, and a hostile agent will send them. JSON has escapes for both; text that passed through `encode` holds
neither.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hostler.domain.errors import InvalidRequest, StoreDamaged

_SURROGATE = re.compile("[\ud800-\udfff]")
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(value: object) -> str:
    """Compact JSON text of `value` that every database stores as it is. Key order is kept."""
    return storable(_encoder.encode(value))


def decode(text: str) -> Any:
    """The value that `text` holds. Raises StoreDamaged when the text is no JSON: only `encode` writes these columns."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreDamaged(f"a stored body is not JSON: {error}") from error


def storable(text: str) -> str:
    """JSON text with halves of surrogate pairs written as escapes. The value that it means stays the same."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def plain(text: str) -> str:
    """`text`, when a text column can hold it as it is. Raises InvalidRequest for NUL and halves of surrogate pairs."""
    if "\x00" in text:
        raise InvalidRequest("text may not hold the NUL character (U+0000)")
    if not text.isascii() and _SURROGATE.search(text) is not None:
        raise InvalidRequest("text may not hold half of a surrogate pair (U+D800 to U+DFFF)")
    return text


def cleaned(text: str, limit: int) -> str:
    """`text` made fit for a plain column: what it can't hold becomes U+FFFD, and it is cut to `limit` characters."""
    return _SURROGATE.sub("\ufffd", text[:limit].replace("\x00", "\ufffd"))


def size_of_text(text: str) -> int:
    """In bytes, as a database keeps it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
