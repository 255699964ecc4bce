"""Does a bundle hold a secret that the session could use? Searched for in every form that redaction knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hostler.engine.redaction import SHORTEST, forms_of

MOST_PLACES: Final = 20
_NAMELESS: Final = "a name of a file or folder"


@dataclass(slots=True)
class SecretSearch:
    """Feed it what is written, member by member. Blocks for as long as looking takes."""

    places: list[tuple[str, str]] = field(default_factory=list)
    """Members, and what was found in each: never the secret."""
    _forms: dict[bytes, str] = field(default_factory=dict)
    _longest: int = 0
    _tail: bytes = b""
    _member: str = ""
    _known: set[str] = field(default_factory=set)

    @staticmethod
    def of(labels: Mapping[str, str]) -> SecretSearch:
        """`labels`: what to call each secret. Those of less than 8 characters are ordinary words: left out."""
        forms: dict[bytes, str] = {}
        for secret, label in labels.items():
            if len(secret) < SHORTEST:
                continue
            texts = forms_of(secret)
            if not secret.isascii():  # some programs take bytes for characters
                texts |= forms_of(secret.encode().decode("latin-1"))
            forms |= {text.encode(): label for text in texts}
        return SecretSearch(_forms=forms, _longest=max(map(len, forms), default=0))

    def begin(self, member: str) -> None:
        self._member, self._tail, self._known = _NAMELESS, b"", set()
        self.feed(member.encode("utf-8", "surrogateescape"))
        self._tail = b""
        if not self._known:  # else the name must not be told
            self._member = member

    def feed(self, piece: bytes) -> None:
        if not self._forms:
            return
        data = self._tail + piece if self._tail else piece
        for form, label in self._forms.items():
            if label not in self._known and form in data:
                self._known.add(label)
                if len(self.places) < MOST_PLACES:
                    self.places.append((self._member, label))
        self._tail = data[-self._longest + 1 :] if self._longest > 1 else b""
