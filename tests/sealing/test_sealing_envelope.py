"""A sealed secret opens in its own place, with its own key, unchanged; and in no other way."""

from __future__ import annotations

import base64
import os
import secrets
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.domain.errors import InvalidRequest, SecretUnreadable
from hostler.sealing.envelope import EnvelopeSealer
from hostler.sealing.masterkeys import GivenKeys, KeyFile, KeyGuard, MasterKey, parse_key

KEY, OTHER = MasterKey(b"k" * 32), MasterKey(b"o" * 32)
PLACE = "wrkspc_1/vcrd_1"


@given(secret=st.binary(max_size=2000), context=st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_a_secret_comes_back_as_it_was(secret: bytes, context: str) -> None:
    sealer = EnvelopeSealer(GivenKeys(KEY))
    sealed = sealer.seal(context, secret)
    assert sealer.open(context, sealed) == secret
    assert sealed.isascii()
    if len(secret) > 3:
        assert secret not in sealed.encode()
        assert base64.urlsafe_b64encode(secret).rstrip(b"=") not in sealed.encode()


def test_the_same_secret_is_never_sealed_the_same_way() -> None:
    sealer = EnvelopeSealer(GivenKeys(KEY))
    parts = [sealer.seal(PLACE, b"canary").split(".") for _ in range(50)]
    assert len({part[2] for part in parts}) == len({part[3] for part in parts}) == 50


def test_a_secret_that_was_moved_to_another_row_does_not_open() -> None:
    sealer = EnvelopeSealer(GivenKeys(KEY))
    one, two = sealer.seal("wrkspc_1/vcrd_1", b"one"), sealer.seal("wrkspc_2/vcrd_1", b"two")
    for context, sealed in (("wrkspc_1/vcrd_1", two), ("wrkspc_2/vcrd_1", one), ("", one)):
        with pytest.raises(SecretUnreadable, match="moved"):
            sealer.open(context, sealed)


@given(data=st.data())
def test_no_changed_character_goes_unnoticed(data: st.DataObject) -> None:
    sealer = EnvelopeSealer(GivenKeys(KEY, [OTHER]))
    sealed = sealer.seal(PLACE, b"the secret")
    at = data.draw(st.integers(0, len(sealed) - 1))
    put = data.draw(st.sampled_from("ABab01-_.%é\x00"))
    changed = sealed[:at] + put + sealed[at + 1 :]
    try:
        opened = sealer.open(PLACE, changed)
    except SecretUnreadable:
        return
    # The last character of base64 text can carry bits that mean nothing; whatever opens is the secret.
    assert opened == b"the secret"


def test_halves_of_two_envelopes_do_not_fit_together() -> None:
    sealer = EnvelopeSealer(GivenKeys(KEY))
    one, two = sealer.seal(PLACE, b"old").split("."), sealer.seal(PLACE, b"new").split(".")
    with pytest.raises(SecretUnreadable):
        sealer.open(PLACE, ".".join([*one[:3], two[3]]))


def test_a_wrong_master_key_is_named_and_not_tried() -> None:
    sealed = EnvelopeSealer(GivenKeys(KEY)).seal(PLACE, b"x")
    with pytest.raises(SecretUnreadable, match=KEY.id):
        EnvelopeSealer(GivenKeys(OTHER)).open(PLACE, sealed)
    forged = sealed.replace(KEY.id, OTHER.id)
    with pytest.raises(SecretUnreadable, match="changed"):
        EnvelopeSealer(GivenKeys(OTHER)).open(PLACE, forged)


def test_rewrapping_changes_the_master_key_and_nothing_else() -> None:
    old = EnvelopeSealer(GivenKeys(KEY))
    sealed = old.seal(PLACE, b"the secret")
    both = EnvelopeSealer(GivenKeys(OTHER, [KEY]))
    fresh = both.rewrapped(sealed)
    assert EnvelopeSealer(GivenKeys(OTHER)).open(PLACE, fresh) == b"the secret"
    with pytest.raises(SecretUnreadable, match="moved"):
        EnvelopeSealer(GivenKeys(OTHER)).open("elsewhere", fresh)
    with pytest.raises(SecretUnreadable):
        old.rewrapped("hs9" + sealed[3:])


# ------------------------------------------------------------------------------------------------------- the key file


def test_the_key_file_is_made_at_the_first_use_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "master-keys.json"
    keys = KeyFile(path)
    assert keys.ids() == []
    assert not path.exists()
    sealed = EnvelopeSealer(keys).seal(PLACE, b"x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert EnvelopeSealer(KeyFile(path)).open(PLACE, sealed) == b"x", "another process reads the same key"
    os.chmod(path, 0o640)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        KeyFile(path).current()


def test_a_damaged_key_file_is_refused_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyFile(path).current()
    for damage in ("", "{}", '{"keys": []}', path.read_text().replace('"key": "', '"key": "AAAA')):
        path.write_text(damage)
        with pytest.raises(InvalidRequest):
            KeyFile(path).current()
        assert path.read_text() == damage


def test_a_running_server_takes_a_rotated_key_at_once_and_still_opens_the_old(tmp_path: Path) -> None:
    server, operator = KeyFile(tmp_path / "keys.json"), KeyFile(tmp_path / "keys.json")
    sealer = EnvelopeSealer(server)
    before = sealer.seal(PLACE, b"before")
    fresh = operator.add()
    after = sealer.seal(PLACE, b"after")
    assert after.split(".")[1] == fresh.id != before.split(".")[1]
    assert [sealer.open(PLACE, text) for text in (before, after)] == [b"before", b"after"]
    assert operator.drop(lambda key: False, retired_for_seconds=0) == []
    assert operator.drop(lambda key: True, retired_for_seconds=3600) == [], "too early"
    assert operator.drop(lambda key: True, retired_for_seconds=-1) == [before.split(".")[1]]
    assert sealer.open(PLACE, after) == b"after"
    with pytest.raises(SecretUnreadable, match="doesn't have"):
        sealer.open(PLACE, before)


# ------------------------------------------------------------------------------------------------------------ a guard

GUARD = """
import base64, sys
verb, line = sys.argv[1], sys.stdin.read().strip()
mask = bytes([90]) * 32
raw = bytes(a ^ b for a, b in zip(base64.b64decode(line), mask))
print(base64.b64encode(raw).decode())
"""


def test_a_guarded_key_is_not_in_the_file(tmp_path: Path) -> None:
    program = tmp_path / "guard.py"
    program.write_text(GUARD)
    guard = KeyGuard(f"{sys.executable} {program}")
    keys = KeyFile(tmp_path / "keys.json", guard)
    sealed = EnvelopeSealer(keys).seal(PLACE, b"x")
    text = (tmp_path / "keys.json").read_text()
    assert base64.b64encode(keys.current().key).decode() not in text
    assert EnvelopeSealer(KeyFile(tmp_path / "keys.json", guard)).open(PLACE, sealed) == b"x"
    with pytest.raises(InvalidRequest, match=r"secrets\.command"):
        EnvelopeSealer(KeyFile(tmp_path / "keys.json")).open(PLACE, sealed)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print()", "one line"),
        ("print('a'); print('b')", "one line"),
        ("import secrets, base64; print(base64.b64encode(secrets.token_bytes(32)).decode())", "give back"),
        ("print('no base64')", "32 bytes"),
    ],
)
def test_a_guard_that_fails_seals_nothing(tmp_path: Path, program: str, says: str) -> None:
    file = tmp_path / "guard.py"
    file.write_text(program)
    keys = KeyFile(tmp_path / "keys.json", KeyGuard(f"{sys.executable} {file}"))
    with pytest.raises(InvalidRequest, match=says):
        EnvelopeSealer(keys).seal(PLACE, b"x")
    assert not (tmp_path / "keys.json").exists()
    with pytest.raises(InvalidRequest, match="FileNotFoundError"):
        KeyFile(tmp_path / "keys.json", KeyGuard("/nonexistent/guard")).current()


def test_a_key_of_the_configuration_must_be_one_and_is_not_repeated_in_the_error() -> None:
    good = base64.b64encode(secrets.token_bytes(32)).decode()
    assert parse_key(good + "\n", "secrets.key").id.startswith("mk_")
    for text in ("", "c2hvcnQ=", good[:-4], "canary!" + good):
        with pytest.raises(InvalidRequest, match=r"secrets\.key.*openssl") as caught:
            parse_key(text, "secrets.key")
        assert not text or text not in caught.value.message
    assert good not in repr(parse_key(good, "secrets.key"))
