"""What does a sealed secret look like, and what makes it impossible to read, change or move?

Each secret is encrypted with AES-256-GCM under a data key of its own, which is used once. The data key is encrypted
under a master key and kept beside it:

    hs1.<id of the master key>.<nonce and sealed data key>.<nonce and sealed secret>

The secret's associated data is the *context*: which row and field of which workspace it belongs to. An envelope that
is copied to another row doesn't open there. The data key's is the head of the envelope, without the context, so that a
rotation can change the master key of an envelope without knowing what it is for, and without seeing the secret.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hostler.domain.errors import SecretUnreadable
from hostler.sealing.masterkeys import MasterKey, MasterKeys
from hostler.store.sealed import FORMAT

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32


class EnvelopeSealer:
    """Implements `engine.ports.Sealer`. Safe to use from several threads."""

    def __init__(self, keys: MasterKeys) -> None:
        self._keys = keys

    def seal(self, context: str, secret: bytes) -> str:
        data_key = secrets.token_bytes(_KEY_BYTES)
        return _joined(self._keys.current(), data_key, _encrypt(data_key, secret, context.encode()))

    def open(self, context: str, sealed: str) -> bytes:
        data_key, secret = self._opened(sealed)
        return _decrypt(data_key, secret, context.encode(), "it was changed, or moved here from another row")

    def rewrapped(self, sealed: str) -> str:
        """The same secret under the current master key. Raises SecretUnreadable like `open`, except for the context."""
        data_key, secret = self._opened(sealed)
        return _joined(self._keys.current(), data_key, secret)

    def _opened(self, sealed: str) -> tuple[bytes, bytes]:
        """The data key, and the secret that it opens."""
        try:
            mark, key_id, wrapped, secret = sealed.split(".")
            parts = _bytes(wrapped), _bytes(secret)
        except (ValueError, binascii.Error):
            raise SecretUnreadable("a stored secret is not in its sealed form; restore it from a backup") from None
        if mark != FORMAT:
            raise SecretUnreadable(f"a stored secret has the form {mark[:8]!r}, which this program doesn't know")
        master = self._keys.find(key_id)
        if master is None:
            raise SecretUnreadable(
                f"a stored secret is sealed with the master key {key_id[:40]}, which this server doesn't have; "
                "give it back (see `hostler secrets status`), or store the secret again"
            )
        return _decrypt(master.key, parts[0], _head(key_id), "its key was changed"), parts[1]


def _head(key_id: str) -> bytes:
    return f"{FORMAT}.{key_id}".encode()


def _joined(master: MasterKey, data_key: bytes, secret: bytes) -> str:
    wrapped = _encrypt(master.key, data_key, _head(master.id))
    return f"{FORMAT}.{master.id}.{_text(wrapped)}.{_text(secret)}"


def _encrypt(key: bytes, plain: bytes, context: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, context)


def _decrypt(key: bytes, sealed: bytes, context: bytes, why: str) -> bytes:
    try:
        if len(key) != _KEY_BYTES or len(sealed) <= _NONCE_BYTES:
            raise InvalidTag
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
    except InvalidTag:
        raise SecretUnreadable(f"a stored secret can't be opened: {why}; store it again") from None


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
