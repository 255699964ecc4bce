"""How is text that somebody else wrote made fit to be shown, when it may repeat a secret?

Every form in which a service is likely to echo what it was sent is replaced: as it is, escaped for JSON, HTML or a URL,
in base64 (at any offset in a longer text) and in hexadecimal. It is a net under a wire, not a wall: who sends a secret
to a hostile service has given it away.
"""

from __future__ import annotations

import base64
import json
import re
import string
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

from hostler.domain.events import Event

REDACTED: Final = "[redacted]"
SHORTEST: Final = 8
"""Characters of a secret that is searched for in events."""
_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_FIXED: Final = frozenset({"id", "type", "processed_at"})
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]*")
_BY_NUMBER: Final = ("", "<>&", "<>&'\"", "<>&='", "<>&'\"+`")
"""Characters that JSON libraries escape: Python and PHP · Go · PHP when asked · Gson · .NET."""
_MARKS: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_HTML: Final = tuple(
    str.maketrans({**_MARKS, **more})
    for more in (
        {},
        {'"': "&quot;"},
        {'"': "&quot;", "'": "&#x27;"},
        {'"': "&quot;", "'": "&#39;"},
        {'"': "&quot;", "'": "&#039;"},
        {'"': "&#34;", "'": "&#39;"},
        {'"': "&#34;", "'": "&#39;", "+": "&#43;"},
        {'"': "&quot;", "'": "&#x27;", "/": "&#x2F;", "`": "&#x60;", "=": "&#x3D;"},
        {'"': "&quot;", "'": "&#39;", "/": "&#x2F;", "`": "&#x60;", "=": "&#x3D;"},
    )
)
"""How HTML libraries escape: several ways, with the same three marks in all of them."""
_TOKEN_FIELDS = re.compile(
    r'("?(?:access_token|refresh_token|id_token|client_secret|assertion)"?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|[^\s&,}]+)',
    re.IGNORECASE,
)


def scrubbed(text: str, secrets: Iterable[str], *, cut: bool = False) -> str:
    """`text` without any of `secrets`, and without the values of fields that hold tokens.

    cut  the text goes on somewhere else: a beginning of a secret at its end is removed too.
    """
    forms = sorted({form for secret in secrets if secret for form in forms_of(secret)}, key=len, reverse=True)
    for form in forms:
        text = _without(text, form)
    text = _TOKEN_FIELDS.sub(rf"\1{REDACTED}", text)
    if cut:
        for form in forms:
            for length in range(min(len(form) - 1, len(text)), 3, -1):
                if text.endswith(form[:length]):
                    text = text[:-length] + REDACTED
                    break
    return text


def _without(text: str, form: str) -> str:
    """As text: compiled patterns are kept by their library, with what they say. Escapes come in either case."""
    if "%" not in form and not re.fullmatch(r"[0-9a-f]+", form):
        return text.replace(form, REDACTED)
    lower, wanted = text.translate(_LOWER), form.translate(_LOWER)
    pieces, done = [], 0
    while (at := lower.find(wanted, done)) >= 0:
        pieces += [text[done:at], REDACTED]
        done = at + len(form)
    return "".join(pieces) + text[done:]


class Replacer:
    """Puts something else in the place of secrets in events."""

    def __init__(self, stand_ins: Mapping[str, str]) -> None:
        """`stand_ins`: by secret. Very short ones are left out: ordinary words would be torn apart."""
        self._forms = {
            form: stand_in
            for secret, stand_in in stand_ins.items()
            if len(secret) >= SHORTEST
            for form in forms_of(secret)
        }
        self._longest_first = sorted(self._forms, key=len, reverse=True)

    def event(self, event: Event) -> Event:
        if not self._forms:
            return event
        return Event({key: value if key in _FIXED else self._value(value) for key, value in event.body.items()})

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(key): self._value(item) for key, item in value.items()}
            case list() | tuple():
                return [self._value(item) for item in value]
            case _:
                return value

    def text(self, text: str) -> str:
        for form in self._longest_first:
            if form in text:
                text = text.replace(form, self._forms[form])
        return text


def forms_of(secret: str) -> set[str]:
    """How somebody may write `secret` down: what each of them holds is the secret's alone. Percent-escapes and
    hexadecimal in one case or the other, not mixed."""
    raw = secret.encode()
    forms = {secret}
    if not _PLAIN.fullmatch(secret):  # Nobody escapes what most tokens are made of, and looking is a millisecond.
        forms |= _escaped(secret)
    forms |= {raw.hex(), raw.hex().upper()}
    for offset in range(3):
        # The characters at either end also hold bits of the neighbours; what is between them is the secret's alone.
        padded = base64.b64encode(b"\x00" * offset + raw).decode().rstrip("=")
        inside = padded[(0, 2, 3)[offset] : len(padded) - (1 if (len(raw) + offset) % 3 else 0)]
        forms |= {
            inside,
            inside.replace("+", "-").replace("/", "_"),
            inside.replace("/", "\\/"),
            quote(inside, safe=""),
        }
    return {form for form in forms if len(form) >= min(4, len(secret))}


def _escaped(secret: str) -> set[str]:
    forms: set[str] = set()
    for text in {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], *_numbered(secret)}:
        forms |= {text, text.replace("/", "\\/")}
    percent = {quote(secret, safe=""), quote(secret), quote_plus(secret), quote(secret, safe="!'()*")}
    percent |= {form.replace("~", "%7E") for form in percent}
    forms |= percent | {_lower_escapes(form) for form in percent}
    return forms | {secret.translate(marks) for marks in _HTML}


def _numbered(secret: str) -> set[str]:
    """In JSON, with the characters by their numbers that some libraries don't write as they are."""
    return {
        "".join(
            f"\\u{ord(char):{style}}" if char in chars or not " " <= char <= "~" else json.dumps(char)[1:-1]
            for char in secret
        )
        for chars in _BY_NUMBER
        for style in ("04x", "04X")
    }


def _lower_escapes(form: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), form)
