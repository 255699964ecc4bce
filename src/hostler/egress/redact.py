"""How is a secret kept out of what a server answers? Its forms are cut out of the stream, however it is split."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

REDACTED = b"[redacted]"


class Redactor:
    """For one answer. Nothing is held back except the beginning of what may turn out to be the secret."""

    def __init__(self, secret: str) -> None:
        """`secret` "" redacts nothing."""
        self._forms = sorted(_forms(secret), key=len, reverse=True) if secret else []
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        data = self._clean(self._held + data)
        keep = self._beginning_at_end(data)
        self._held = data[len(data) - keep :] if keep else b""
        return data[: len(data) - keep] if keep else data

    def finish(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _clean(self, data: bytes) -> bytes:
        for form in self._forms:
            data = data.replace(form, REDACTED)
        return data

    def _beginning_at_end(self, data: bytes) -> int:
        """How many of the last bytes are a beginning of a form."""
        for length in range(min(len(data), max((len(form) for form in self._forms), default=1) - 1), 0, -1):
            tail = data[len(data) - length :]
            if any(form.startswith(tail) for form in self._forms):
                return length
        return 0


def _forms(secret: str) -> set[bytes]:
    raw = secret.encode()
    forms = {raw, json.dumps(secret)[1:-1].encode(), quote(secret, safe="").encode()}
    for before in range(3):  # inside a longer text, base64 begins at one of three places
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * before + raw).rstrip(b"=")
            whole = text[(before * 8 + 5) // 6 :]
            # The last character depends on what follows.
            forms.add(whole if (before + len(raw)) % 3 == 0 else whole[:-1])
    return {form for form in forms if len(form) >= 4}
