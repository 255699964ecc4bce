"""How is a bundle written? Member after member, each described in the manifest that ends it. Blocks."""

from __future__ import annotations

import hashlib
import json
import os
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import zstandard

from hostler.bundles.limits import DOCUMENT_BYTES, FREE_BYTES, NAME_BYTES, BundleLimits
from hostler.bundles.reading import DOCUMENT, FORMAT, HEAD, MANIFEST, VERSION, manifest_head, member_line, solid
from hostler.bundles.tar import BundleWrong, Head, head_bytes, padding, write_end

_LEVEL: Final = 3
_PART: Final = 1 << 20


class BundleWriter:
    """Writes one bundle to an open file. What is over a limit raises BundleWrong: nobody could read it."""

    def __init__(self, file: BinaryIO, producer: str, created_at: str, limits: BundleLimits | None = None) -> None:
        self.digest = ""
        """SHA-256 of the manifest, when the bundle is complete."""
        self._file = file
        self._limits = limits or BundleLimits()
        self._packer: Any = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).stream_writer(
            file, closefd=False
        )
        self._lines: list[str] = []
        self._content_bytes = self._nonzero = 0
        self._begun: tuple[Head, hashlib._Hash] | None = None
        self._left = 0
        head = {"format": FORMAT, "version": VERSION, "producer": producer, "created_at": created_at}
        self.add_bytes(HEAD, json.dumps(head).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._packer.close()

    def add_bytes(self, name: str, data: bytes) -> None:
        if name == DOCUMENT and len(data) > DOCUMENT_BYTES:
            raise BundleWrong(f"what is to be said of the session is more than {DOCUMENT_BYTES >> 20} MiB")
        self.begin(Head(name, "file", 0o600, 0, len(data)))
        for start in range(0, len(data), _PART):
            self.write(data[start : start + _PART])
        self.end()

    def add_link(self, head: Head) -> None:
        """A folder, a symlink or a hard link."""
        self.begin(head)
        self.end()

    def begin(self, head: Head) -> None:
        """The next member. Its content follows in pieces, then `end`."""
        if len(os.fsencode(head.name)) > NAME_BYTES or len(os.fsencode(head.target)) > NAME_BYTES:
            raise BundleWrong(f"{head.name[:200]!r}… has a name or target of more than {NAME_BYTES} bytes")
        if len(self._lines) >= self._limits.members:
            raise BundleWrong(f"it would have more than {self._limits.members} members (bundles.max_members)")
        self._content_bytes += head.size
        if self._content_bytes > self._limits.content_bytes:
            raise BundleWrong(f"it would hold more than {self._limits.content_bytes >> 20} MiB (bundles.max_mb)")
        self._packer.write(head_bytes(head))
        self._begun, self._left = (head, hashlib.sha256()), head.size

    def write(self, piece: bytes) -> None:
        assert self._begun is not None
        if len(piece) > self._left:
            raise BundleWrong(f"{self._begun[0].name!r} has become longer while it was read")
        self._left -= len(piece)
        self._begun[1].update(piece)
        self._nonzero += solid(piece)
        self._packer.write(piece)

    def end(self) -> None:
        assert self._begun is not None
        head, digest = self._begun
        if self._left:
            raise BundleWrong(f"{head.name!r} has become shorter while it was read")
        self._packer.write(bytes(padding(head.size)))
        self._lines.append(json.dumps(member_line(head, digest.hexdigest())))
        self._begun = None

    def finish(self) -> None:
        """The manifest and the end. Nothing may follow."""
        lines = [json.dumps(manifest_head(len(self._lines), self._content_bytes)), *self._lines]
        manifest = "".join(f"{line}\n" for line in lines).encode()
        self.digest = hashlib.sha256(manifest).hexdigest()
        head = Head(MANIFEST, "file", 0o600, 0, len(manifest))
        self._packer.write(head_bytes(head))
        self._packer.write(manifest)
        self._packer.write(bytes(padding(len(manifest))))
        write_end(self._packer)
        self._packer.close()
        size = self._file.tell()
        if self._nonzero > FREE_BYTES + self._limits.ratio * size:
            raise BundleWrong(
                f"it packs so well that readers would take it for a bomb: more than {self._limits.ratio} times smaller "
                "(bundles.max_ratio). Remove the files that repeat themselves"
            )
