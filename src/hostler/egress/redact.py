"""How is a secret kept out of what a server answers? Its forms are taken out of the stream, however it is split."""

from __future__ import annotations

from collections.abc import Mapping

from hostler.engine.redaction import forms_of

REDACTED = b"[redacted]"


def stand_ins(secret: str, stand_in: bytes) -> dict[bytes, bytes]:
    """Every form of `secret` (none for ""), with what takes its place."""
    if not secret:
        return {}
    forms = {form.encode() for form in forms_of(secret)}
    if not secret.isascii():  # Many servers read the bytes of a header one by one, and repeat what they read so.
        forms |= {form.encode() for form in forms_of(secret.encode().decode("latin-1"))}
        forms |= {secret.encode("latin-1")} if max(secret) < "\u0100" else set()
    return dict.fromkeys(forms, stand_in)


class Forms:
    """What is to be found, and what takes its place. Made once for all that is searched for the same."""

    def __init__(self, stand_in: Mapping[bytes, bytes]) -> None:
        """No form is an empty text; of two that begin at the same place, the longer one counts.

        No pattern is compiled of them: compiled patterns are kept by their library, with the text of the secret.
        """
        self._stand_in = dict(stand_in)
        self._starts = {form[:4] for form in self._stand_in}
        self._longest = max(map(len, self._stand_in), default=1)

    def whole(self, data: bytes) -> bytes:
        """`data` without any of them."""
        return b"".join(self.replaced(data))

    def replaced(self, data: bytes) -> tuple[bytes, bytes]:
        """All up to the end of the last one, replaced, and what follows it."""
        places = {form: at for form in self._stand_in if (at := data.find(form)) >= 0}
        pieces, done = [], 0
        while places:
            at, form = min(((at, form) for form, at in places.items()), key=lambda found: (found[0], -len(found[1])))
            pieces += [data[done:at], self._stand_in[form]]
            done = at + len(form)
            places = {form: at if at >= done else data.find(form, done) for form, at in places.items()}
            places = {form: at for form, at in places.items() if at >= 0}
        return b"".join(pieces), data[done:]

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
