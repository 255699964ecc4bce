"""Is this file a bundle, whole and unchanged, and what is in it? One pass, in bounded memory, trusting nothing.

Whoever reads the members gets their contents before the manifest was compared: what is made of them may be shown to
nobody before the pass has ended. `verify` is a pass that makes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import zstandard

from hostler.bundles.limits import DOCUMENT_BYTES, FREE_BYTES, LINE_BYTES, NAME_BYTES, BundleLimits
from hostler.bundles.tar import BundleWrong, Head, padding, read_head, stored_second
from hostler.engine.snapshot_port import PARTS

FORMAT: Final = "hostler-session-bundle"
VERSION: Final = 1
HEAD: Final = "bundle.json"
DOCUMENT: Final = "session.json"
EVENTS: Final = "events.jsonl"
MANIFEST: Final = "manifest.jsonl"
HOME: Final = "home"
PIECE: Final = 1 << 20
"""Bytes of content that are given at once, at most."""

_ORDER: Final = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        re.escape(HEAD),
        re.escape(DOCUMENT),
        re.escape(EVENTS),
        r"transcripts/(0|[1-9][0-9]{0,6})\.jsonl",
        r"archives/(0|[1-9][0-9]{0,6})\.jsonl",
        r"skills/(0|[1-9][0-9]{0,6})\.zip",
        r"files/(0|[1-9][0-9]{0,6})",
        rf"{HOME}/(?:{'|'.join(PARTS)})(?:/.+)?",
        re.escape(MANIFEST),
    )
)
"""Which members there are, in the order in which they stand."""
_ONCE: Final = (0, 1, 2, 8)
_TREE: Final = 7
_WINDOW: Final = 8 << 20
"""Bytes that unpacking may look back, and so the memory that it takes."""


def member_line(head: Head, sha256: str) -> dict[str, Any]:
    """What the manifest says of a member."""
    said: dict[str, Any] = {"name": head.name, "kind": head.kind}
    if head.kind == "file":
        said |= {"size": head.size, "sha256": sha256}
    if head.kind in ("symlink", "hardlink"):
        said["target"] = head.target
    if head.name.startswith(f"{HOME}/"):
        said |= {"mode": head.mode, "mtime_ns": head.mtime_ns}
    return said


def manifest_head(members: int, content_bytes: int) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "members": members, "bytes": content_bytes}


@dataclass(slots=True)
class Member:
    """One member, while its content is read."""

    head: Head
    content: Iterator[bytes]
    """Of a file; what is left of it is read when the next member is asked for."""


@dataclass(slots=True)
class BundleReader:
    """One pass over an open file, from its beginning. Blocks. Every call raises BundleWrong."""

    file: BinaryIO
    limits: BundleLimits = field(default_factory=BundleLimits)
    digest: str = ""
    """SHA-256 of the manifest, once the pass has ended: who knows it knows all of the bundle."""
    count: int = 0
    """Members, without the manifest."""
    content_bytes: int = 0
    """Of the members, without the manifest."""
    producer: str = ""
    times: dict[str, int] = field(default_factory=dict)
    """When each member of the tree was changed last, in nanoseconds since 1970, once the pass has ended."""
    _lines: list[str] = field(default_factory=list)

    def members(self) -> Iterator[Member]:
        """All but the manifest, in their order. The pass has ended when there are no more."""
        source = _Unpacked(self.file, self.limits)
        tree = _Tree()
        phase, number = -1, 0
        while (head := read_head(source)) is not None:
            now = _phase(head, phase)
            if now != phase:
                _refuse_a_gap(phase, now)
                number = 0
            elif now in _ONCE:
                raise BundleWrong(f"{head.name!r} is there twice")
            phase = now
            if phase == len(_ORDER) - 1:
                self._compare(_all(source, head, 4096 + 2 * sum(len(line) + 64 for line in self._lines)))
                if read_head(source) is not None:
                    raise BundleWrong("something stands behind the manifest")
                source.end()
                return
            self._admit(head, phase, number, tree)
            number += 1
            yield from self._member(source, head)
        raise BundleWrong("the manifest is missing: the file is not whole")

    def _admit(self, head: Head, phase: int, number: int, tree: _Tree) -> None:
        self.count += 1
        if self.count > self.limits.members:
            raise BundleWrong(f"it has more than {self.limits.members} members")
        if len(os.fsencode(head.name)) > NAME_BYTES or len(os.fsencode(head.target)) > NAME_BYTES:
            raise BundleWrong(f"{head.name[:200]!r}… has a name or target of more than {NAME_BYTES} bytes")
        if phase == _TREE:
            tree.add(head)
            return
        if head.kind != "file" or head.mode != 0o600 or head.mtime_ns:
            raise BundleWrong(f"{head.name!r} is not written as this format has it")
        named = re.search(r"/([0-9]+)", head.name)
        if named is not None and int(named[1]) != number:
            raise BundleWrong(f"{head.name!r} stands where number {number} is expected")
        if head.name == DOCUMENT and head.size > DOCUMENT_BYTES:
            raise BundleWrong(f"{DOCUMENT} is larger than {DOCUMENT_BYTES} bytes")

    def _member(self, source: _Unpacked, head: Head) -> Iterator[Member]:
        digest = hashlib.sha256()

        def content() -> Iterator[bytes]:
            left = head.size
            while left:
                piece = source.some(min(left, PIECE))
                left -= len(piece)
                digest.update(piece)
                yield piece

        self.content_bytes += head.size
        if self.content_bytes > self.limits.content_bytes:
            raise BundleWrong(f"it holds more than {self.limits.content_bytes >> 20} MiB")
        pieces = content()
        if head.name == HEAD:
            self._check_head(b"".join(pieces) if head.size <= PIECE else b"")
        yield Member(head, pieces)
        for _ in pieces:
            pass
        source.zeros(padding(head.size))
        self._lines.append(json.dumps(member_line(head, digest.hexdigest())))

    def _check_head(self, data: bytes) -> None:
        try:
            said = json.loads(data)
            if said["format"] != FORMAT:
                raise BundleWrong("this is no bundle of a session")
            version, self.producer = said["version"], str(said["producer"])[:200]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise BundleWrong("this is no bundle of a session") from None
        if version != VERSION or isinstance(version, bool):
            raise BundleWrong(
                f"it was written by {self.producer!r} in version {str(version)[:20]} of the format, and this program "
                f"reads version {VERSION}: upgrade it, or export the session with the older one"
            )

    def _compare(self, manifest: bytes) -> None:
        expected = [json.dumps(manifest_head(self.count, self.content_bytes)), *self._lines]
        said = manifest.split(b"\n")
        if said.pop() != b"":
            raise BundleWrong("the manifest does not end with a line")
        if len(said) != len(expected):
            raise BundleWrong(f"the manifest has {len(said) - 1} members, and the bundle {len(expected) - 1}")
        for told, found in zip(said, expected, strict=True):
            self._compare_line(told, json.loads(found))
        self.digest = hashlib.sha256(manifest).hexdigest()

    def _compare_line(self, told: bytes, found: dict[str, Any]) -> None:
        name = found.get("name", "the bundle")
        try:
            value = json.loads(told)
        except (ValueError, RecursionError):
            raise BundleWrong("the manifest is damaged") from None
        if isinstance(value, dict) and "mtime_ns" in found:
            # The archive has whole seconds, the manifest all of it.
            exact = value.get("mtime_ns")
            if type(exact) is not int or not -(1 << 63) <= exact < 1 << 63:
                raise BundleWrong(f"the manifest has no time for {name!r}")
            self.times[name], value["mtime_ns"] = exact, stored_second(exact) * 1_000_000_000
        if value != found:
            raise BundleWrong(f"{name!r} is not what the manifest says")


def verify(file: BinaryIO, limits: BundleLimits | None = None) -> BundleReader:
    """The pass over `file`, ended. Blocks. Raises BundleWrong."""
    reader = BundleReader(file, limits or BundleLimits())
    for member in reader.members():
        if member.head.name.endswith(".jsonl"):
            for _ in lines(member.content):
                pass
    return reader


def lines(content: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a member, without their ends. Raises BundleWrong for one that is too long, or not ended."""
    rest: list[bytes] = []
    held = 0
    for piece in content:
        *whole, last = piece.split(b"\n")
        for line in whole:
            yield b"".join((*rest, line))
            rest, held = [], 0
        rest.append(last)
        held += len(last)
        if held > LINE_BYTES:
            raise BundleWrong(f"a line is longer than {LINE_BYTES} bytes")
    if held:
        raise BundleWrong("a member ends in the middle of a line")


def solid(piece: bytes) -> int:
    """How many bytes of it are not zero."""
    return 0 if piece == bytes(len(piece)) else len(piece) - piece.count(0)


def _phase(head: Head, before: int) -> int:
    name = head.name
    for phase in range(len(_ORDER)):
        if _ORDER[phase].fullmatch(name):
            if phase < before:
                raise BundleWrong(f"{name[:200]!r} stands in the wrong place")
            return phase
    raise BundleWrong(f"{name[:200]!r} is no member of a bundle of this version")


def _refuse_a_gap(before: int, now: int) -> None:
    for missing in range(before + 1, now):
        if missing in _ONCE:
            raise BundleWrong(f"{(HEAD, DOCUMENT, EVENTS)[missing]} is missing")


def _all(source: _Unpacked, head: Head, most: int) -> bytes:
    if head.kind != "file" or head.size > most:
        raise BundleWrong(f"{head.name!r} is not written as this format has it")
    data = source.exactly(head.size)
    source.zeros(padding(head.size))
    return data


class _Tree:
    """The names below `home`: each below a folder that stands before it, none twice, hard links to files only."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def add(self, head: Head) -> None:
        name, kind = head.name, head.kind
        words = name.split("/")
        if any(word in ("", ".", "..") or len(os.fsencode(word)) > 255 or "\0" in word for word in words):
            raise BundleWrong(f"{name[:200]!r} is no path inside")
        above = "/".join(words[:-1])
        if len(words) == 2:
            if kind != "folder":
                raise BundleWrong(f"{name!r} is no folder")
        elif self._kinds.get(above) != "folder":
            raise BundleWrong(f"{name[:200]!r} is not in a folder")
        if name in self._kinds:
            raise BundleWrong(f"{name[:200]!r} is there twice")
        if head.mode & ~0o1777:
            raise BundleWrong(f"{name[:200]!r} has a mode that nothing here may have")
        if kind == "hardlink" and self._kinds.get(head.target) != "file":
            raise BundleWrong(f"{name[:200]!r} is another name of something that is no file of this bundle")
        if kind == "symlink" and (not head.target or "\0" in head.target):
            raise BundleWrong(f"{name[:200]!r} points nowhere")
        self._kinds[name] = kind


class _Unpacked:
    """What a file of exactly one zstd frame holds. Implements `tar.Source`."""

    def __init__(self, file: BinaryIO, limits: BundleLimits) -> None:
        self._size = _one_frame(file)
        self._limits = limits
        self._nonzero = self._total = 0
        self._held = b""
        unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._reader = unpacker.stream_reader(file, read_size=PIECE, closefd=False)

    def some(self, most: int) -> bytes:
        """At least one byte. Raises BundleWrong at the end."""
        if not self._held:
            try:
                self._held = self._reader.read(PIECE)
            except zstandard.ZstdError as error:
                raise BundleWrong(f"the file is damaged: {error}") from None
            if not self._held:
                raise BundleWrong("the file ends in the middle: it is not whole")
            self._count(self._held)
        given, self._held = self._held[:most], self._held[most:]
        return given

    def exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            pieces.append(self.some(count))
            count -= len(pieces[-1])
        return b"".join(pieces)

    def zeros(self, count: int) -> None:
        if self.exactly(count) != bytes(count):
            raise BundleWrong("something stands between two members")

    def end(self) -> None:
        try:
            if self._held or self._reader.read(1):
                raise BundleWrong("something stands behind the end of the archive")
        except zstandard.ZstdError as error:
            raise BundleWrong(f"the file is damaged: {error}") from None

    def _count(self, piece: bytes) -> None:
        self._total += len(piece)
        self._nonzero += solid(piece)
        most = self._limits
        if self._total > 2 * most.content_bytes + most.members * 4096:
            raise BundleWrong(f"it holds more than {most.content_bytes >> 20} MiB")
        if self._nonzero > FREE_BYTES + most.ratio * self._size:
            raise BundleWrong(f"it unpacks to more than {most.ratio} times its size")


def _one_frame(file: BinaryIO) -> int:
    """The size of the file, which is one zstd frame with a checksum and nothing else. It is at its beginning again."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    begin = file.read(18)
    try:
        if begin[:4] != b"\x28\xb5\x2f\xfd":
            raise BundleWrong("this is no bundle of a session: it does not begin like one")
        facts = zstandard.get_frame_parameters(begin)
        at = zstandard.frame_header_size(begin)
    except zstandard.ZstdError as error:
        raise BundleWrong(f"the file is damaged: {error}") from None
    if not facts.has_checksum or facts.dict_id or facts.window_size > _WINDOW:
        raise BundleWrong("the file is not packed as this format has it")
    last = False
    while not last:
        file.seek(at)
        block = int.from_bytes(file.read(3), "little")
        last, kind = bool(block & 1), block >> 1 & 3
        at += 3 + (1 if kind == 1 else block >> 3)
        if kind == 3 or at > size:
            raise BundleWrong("the file ends in the middle, or is damaged")
    if at + 4 != size:
        raise BundleWrong("the file ends in the middle" if at + 4 > size else "something stands behind the bundle")
    file.seek(0)
    return size
