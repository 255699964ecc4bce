"""Who signs checkpoints of the audit log? The holder of an Ed25519 key that is in no database.

Signing keys are kept as master keys are (`masterkeys`): in a file that is made at first use, or in the configuration,
and a program may guard them. The 32 bytes of a key are the seed. When there is a newer key, the older one signs it, so
that whoever trusts the older one can trust the newer.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hostler.domain.auditing import Checkpoint, SignerKey, signer_id
from hostler.sealing.masterkeys import MasterKey, MasterKeys


class AuditSigner:
    """Implements `engine.audit_log.Signer`. Safe to use from several threads."""

    def __init__(self, keys: MasterKeys) -> None:
        self._keys = keys
        self._opened: dict[str, Ed25519PrivateKey] = {}

    def sign(self, checkpoint: Checkpoint) -> Checkpoint:
        key = self._private(self._keys.current())
        named = replace(checkpoint, signer=signer_id(key.public_key().public_bytes_raw()))
        return replace(named, signature=key.sign(named.signed_text).hex())

    def public_keys(self, at: str) -> list[SignerKey]:
        """Every key there is, oldest first; each later one is signed by the one before it. `at`: now."""
        found: list[SignerKey] = []
        before: Ed25519PrivateKey | None = None
        self._keys.current()
        for key_id in reversed(self._keys.ids()):
            master = self._keys.find(key_id)
            if master is None:
                continue
            key = self._private(master)
            public = key.public_key().public_bytes_raw()
            shown = SignerKey(signer_id(public), public.hex(), at)
            if before is not None:
                endorsement = before.sign(shown.endorsed_text).hex()
                shown = replace(shown, endorsed_by=found[-1].id, endorsement=endorsement)
            found.append(shown)
            before = key
        return found

    def _private(self, master: MasterKey) -> Ed25519PrivateKey:
        key = self._opened.get(master.id)
        if key is None:
            key = self._opened[master.id] = Ed25519PrivateKey.from_private_bytes(master.key)
        return key


def signature_holds(public_key: str, signature: str, text: bytes) -> bool:
    """Whether the signature (hexadecimal) over `text` was made with the key (hexadecimal)."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), text)
    except (InvalidSignature, ValueError):
        return False
    return True
