"""How is a secret kept out of what a server answers? Its forms are taken out of the stream, however it is split."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hostler.engine.redaction import forms_of

REDACTED = b"[redacted]"


def stand_ins(secret: str, stand_in: bytes) -> dict[bytes, bytes]:
    """Every form of `secret` (none for ""), with what takes its place."""
    return {form.encode(): stand_in for form in forms_of(secret)} if secret else {}


class Redactor:
    """For one answer. Nothing is held back except the beginning of what may turn out to be one of the forms."""

    def __init__(self, forms: Mapping[bytes, bytes]) -> None:
        """`forms` are never empty texts; of two that begin at the same place, the longer one counts."""
        self._forms = dict(forms)
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._any = re.compile(b"|".join(map(re.escape, longest_first))) if self._forms else None
        self._starts = {form[:4] for form in self._forms}
        self._longest = max(map(len, self._forms), default=1)
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        data = self._held + piece
        done, rest = self._replaced(data)
        keep = self._beginning_at_end(rest)
        self._held = rest[len(rest) - keep :] if keep else b""
        return done + (rest[: len(rest) - keep] if keep else rest)

    def end(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def whole(self, data: bytes) -> bytes:
        """`data` without any of the forms, apart from the stream."""
        return b"".join(self._replaced(data))

    def finds(self, data: bytes) -> bool:
        return any(form in data for form in self._forms)

    @property
    def longest(self) -> int:
        return self._longest

    def _replaced(self, data: bytes) -> tuple[bytes, bytes]:
        """All up to the end of the last form, replaced, and what follows it."""
        if self._any is None or not self.finds(data):  # a search for each is many times faster than one for all
            return b"", data
        pieces, at = [], 0
        for found in self._any.finditer(data):
            pieces += [data[at : found.start()], self._forms[found[0]]]
            at = found.end()
        return b"".join(pieces), data[at:]

    def _beginning_at_end(self, data: bytes) -> int:
        """How many of the last bytes are a beginning of a form."""
        if self._any is None:
            return 0
        tail = data[max(0, len(data) - self._longest + 1) :]
        places: set[int] = set(range(max(0, len(tail) - 3), len(tail)))
        for start in self._starts:
            at = tail.find(start)
            while at >= 0:
                places.add(at)
                at = tail.find(start, at + 1)
        for at in sorted(places):
            end = tail[at:]
            if any(form.startswith(end) and len(form) > len(end) for form in self._forms):
                return len(end)
        return 0
