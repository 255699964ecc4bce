"""Whom or what are entries of the audit log about, how many are there of each, and who can read what is personal?

A *subject* is a session, a person who works at this host, or the target of an act that carries names. Its row counts
the entries of its strand, and has a random key. What is personal in an entry is encrypted with that key, and what must
only be comparable is a digest made with it. Without the key both are noise, and the entry is what it was: the chain is
over the noise.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.ids import new_id
from hostler.store.jsontext import decode, encode
from hostler.store.tables_audit import audit_subjects

_NONCE: Final = 12
PERSON: Final = "command_line "
"""What the subject of a person at this host begins with; the name of the user follows."""


class Subject(NamedTuple):
    id: str
    key: str
    """In base64; '' when it was destroyed."""
    entries: int
    last_at: str

    @property
    def raw(self) -> bytes | None:
        return base64.b64decode(self.key) if self.key else None


_MEET: Final = """
INSERT INTO audit_subjects (workspace_id, subject, id, key, entries, chained, last_at)
VALUES ({0}, {1}, {2}, {3}, {4}, 0, {5})
ON CONFLICT (workspace_id, subject) DO UPDATE SET
    entries = audit_subjects.entries + excluded.entries,
    last_at = CASE WHEN audit_subjects.last_at > excluded.last_at THEN audit_subjects.last_at ELSE excluded.last_at END
RETURNING id, key, entries, last_at
"""
_TEXTS: Final = {
    "sqlite": _MEET.format(*"??????"),
    "postgresql": _MEET.format("$1", "$2", "$3", "$4", "$5::bigint", "$6"),
}


def meet(conn: Connection, workspace_id: str, subject: str, at: str, more: int = 0) -> Subject:
    """The subject, which is made if it is new, with `more` entries than before.

    Nobody else counts entries of it before this transaction ends: so their numbers have no gap, an entry is never
    seen before those with smaller numbers, and none is older than the one before it.
    """
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    given = (workspace_id, subject, new_id("asub"), key, more, at)
    row = conn.exec_driver_sql(_TEXTS[conn.dialect.name], given).one()
    return Subject(*row)


def destroy(conn: Connection, workspace_id: str, subject: str) -> str | None:
    """Nobody can read any more what is personal in entries about it. Its id; None: there is no such subject.

    Of a person the name goes, too: entries say the id from then on.
    """
    mine = (audit_subjects.c.workspace_id == workspace_id, audit_subjects.c.subject == subject)
    found: str | None = conn.execute(sa.select(audit_subjects.c.id).where(*mine).with_for_update()).scalar()
    if found is not None:
        values: dict[str, Any] = {"key": ""}
        if subject.startswith(PERSON):
            values["subject"] = found
        conn.execute(audit_subjects.update().where(*mine).values(**values))
    return found


def find(conn: Connection, workspace_id: str, ids: Iterable[str]) -> dict[str, tuple[str, bytes | None]]:
    """By id: the subject, and its key unless that was destroyed."""
    wanted = sorted(set(ids) - {""})
    if not wanted:
        return {}
    query = sa.select(audit_subjects.c.id, audit_subjects.c.subject, audit_subjects.c.key)
    query = query.where(audit_subjects.c.workspace_id == workspace_id, audit_subjects.c.id.in_(wanted))
    return {row[0]: (row[1], base64.b64decode(row[2]) if row[2] else None) for row in conn.execute(query)}


def id_of(conn: Connection, workspace_id: str, subject: str) -> str | None:
    query = sa.select(audit_subjects.c.id)
    query = query.where(audit_subjects.c.workspace_id == workspace_id, audit_subjects.c.subject == subject)
    found: str | None = conn.execute(query).scalar()
    return found


# ------------------------------------------------------------------------------------------------- what a key is for


def keyed_digest(key: bytes, text: str) -> str:
    """HMAC-SHA-256, hexadecimal. Without the key nobody can try what a short text may have been."""
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def seal(key: bytes, entry_id: str, private: Mapping[str, Any]) -> str:
    """`private` encrypted with AES-256-GCM, for this entry alone. In base64: the nonce, then the rest."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(_NONCE)
    return base64.b64encode(
        nonce + AESGCM(key).encrypt(nonce, encode(dict(private)).encode(), entry_id.encode())
    ).decode()


def unseal(key: bytes, entry_id: str, sealed: str) -> dict[str, Any] | None:
    """What was sealed. None: with another key, for another entry, or it was changed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        raw = base64.b64decode(sealed)
        plain = AESGCM(key).decrypt(raw[:_NONCE], raw[_NONCE:], entry_id.encode())
    except (InvalidTag, ValueError):
        return None
    found: dict[str, Any] = decode(plain.decode())
    return found
