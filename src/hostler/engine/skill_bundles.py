"""How does an upload become a skill? Checked as a whole, then packed anew, always to the same bytes.

What comes in is files with paths, or one zip archive. What goes out is an archive of our own making: one top folder
with the skill's name, sorted, dated alike, with modes of Unix that say only "executable or not". Nothing of an
uploaded archive but names, contents and that bit survives. Blocking: call it in a thread.
"""

from __future__ import annotations

import io
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import yaml

from hostler.domain.errors import InvalidRequest
from hostler.domain.skills import (
    MAX_BYTES,
    MAX_FILES,
    MAX_FRONT_MATTER,
    MAX_RATIO,
    SKILL_FILE,
    checked_description,
    checked_name,
    safe_member,
)

_UNIX: Final = (3, 19)
"""Systems (of `create_system`) whose archives hold a mode."""
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PIECE = 64 << 10


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a skill, by its path below the top folder."""

    path: str
    content: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class Bundle:
    """A skill that was checked."""

    name: str
    description: str
    archive: bytes


def bundle(uploads: Sequence[tuple[str, bytes]]) -> Bundle:
    """`uploads`: file name as it was sent, and content. Raises InvalidRequest; then nothing was done."""
    if not uploads:
        raise InvalidRequest(f"files: is required; send the files of the skill, such as my-skill/{SKILL_FILE}")
    name, content = uploads[0]
    if len(uploads) == 1 and content[:2] == b"PK" and not name.endswith("/" + SKILL_FILE):
        found = _of_archive(content, min(MAX_BYTES, max(1 << 20, MAX_RATIO * len(content))))
    else:
        # A form says nothing of modes: what begins like a program is one.
        found = [(safe_member(name), content, content[:2] == b"#!") for name, content in uploads]
    top, members = _under_one_top(found)
    described = _front_matter(members)
    name = checked_name(described.get("name") or top)
    description = checked_description(described.get("description", ""))
    return Bundle(name, description, _packed(name, members.values()))


def unpacked(archive: bytes) -> list[Member]:
    """The files of an archive that `bundle` made."""
    _, members = _under_one_top(_of_archive(archive, MAX_BYTES))
    return list(members.values())


# ------------------------------------------------------------------------------------------------------- reading


Found = tuple[tuple[str, ...], bytes, bool]


def _of_archive(content: bytes, room: int) -> list[Found]:
    """Every file of a zip archive, of at most `room` bytes together. What it says of itself is not believed."""
    try:
        # Before zipfile makes an object of each entry, however many the rest of the archive has room for.
        if content.count(b"PK\x01\x02") > 4 * MAX_FILES:
            raise InvalidRequest(f"files: the archive has too many entries; a skill has at most {MAX_FILES} files")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found: list[Found] = []
            for info in archive.infolist():
                member = _member(info)
                if member is not None:
                    taken = _extracted(archive, info, room)
                    room -= len(taken)
                    found.append((member, taken, bool(_mode(info) & 0o111)))
            return found
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise InvalidRequest(f"files: can't be read as a zip archive ({str(error)[:100]}); pack it again") from None


def _member(info: zipfile.ZipInfo) -> tuple[str, ...] | None:
    """Where an entry goes; None for a folder. Raises InvalidRequest."""
    # zipfile cuts a name at a NUL, and turns the system's separators: the name as it was sent is what counts.
    sent = info.orig_filename
    folder = sent.endswith("/")
    parts = safe_member(sent[:-1] if folder else sent)
    kind = stat.S_IFMT(_mode(info))
    if info.flag_bits & 0x1:
        raise InvalidRequest(f"files: {sent[:200]!r} is encrypted; pack the skill without a password")
    if info.compress_type not in _READABLE:
        raise InvalidRequest(f"files: {sent[:200]!r} is packed in an unusual way; use plain zip (deflate)")
    if kind not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
        raise InvalidRequest(f"files: {sent[:200]!r} is a link or a special file; a skill has plain files only")
    if folder and info.file_size:
        raise InvalidRequest(f"files: {sent[:200]!r} is a folder with content; pack the skill again")
    return None if folder else parts


def _mode(info: zipfile.ZipInfo) -> int:
    return info.external_attr >> 16 if info.create_system in _UNIX else 0


def _extracted(archive: zipfile.ZipFile, info: zipfile.ZipInfo, room: int) -> bytes:
    taken = bytearray()
    with archive.open(info) as source:
        while piece := source.read(_PIECE):
            taken += piece
            if len(taken) > room:
                raise InvalidRequest(
                    f"files: the skill is larger than {MAX_BYTES >> 20} MiB, or {MAX_RATIO} times its archive; make "
                    "it smaller"
                )
    return bytes(taken)


def _under_one_top(found: Iterable[Found]) -> tuple[str, dict[str, Member]]:
    """The name of the one top folder, and what is below it, by path. Raises InvalidRequest."""
    tops: set[str] = set()
    members: dict[str, Member] = {}
    spelled: dict[str, str] = {}
    size = 0
    for parts, content, executable in found:
        tops.add(parts[0])
        if len(parts) == 1 or len(tops) > 1:
            raise InvalidRequest(
                f"files: all files must lie in one top folder, as in my-skill/{SKILL_FILE}; {parts[0][:200]!r} doesn't"
            )
        path = "/".join(parts[1:])
        if path in members:
            raise InvalidRequest(f"files: {path!r} is there twice; send it once")
        size += len(content)
        if size > MAX_BYTES:
            raise InvalidRequest(f"files: the skill is larger than {MAX_BYTES >> 20} MiB; make it smaller")
        if len(members) >= MAX_FILES:
            raise InvalidRequest(f"files: the skill has more than {MAX_FILES} files; leave some out")
        members[path] = Member(path, content, executable)
        for end in range(2, len(parts) + 1):
            _same_spelling(spelled, "/".join(parts[1:end]), is_file=end == len(parts))
    return next(iter(tops), ""), members


def _same_spelling(spelled: dict[str, str], path: str, *, is_file: bool) -> None:
    """Two names that some file systems take for one, or a file where a folder is. Raises InvalidRequest."""
    key = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", path).casefold())
    entry = path if is_file else path + "/"
    other = spelled.setdefault(key, entry)
    if other != entry:
        raise InvalidRequest(f"files: {entry!r} and {other!r} would be one on some systems; rename one of them")


# ------------------------------------------------------------------------------------------------------- SKILL.md


class _NoAliases(yaml.SafeLoader):
    """What `safe_load` reads, without aliases: a few lines of them, merged into one another, fill any memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name); write the value out")
        return super().compose_node(parent, index)


def _front_matter(members: Mapping[str, Member]) -> dict[str, str]:
    """`name` and `description`, as far as SKILL.md has them. Raises InvalidRequest."""
    member = members.get(SKILL_FILE)
    if member is None:
        raise InvalidRequest(f"files: {SKILL_FILE} is missing; put it right into the top folder of the skill")
    try:
        text = member.content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{SKILL_FILE}: is not UTF-8") from None
    lines = text.splitlines()
    marks = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    end = marks[1] if marks[:1] == [0] and len(marks) > 1 else 0
    head = "\n".join(lines[1:end])
    if not end or len(head.encode()) > MAX_FRONT_MATTER:
        raise InvalidRequest(
            f"{SKILL_FILE}: must begin with a line `---`, then `name: …` and `description: …`, then a line `---` "
            f"(at most {MAX_FRONT_MATTER >> 10} KiB)"
        )
    try:
        read = yaml.load(head, Loader=_NoAliases)
    except RecursionError:
        raise InvalidRequest(f"{SKILL_FILE}: the front matter is nested too deep") from None
    except Exception as error:
        # Constructors of SafeLoader let out whatever their Python calls raise, as for `!!int x`.
        reason = " ".join(str(error).split())[:200]
        raise InvalidRequest(f"{SKILL_FILE}: the front matter is not YAML: {reason}") from None
    if not isinstance(read, dict):
        raise InvalidRequest(f"{SKILL_FILE}: the front matter must hold `name: …` and `description: …`")
    found: dict[str, str] = {}
    for field in ("name", "description"):
        value = read.get(field)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidRequest(f"{SKILL_FILE}: {field} must be text; put it in quotes")
        found[field] = value
    return found


# ------------------------------------------------------------------------------------------------------- packing


def _packed(name: str, members: Iterable[Member]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for member in sorted(members, key=lambda member: member.path):
            info = zipfile.ZipInfo(f"{name}/{member.path}", _EPOCH)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | (0o755 if member.executable else 0o644)) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.content)
    return out.getvalue()
