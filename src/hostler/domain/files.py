"""What is a file called, and what kind of file is it? Whatever its sender says, and whoever the sender is."""

from __future__ import annotations

import mimetypes
import re
from typing import Final

MIN_EXPIRES_SECONDS: Final = 3_600
MAX_EXPIRES_SECONDS: Final = 7_776_000
MAX_NAME: Final = 255
"""Characters, and bytes in UTF-8, of a name."""
MOST_PATH_BYTES: Final = 2_000
"""Of an output's path that is remembered: what an index of PostgreSQL holds."""
MAX_IDS: Final = 100
SNIFFED: Final = 4_096
"""How many of a file's first bytes tell its kind."""
UNKNOWN: Final = "application/octet-stream"

_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f<>:"|?*\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]{1,127}"
_MIME = re.compile(rf"{_TOKEN}/{_TOKEN}")
_MAGIC: Final = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
)
_BY_NAME = mimetypes.MimeTypes()  # the library's own table: what a host has in /etc makes no difference
_OFFICE = "application/vnd.openxmlformats-officedocument."
for _type, _suffix in (
    ("text/markdown", ".md"),
    ("application/x-ndjson", ".jsonl"),
    ("text/yaml", ".yaml"),
    (f"{_OFFICE}wordprocessingml.document", ".docx"),
    (f"{_OFFICE}spreadsheetml.sheet", ".xlsx"),
    (f"{_OFFICE}presentationml.presentation", ".pptx"),
):
    _BY_NAME.add_type(_type, _suffix)


def safe_name(sent: str | None, mime_type: str) -> str:
    """The last component of what was sent, without what no file system shows; `unnamed.<ext>` when nothing is left."""
    last = re.split(r"[/\\]", sent or "")[-1]
    name = _cut(_UNPRINTABLE.sub("_", last).strip())
    if not name.strip("._ ") and name.strip("_") in ("", ".", ".."):
        return f"unnamed{_BY_NAME.guess_extension(mime_type) or '.bin'}"
    return name


def safe_path(path: str) -> str:
    """The same for a relative path, each component by itself: slashes stay."""
    return "/".join(_cut(_UNPRINTABLE.sub("_", part.replace("\\", "_"))) for part in path.split("/"))


def mime_type(sent: str | None, name: str, beginning: bytes) -> str:
    """As it was sent, or else by the first bytes, the name, and whether it reads as text."""
    said = (sent or "").partition(";")[0].strip().lower()
    if said != UNKNOWN and _MIME.fullmatch(said):
        return said
    by_name = _BY_NAME.guess_type(name)
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return "image/webp"
    for magic, kind in _MAGIC:
        if beginning.startswith(magic):
            # A zip can be an office document, which only its name tells.
            generic = kind in ("application/zip", "application/gzip")
            return by_name[0] if generic and by_name[0] and not by_name[1] else kind
    if by_name[0] is not None and by_name[1] is None:
        return by_name[0]
    return "text/plain" if beginning and _is_text(beginning) else UNKNOWN


def _is_text(beginning: bytes) -> bool:
    try:
        beginning.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut off in the middle.
        if len(beginning) < SNIFFED or error.start < len(beginning) - 3:
            return False
    return b"\x00" not in beginning


def _cut(name: str) -> str:
    """At most 255 bytes; the suffix survives."""
    if len(name.encode()) <= MAX_NAME:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix.encode()) > 32:
        stem, dot, suffix = name, "", ""
    room = MAX_NAME - len((dot + suffix).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + suffix
