"""How is a secret kept out of what a server answers? Its forms are taken out of the stream, however it is split."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hostler.engine.redaction import forms_of

REDACTED = b"[redacted]"


def stand_ins(secret: str, stand_in: bytes) -> dict[bytes, bytes]:
    """Every form of `secret` (none for ""), with what takes its place."""
    return {form.encode(): stand_in for form in forms_of(secret)} if secret else {}


class Forms:
    """What is to be found, and what takes its place. Made once for all that is searched for the same."""

    def __init__(self, stand_in: Mapping[bytes, bytes]) -> None:
        """No form is an empty text; of two that begin at the same place, the longer one counts."""
        self._stand_in = dict(stand_in)
        longest_first = sorted(self._stand_in, key=len, reverse=True)
        self._any = re.compile(b"|".join(map(re.escape, longest_first))) if longest_first else None
        self._starts = {form[:4] for form in longest_first}
        self._longest = max(map(len, longest_first), default=1)

    def whole(self, data: bytes) -> bytes:
        """`data` without any of them."""
        return b"".join(self.replaced(data))

    def replaced(self, data: bytes) -> tuple[bytes, bytes]:
        """All up to the end of the last one, replaced, and what follows it."""
        # A search for each is many times faster than one for all, and nearly always finds nothing.
        if self._any is None or not any(form in data for form in self._stand_in):
            return b"", data
        pieces, at = [], 0
        for found in self._any.finditer(data):
            pieces += [data[at : found.start()], self._stand_in[found[0]]]
            at = found.end()
        return b"".join(pieces), data[at:]

    def beginning_at_end(self, data: bytes) -> int:
        """How many of the last bytes are a beginning of one."""
        tail = data[max(0, len(data) - self._longest + 1) :]
        places = set(range(max(0, len(tail) - 3), len(tail)))
        for start in self._starts:
            at = tail.find(start)
            while at >= 0:
                places.add(at)
                at = tail.find(start, at + 1)
        for at in sorted(places):
            end = tail[at:]
            if any(form.startswith(end) and len(form) > len(end) for form in self._stand_in):
                return len(end)
        return 0


class Redactor:
    """For one body. Nothing is held back except the beginning of what may turn out to be one of the forms."""

    def __init__(self, forms: Forms) -> None:
        self._forms = forms
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        done, rest = self._forms.replaced(self._held + piece)
        keep = self._forms.beginning_at_end(rest)
        self._held = rest[len(rest) - keep :]
        return done + rest[: len(rest) - keep]

    def end(self) -> bytes:
        held, self._held = self._held, b""
        return held
