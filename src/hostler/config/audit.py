"""What can an operator say about the audit log?"""

from __future__ import annotations

from pydantic import Field, SecretStr

from hostler.config.section import Section


class Audit(Section):
    """The audit log: when it is signed, and with what."""

    look_seconds: float = Field(1.0, gt=0, le=60, description="How long entries may wait for their place in the chain.")
    checkpoint_entries: int = Field(1_000, ge=1, description="A checkpoint is signed after so many entries.")
    checkpoint_seconds: float = Field(60.0, gt=0, description="And when so much time has passed since the last one.")
    key_file: str = Field(
        "",
        description="File with the signing keys, made at first use. "
        "Empty: `secrets/audit-keys.json` in the state folder.",
    )
    command: str = Field(
        "",
        description="Program that guards the keys of the file: `<command> wrap` and `<command> unwrap`. "
        "Empty: the file holds them as they are.",
    )
    key: SecretStr = Field(
        SecretStr(""),
        description="Signing key, 32 bytes in base64, instead of a file: for servers that share a database.",
    )
    previous_keys: tuple[SecretStr, ...] = Field(
        (), description="Signing keys that were used before `key`, newest first: they sign it, for who trusts them."
    )
