"""Where do master keys come from? A file that is made at first use, the configuration, or a program that guards them.

A master key is 32 random bytes. Its id is derived from it, so a server that was given the wrong key says so instead of
trying it. `KeyFile` holds several: the current one, and those that older secrets are still sealed with.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from hostler.domain.clock import SystemClock, parse_rfc3339, rfc3339
from hostler.domain.errors import InvalidRequest

_KEY_BYTES: Final = 32
_COMMAND_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class MasterKey:
    key: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """Tells keys apart. Says nothing about 256 random bits."""
        return "mk_" + hashlib.sha256(b"hostler master key\x00" + self.key).hexdigest()[:20]


class MasterKeys(Protocol):
    """Both methods raise InvalidRequest, with what to do, when the keys can't be had."""

    def current(self) -> MasterKey:
        """What new secrets are sealed with."""
        ...

    def find(self, key_id: str) -> MasterKey | None: ...

    def ids(self) -> Sequence[str]:
        """Every key there is, the current one first."""
        ...


def parse_key(text: str, place: str) -> MasterKey:
    """The key that `text` holds in base64. Raises InvalidRequest that names `place` and never the text."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise InvalidRequest(f"{place}: is not 32 bytes in base64; make one with `openssl rand -base64 32`")
    return MasterKey(key)


class GivenKeys:
    """Keys from the configuration. A rotation moves every secret to the first one."""

    def __init__(self, current: MasterKey, previous: Sequence[MasterKey] = ()) -> None:
        self._keys = (current, *previous)

    def current(self) -> MasterKey:
        return self._keys[0]

    def find(self, key_id: str) -> MasterKey | None:
        return next((key for key in self._keys if key.id == key_id), None)

    def ids(self) -> Sequence[str]:
        return [key.id for key in self._keys]


# ---------------------------------------------------------------------------------------------------- a guard of keys


class KeyGuard:
    """A program that keeps master keys from lying about: a key service's command line, behind a script of yours.

    `<command> wrap` gets a master key on its standard input, in base64, and prints one line that only it can read.
    `<command> unwrap` gets that line, and prints the master key in base64. Both have 30 seconds.
    """

    def __init__(self, command: str) -> None:
        self._words = shlex.split(command)
        if not self._words:
            raise InvalidRequest("secrets.command: is empty; name a program, or leave it out")

    def wrap(self, key: MasterKey) -> str:
        line = self._ask("wrap", base64.b64encode(key.key).decode())
        if self.unwrap(line) != key:  # found out before anything is sealed with it, not after
            raise InvalidRequest("secrets.command: unwrap does not give back what wrap was given")
        return line

    def unwrap(self, line: str) -> MasterKey:
        return parse_key(self._ask("unwrap", line), "the answer of secrets.command unwrap")

    def _ask(self, verb: str, line: str) -> str:
        try:
            done = subprocess.run(
                [*self._words, verb],
                input=line + "\n",
                capture_output=True,
                text=True,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
            # Not chained: the exception of a timeout holds what the program was given and had said.
            raise InvalidRequest(f"secrets.command {verb}: {type(error).__name__}; see that it runs") from None
        if done.returncode != 0:
            raise InvalidRequest(f"secrets.command {verb}: ended with exit code {done.returncode}; see its own log")
        said = done.stdout.strip()
        if not said or "\n" in said:
            raise InvalidRequest(f"secrets.command {verb}: must print one line")
        return said


# ------------------------------------------------------------------------------------------------------------- a file


@dataclass(frozen=True, slots=True)
class _Kept:
    """One key of the file. `text` is the key itself in base64, or what the guard made of it."""

    id: str
    text: str = field(repr=False)
    guarded: bool
    created_at: str
    retired_at: str | None = None

    def json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": self.id, "created_at": self.created_at}
        shown["wrapped" if self.guarded else "key"] = self.text
        if self.retired_at is not None:
            shown["retired_at"] = self.retired_at
        return shown


class KeyFile:
    """Keys in a file that only its owner can read, newest first. Made when the first secret is sealed.

    The file is looked at again whenever it has changed, so a running server takes part in a rotation at once.
    """

    def __init__(self, path: Path, guard: KeyGuard | None = None) -> None:
        self._path = path
        self._guard = guard
        self._lock = threading.RLock()
        self._seen: tuple[int, int, int] | None = None
        self._kept: tuple[_Kept, ...] = ()
        self._known: dict[str, MasterKey] = {}

    @property
    def path(self) -> Path:
        return self._path

    def current(self) -> MasterKey:
        with self._lock:
            if not self._fresh():
                self._make_first()
            return self._key(self._kept[0])

    def find(self, key_id: str) -> MasterKey | None:
        with self._lock:
            self._fresh()
            kept = next((kept for kept in self._kept if kept.id == key_id), None)
            return None if kept is None else self._key(kept)

    def ids(self) -> Sequence[str]:
        with self._lock:
            self._fresh()
            return [kept.id for kept in self._kept]

    def add(self) -> MasterKey:
        """Make a new key the current one. It is on the disk when this returns; the others stay."""
        with self._changing():
            at = _now()
            fresh = self._new()
            self._write((fresh, *(_retired(kept, at) for kept in self._kept)))
            return self._key(fresh)

    def drop(self, unused: Callable[[str], bool], *, retired_for_seconds: float) -> list[str]:
        """Remove keys that were replaced at least that long ago and that `unused` says nothing is sealed with."""
        with self._changing():
            border = SystemClock().now().timestamp() - retired_for_seconds
            gone = [
                kept
                for kept in self._kept[1:]
                if kept.retired_at is not None
                and parse_rfc3339(kept.retired_at).timestamp() <= border
                and unused(kept.id)
            ]
            if gone:
                self._write(tuple(kept for kept in self._kept if kept not in gone))
            return [kept.id for kept in gone]

    # -- inside

    def _fresh(self) -> bool:
        """Read the file if it has changed. False when there is none."""
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            self._seen, self._kept = None, ()
            return False
        stamp = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
        if stamp == self._seen:
            return True
        if facts.st_mode & 0o077:
            raise InvalidRequest(f"the key file {self._path} can be read by others; run: chmod 600 {self._path}")
        try:
            self._kept = tuple(_kept(entry) for entry in json.loads(self._path.read_text())["keys"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"the key file {self._path} can't be read ({type(error).__name__}); restore it from a backup"
            ) from None
        if not self._kept:
            raise InvalidRequest(f"the key file {self._path} holds no key; restore it from a backup")
        self._seen = stamp
        self._known = {kept.id: self._known[kept.id] for kept in self._kept if kept.id in self._known}
        return True

    def _key(self, kept: _Kept) -> MasterKey:
        if kept.id not in self._known:
            if kept.guarded and self._guard is None:
                raise InvalidRequest(f"the key {kept.id} in {self._path} is guarded; set secrets.command to its guard")
            place = f"the key {kept.id} in {self._path}"
            guard = self._guard
            key = guard.unwrap(kept.text) if kept.guarded and guard is not None else parse_key(kept.text, place)
            if key.id != kept.id:
                raise InvalidRequest(f"{place}: is another key; restore the file from a backup")
            self._known[kept.id] = key
        return self._known[kept.id]

    def _new(self) -> _Kept:
        key = MasterKey(secrets.token_bytes(_KEY_BYTES))
        text = base64.b64encode(key.key).decode() if self._guard is None else self._guard.wrap(key)
        return _Kept(key.id, text, guarded=self._guard is not None, created_at=_now())

    def _make_first(self) -> None:
        with self._changing():
            if not self._kept:  # else another process was faster
                self._write((self._new(),))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time changes the file; what it holds now has been read."""
        with self._lock:  # always before the lock on the file, or two threads wait for each other
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise InvalidRequest(f"the key file {self._path} can't be written: {error.strerror}") from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._fresh()
                yield
            finally:
                os.close(lock)

    def _write(self, kept: tuple[_Kept, ...]) -> None:
        """Whole or not at all, and on the disk: a secret must never be sealed with a key that a power cut takes."""
        partial = self._path.with_suffix(".partial")
        text = json.dumps({"keys": [entry.json() for entry in kept]}, indent=1) + "\n"
        try:
            partial.unlink(missing_ok=True)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise InvalidRequest(f"the key file {self._path} can't be written: {error.strerror}") from None
        self._fresh()


def _kept(entry: dict[str, Any]) -> _Kept:
    guarded = "wrapped" in entry
    text = entry["wrapped" if guarded else "key"]
    return _Kept(str(entry["id"]), str(text), guarded, str(entry["created_at"]), entry.get("retired_at"))


def _retired(kept: _Kept, at: str) -> _Kept:
    return _Kept(kept.id, kept.text, kept.guarded, kept.created_at, kept.retired_at or at)


def _now() -> str:
    return rfc3339(SystemClock().now())
