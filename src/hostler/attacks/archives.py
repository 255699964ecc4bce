"""C2: can an uploaded archive write outside of its folder, or unpack into more than anybody wants?"""

from __future__ import annotations

import asyncio
import io
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence

from hostler.attacks.cases import Case, CouldNotRun, OnProxy, Severity
from hostler.attacks.grounds import ProxyGround

SKILL = "---\nname: evil\ndescription: A skill.\n---\nText.\n"
MOST_BYTES = 64 << 20
MOST_FILES = 5000


def _case(id_: str, title: str, attack: OnProxy, severity: Severity = "critical") -> Case:
    return Case(id_, title, severity, "world", proxy=attack)


def archive(fill: Callable[[zipfile.ZipFile], None]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as to:
        to.writestr("evil/SKILL.md", SKILL)
        fill(to)
    return made.getvalue()


def _member(name: str, content: bytes = b"x", mode: int = 0, *, raw: bytes | None = None) -> Callable[[], bytes]:
    """An archive with one more member. `raw`: its name as the bytes of the archive have it, of the same length."""

    def make() -> bytes:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        data = archive(lambda to: to.writestr(info, content))
        return data if raw is None else data.replace(name.encode(), raw)

    return make


def _unpacks(make: Callable[[], bytes]) -> OnProxy:
    """Refused, or unpacked into plain files below one folder, within the limits."""

    async def attack(ground: ProxyGround) -> Sequence[str]:
        unpack = ground.tools.unpack
        if unpack is None:
            raise CouldNotRun("nothing that unpacks archives was given to the attack")
        honest = await asyncio.to_thread(unpack, archive(lambda to: None))
        if not any(content == SKILL.encode() for content in honest.values()):
            raise CouldNotRun("an honest archive can't be unpacked: nothing can be proved")
        data = await asyncio.to_thread(make)
        try:
            files = await asyncio.to_thread(unpack, data)
        except ValueError:
            return ()
        return _judged(files)

    return attack


def _judged(files: Mapping[str, bytes]) -> Sequence[str]:
    found = []
    for path in files:
        parts = path.split("/")
        if path.startswith("/") or "\\" in path or ":" in path or "\0" in path or {"", ".", ".."} & set(parts):
            found.append(f"a file was unpacked to {path!r}")
    if len(files) > MOST_FILES:
        found.append(f"{len(files)} files were unpacked")
    size = sum(map(len, files.values()))
    if size > MOST_BYTES:
        found.append(f"{size >> 20} MiB were unpacked")
    if len({path.casefold() for path in files}) < len(files):
        found.append("two names are one on some file systems")
    found += [f"{path!r} was taken as a plain file" for path, content in files.items() if content == _TARGET]
    return found


_TARGET = b"/etc/passwd-as-a-target"


def _bomb() -> bytes:
    return archive(lambda to: to.writestr("evil/zeros", bytes(200 << 20)))


def _lying_bomb() -> bytes:
    """Says that it unpacks into ten bytes."""
    data = archive(lambda to: to.writestr("evil/zeros", bytes(100 << 20)))
    return data.replace(struct.pack("<I", 100 << 20), struct.pack("<I", 10))


def _many() -> bytes:
    def fill(to: zipfile.ZipFile) -> None:
        for number in range(MOST_FILES + 1000):
            to.writestr(f"evil/{number}", b"")

    return archive(fill)


def _twice() -> bytes:
    def fill(to: zipfile.ZipFile) -> None:
        to.writestr("evil/name", b"one")
        to.writestr("evil/NAME", b"two")

    return archive(fill)


def _kind(kind: int) -> Callable[[], bytes]:
    return _member("evil/special", _TARGET, kind | 0o777)


CASES = (
    _case("C2.1", "an archive with dots in a name", _unpacks(_member("evil/../../outside"))),
    _case("C2.2", "an archive with an absolute name", _unpacks(_member("/outside"))),
    _case("C2.3", "an archive with a backslash in a name", _unpacks(_member("evil/..\\..\\outside"))),
    _case("C2.4", "an archive with a drive in a name", _unpacks(_member("evil/C:outside"))),
    _case("C2.5", "an archive with NUL in a name", _unpacks(_member("evil/aXb", raw=b"evil/a\0b")), "high"),
    _case("C2.6", "an archive with an empty part in a name", _unpacks(_member("evil//outside")), "high"),
    _case("C2.7", "an archive with a symbolic link", _unpacks(_kind(stat.S_IFLNK))),
    _case("C2.8", "an archive with a device", _unpacks(_kind(stat.S_IFCHR))),
    _case("C2.9", "an archive with a pipe", _unpacks(_kind(stat.S_IFIFO)), "high"),
    _case("C2.10", "an archive with a socket", _unpacks(_kind(stat.S_IFSOCK)), "high"),
    _case("C2.11", "a bomb", _unpacks(_bomb)),
    _case("C2.12", "a bomb that lies about its size", _unpacks(_lying_bomb)),
    _case("C2.13", "an archive with thousands of files", _unpacks(_many), "high"),
    _case("C2.14", "two names that differ in capitals only", _unpacks(_twice), "high"),
)
