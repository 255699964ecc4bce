"""What is a tar archive that leaves nothing to interpretation?

A bundle is a tar archive in GNU's format, written in one way only: owner 0, no names of users, times in whole seconds,
long names as GNU has them. What is read has to be, byte by byte, what would be written: whatever a lenient reader
would pass over (another owner, other padding, a second end) is refused. Every tar can read it.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, Protocol

from hostler.bundles.limits import NAME_BYTES

Kind = Literal["file", "folder", "symlink", "hardlink"]

BLOCK: Final = 512
_TYPES: Final[dict[Kind, bytes]] = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}
_KINDS: Final[dict[bytes, Kind]] = {code: kind for kind, code in _TYPES.items()}
_LONG: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LAST_SECOND: Final = 8**11 - 1


class BundleWrong(Exception):
    """This is no bundle, or not one that may be read here. The message says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Head:
    """What an archive says of a member before its content."""

    name: str
    """Without a slash at its end. `os.fsencode` gives its bytes."""
    kind: Kind
    mode: int
    mtime_ns: int
    """In the archive only whole seconds of it, of 1970 at the earliest."""
    size: int = 0
    target: str = ""


class Source(Protocol):
    """Where an archive is read from."""

    def exactly(self, count: int) -> bytes:
        """So many bytes. Raises BundleWrong at an early end."""
        ...


def head_bytes(head: Head) -> bytes:
    """The blocks that stand before a member's content."""
    info = tarfile.TarInfo(head.name)
    info.type = _TYPES[head.kind]
    info.mode = head.mode
    info.mtime = stored_second(head.mtime_ns)
    info.size = head.size
    info.linkname = head.target
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def stored_second(mtime_ns: int) -> int:
    """What an archive has of a moment."""
    return min(max(0, mtime_ns // 1_000_000_000), _LAST_SECOND)


def padding(size: int) -> int:
    """How many zeros follow a content of so many bytes."""
    return -size % BLOCK


def read_head(source: Source) -> Head | None:
    """The next member. None: the end, and nothing stands behind it. Raises BundleWrong."""
    raw = source.exactly(BLOCK)
    if raw == bytes(BLOCK):
        if source.exactly(BLOCK) != bytes(BLOCK):
            raise BundleWrong("the archive has half an end")
        return None
    long: dict[bytes, str] = {}
    block = raw
    while block[156:157] in _LONG:
        code = block[156:157]
        size = _parsed(block).size
        if code in long or not 0 < size <= NAME_BYTES + 1:
            raise BundleWrong(f"the archive has a name of {size} bytes; {NAME_BYTES} are allowed")
        text = source.exactly(size + padding(size))
        raw += text
        long[code] = text[:size].removesuffix(b"\0").decode("utf-8", "surrogateescape")
        block = source.exactly(BLOCK)
        raw += block
    info = _parsed(block)
    name = long.get(tarfile.GNUTYPE_LONGNAME, info.name).removesuffix("/")
    kind = _KINDS.get(info.type)
    if kind is None:
        raise BundleWrong(f"{name[:200]!r} is neither a file nor a folder nor a link")
    target = long.get(tarfile.GNUTYPE_LONGLINK, info.linkname)
    head = Head(name, kind, info.mode, int(info.mtime) * 1_000_000_000, info.size, target)
    if (kind != "file" and info.size) or info.size < 0 or head_bytes(head) != raw:
        raise BundleWrong(f"the head of {name[:200]!r} is not written as this format has it")
    return head


def _parsed(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise BundleWrong(f"the archive is damaged: {error}") from None


def write_end(out: BinaryIO) -> None:
    out.write(bytes(2 * BLOCK))
