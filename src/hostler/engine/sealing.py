"""How is a secret kept in the database without being readable there? AES-256-GCM with a key that is not in it."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hostler.engine.ports import SealBroken

_MARK = "v1."
_NONCE = 12


class KeySealer:
    """Implements `Sealer` with one key of 32 bytes. The context is authenticated, not hidden."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, context: str, secret: bytes) -> str:
        nonce = os.urandom(_NONCE)
        return _MARK + base64.b64encode(nonce + self._cipher.encrypt(nonce, secret, context.encode())).decode()

    def open(self, context: str, sealed: str) -> bytes:
        try:
            raw = base64.b64decode(sealed.removeprefix(_MARK), validate=True)
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], context.encode())
        except (InvalidTag, ValueError, binascii.Error):
            raise SealBroken(f"the secret of {context} can't be opened") from None


def key_of(file: Path) -> bytes:
    """The key in `file`, made when there is none. Only its owner can read it; who loses it loses the secrets."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return base64.b64decode(file.read_text().strip(), validate=True)
    key = AESGCM.generate_key(256)
    with os.fdopen(descriptor, "w") as out:
        out.write(base64.b64encode(key).decode() + "\n")
    return key
