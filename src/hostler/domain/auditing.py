"""What is an entry of the audit log, byte by byte, and how do entries hang together?

The *canonical text* of an entry is one line of JSON with fixed names in a fixed order. The hash of an entry is the
SHA-256 of the hash before it (32 bytes) and its canonical text in UTF-8, so whoever has the texts can compute every
hash, and nothing can be changed, left out, put in or moved without changing all that follow. A *checkpoint* is a
signature over one of these hashes. `docs/reference/audit-log.md` says it all for people who write their own verifier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

Kind = Literal["tool", "approval", "egress", "credential", "budget", "administration", "integrity"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""tool: a call of a tool has ended · approval: a person allowed or denied one · egress, credential: decisions of the
proxy, uses of secrets · budget: reached, changed · administration: everything that people do to what is set up ·
integrity: something about the log itself."""

VERSION: Final = 1
_GENESIS: Final = b"hostler audit 1\n"
_CHECKPOINT: Final = "hostler audit checkpoint 1"
_SIGNER: Final = "hostler audit signer 1"
WHOLE: Final = ""
"""The strand of what concerns no single session."""

_quoted: Callable[[str], str] = json.JSONEncoder(ensure_ascii=False).encode


class Link(NamedTuple):
    """An entry at its place in the chain of its workspace, as it is hashed."""

    workspace: str
    seq: int
    """Its place: 1, 2, 3, … without a gap."""
    strand: str
    """The session that it is about, or nothing."""
    number: int
    """Its place in the strand: 1, 2, 3, … without a gap."""
    id: str
    at: str
    kind: str
    act: str
    actor_kind: str
    actor_id: str
    target: str
    subject: str
    """Whose key `sealed` and the digests are made with: an id that says nothing, or nothing."""
    sealed: str
    """What is personal, encrypted; or nothing."""
    details: str
    """JSON text of an object, as it is stored."""


def canonical(link: Link) -> str:
    """The text of an entry that is hashed."""
    return (
        f'{{"v":1,"workspace":{_quoted(link.workspace)},"seq":{link.seq},"strand":{_quoted(link.strand)},'
        f'"number":{link.number},"id":{_quoted(link.id)},"at":{_quoted(link.at)},"kind":{_quoted(link.kind)},'
        f'"act":{_quoted(link.act)},"actor":{{"type":{_quoted(link.actor_kind)},"id":{_quoted(link.actor_id)}}},'
        f'"target":{_quoted(link.target)},"subject":{_quoted(link.subject)},"sealed":{_quoted(link.sealed)},'
        f'"details":{link.details}}}'
    )


def genesis(workspace: str) -> bytes:
    """The hash before the first entry of a workspace."""
    return hashlib.sha256(_GENESIS + workspace.encode()).digest()


def chained(before: bytes, text: bytes) -> bytes:
    """The hash of an entry: of the one before it and its canonical text."""
    return hashlib.sha256(before + text).digest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Somebody who has a signing key says that the chain of a workspace had this hash at this place."""

    workspace: str
    seq: int
    hash: str
    """Hexadecimal, of the entry at `seq`."""
    at: str
    signer: str
    """Id of the key."""
    signature: str = ""
    """Hexadecimal: Ed25519 over `signed_text`."""

    @property
    def signed_text(self) -> bytes:
        lines = (_CHECKPOINT, self.workspace, str(self.seq), self.hash, self.at, self.signer)
        return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A public key. After a rotation the key before it has signed it."""

    id: str
    public_key: str
    """Hexadecimal, 32 bytes."""
    created_at: str
    endorsed_by: str = ""
    endorsement: str = ""
    """Hexadecimal: Ed25519 over `endorsed_text` with the key `endorsed_by`."""

    @property
    def endorsed_text(self) -> bytes:
        return f"{_SIGNER}\n{self.public_key}\n".encode()


def signer_id(public_key: bytes) -> str:
    """The id of a signing key: derived from its public half, so that nobody can give a key another's id."""
    return "asig_" + hashlib.sha256(b"hostler audit signer\x00" + public_key).hexdigest()[:20]


# ------------------------------------------------------------------------------------- rows that an entry answers for


def row_text(values: Sequence[str | int | bool]) -> str:
    """One decision or use, as it is hashed: a JSON array of its values in the order of its columns."""
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))


def rows_digest(texts: Iterable[str]) -> str:
    """What an entry says of the rows that it answers for: SHA-256 of their texts, each with a line feed, in the order
    of their ids. The ids are in the texts and random, so nothing can be guessed from it once the rows are gone."""
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return found.hexdigest()


COVERED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "egress": (
        "egress_decisions",
        (
            "id",
            "session_id",
            "workspace_id",
            "method",
            "host",
            "port",
            "path",
            "allowed",
            "reason",
            "hint",
            "environment_id",
            "created_at",
        ),
    ),
    "credential": (
        "credential_uses",
        (
            "id",
            "workspace_id",
            "session_id",
            "vault_id",
            "credential_id",
            "method",
            "host",
            "port",
            "place",
            "outcome",
            "created_at",
        ),
    ),
}
"""By kind of entry: the rows that one entry answers for, many at a time. Table, and columns in the order of
`row_text`."""
