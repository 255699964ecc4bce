"""Who signs the audit log here, and when?"""

from __future__ import annotations

from pathlib import Path

from hostler.config import Settings
from hostler.domain.auditing import SignerKey
from hostler.domain.clock import SystemClock, rfc3339
from hostler.domain.errors import InvalidRequest
from hostler.engine.audit_log import AuditLog, AuditTerms
from hostler.sealing.masterkeys import GivenKeys, KeyFile, KeyGuard, MasterKeys, parse_key
from hostler.sealing.signing import AuditSigner
from hostler.store.database import Database


def signing_keys(settings: Settings) -> MasterKeys:
    """Nothing is read or made before the first use. Raises InvalidRequest for settings that contradict each other."""
    chosen = settings.audit
    if chosen.key.get_secret_value():
        if chosen.key_file or chosen.command:
            raise InvalidRequest("audit.key: can't be used together with audit.key_file or audit.command")
        previous = [parse_key(key.get_secret_value(), "audit.previous_keys") for key in chosen.previous_keys]
        return GivenKeys(parse_key(chosen.key.get_secret_value(), "audit.key"), previous)
    if chosen.previous_keys:
        raise InvalidRequest("audit.previous_keys: needs audit.key; a key file keeps its older keys itself")
    path = Path(chosen.key_file) if chosen.key_file else settings.state_dir / "secrets" / "audit-keys.json"
    return KeyFile(path.expanduser(), KeyGuard(chosen.command) if chosen.command else None)


def rotated_key(settings: Settings) -> list[SignerKey]:
    """Make a new signing key where this program makes them. All of them, the new one last. Raises InvalidRequest."""
    keys = signing_keys(settings)
    if not isinstance(keys, KeyFile):
        raise InvalidRequest("audit.key: is configured; put a new one there, and this one first in audit.previous_keys")
    keys.current()
    keys.add()
    return AuditSigner(keys).public_keys(rfc3339(SystemClock().now()))


def audit_log(settings: Settings, database: Database) -> AuditLog:
    chosen = settings.audit
    terms = AuditTerms(chosen.look_seconds, chosen.checkpoint_entries, chosen.checkpoint_seconds)
    return AuditLog(database, AuditSigner(signing_keys(settings)), terms)
