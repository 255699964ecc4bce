"""Which master keys seal the secrets?"""

from __future__ import annotations

from pathlib import Path

from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.sealing.envelope import EnvelopeSealer
from hostler.sealing.masterkeys import GivenKeys, KeyFile, KeyGuard, MasterKeys, parse_key


def master_keys(settings: Settings) -> MasterKeys:
    """Nothing is read or made before the first use. Raises InvalidRequest for settings that contradict each other."""
    chosen = settings.secrets
    if chosen.key.get_secret_value():
        if chosen.key_file or chosen.command:
            raise InvalidRequest("secrets.key: can't be used together with secrets.key_file or secrets.command")
        previous = [parse_key(key.get_secret_value(), "secrets.previous_keys") for key in chosen.previous_keys]
        return GivenKeys(parse_key(chosen.key.get_secret_value(), "secrets.key"), previous)
    if chosen.previous_keys:
        raise InvalidRequest("secrets.previous_keys: needs secrets.key; a key file keeps its older keys itself")
    path = Path(chosen.key_file) if chosen.key_file else settings.state_dir / "secrets" / "master-keys.json"
    return KeyFile(path.expanduser(), KeyGuard(chosen.command) if chosen.command else None)


def open_sealer(settings: Settings) -> EnvelopeSealer:
    return EnvelopeSealer(master_keys(settings))
