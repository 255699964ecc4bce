"""How is text that somebody else wrote made fit to be shown, when it may repeat a secret?

Every form in which a service is likely to echo what it was sent is replaced: as it is, JSON-escaped, percent-encoded,
in base64 (at any offset in a longer text) and in hexadecimal. It is a net under a wire, not a wall: who sends a secret
to a hostile service has given it away.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

REDACTED: Final = "[redacted]"
_TOKEN_FIELDS = re.compile(
    r'("?(?:access_token|refresh_token|id_token|client_secret|assertion)"?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|[^\s&,}]+)',
    re.IGNORECASE,
)


def scrubbed(text: str, secrets: Iterable[str], *, cut: bool = False) -> str:
    """`text` without any of `secrets`, and without the values of fields that hold tokens.

    cut  the text goes on somewhere else: a beginning of a secret at its end is removed too.
    """
    forms = sorted({form for secret in secrets if secret for form in _forms(secret)}, key=len, reverse=True)
    for form in forms:
        text = re.sub(re.escape(form), REDACTED, text, flags=re.IGNORECASE if _is_encoded(form) else 0)
    text = _TOKEN_FIELDS.sub(rf"\1{REDACTED}", text)
    if cut:
        for form in forms:
            for length in range(min(len(form) - 1, len(text)), 3, -1):
                if text.endswith(form[:length]):
                    text = text[:-length] + REDACTED
                    break
    return text


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    forms = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= {json.dumps(secret)[1:-1].replace("/", "\\/"), quote(secret, safe=""), quote(secret), quote_plus(secret)}
    forms.add(raw.hex())
    for offset in range(3):
        # The characters at either end also hold bits of the neighbours; what is between them is the secret's alone.
        padded = base64.b64encode(b"\x00" * offset + raw).decode().rstrip("=")
        inside = padded[(0, 2, 3)[offset] : len(padded) - (1 if (len(raw) + offset) % 3 else 0)]
        forms |= {inside, inside.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= min(4, len(secret))}


def _is_encoded(form: str) -> bool:
    return "%" in form or re.fullmatch(r"[0-9a-f]+", form) is not None
