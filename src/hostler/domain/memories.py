"""What are memory stores and memories, as clients write them? Names, paths, contents, and who wrote what."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from hostler.domain.sessions import TimeRange
from hostler.domain.values import Metadata, MetadataPatch, Text, Value, problem

MAX_CONTENT_BYTES: Final = 102_400
MAX_PATH_BYTES: Final = 1024
MAX_SEGMENTS: Final = 20
MAX_MEMORIES: Final = 2000
"""Memories of one store."""
MAX_FULL_PAGE: Final = 20
"""Items of one page that carries contents."""

ANY_TIME: Final = TimeRange()

Wire = dict[str, Any]
"""A store, memory or version as the wire shows it."""
View = Literal["basic", "full"]
Operation = Literal["created", "modified", "deleted"]
ActorType = Literal["session_actor", "api_actor"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changed a memory: a session (its agent, or the worker that runs its tools), or the holder of an API key."""

    type: ActorType
    id: str


def digest(content: bytes) -> str:
    """The `content_sha256` of these bytes: 64 lowercase hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def path_problem(path: str) -> str | None:
    """What is wrong with `path` as the path of a memory, said so that it can be put right. None: nothing."""
    if not path.startswith("/"):
        return "must start with /"
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not Unicode text"
    if size > MAX_PATH_BYTES:
        return f"has {size} bytes; at most {MAX_PATH_BYTES} are allowed"
    segments = path[1:].split("/")
    if "" in segments:
        return "has an empty segment; write it without doubled or trailing slashes"
    if "." in segments or ".." in segments:
        return "has a segment . or ..; write the path that is meant"
    if len(segments) > MAX_SEGMENTS:
        return f"has {len(segments)} segments; at most {MAX_SEGMENTS} are allowed"
    if not path.isascii() or not path.isprintable():
        for character in path:
            if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp"):
                return f"holds U+{ord(character):04X}, a control, format or separator character; remove it"
        if not unicodedata.is_normalized("NFC", path):
            return "is not in Unicode Normalization Form C; normalise it"
    return None


def _path(path: str) -> str:
    wrong = path_problem(path)
    if wrong is not None:
        raise problem(wrong)
    return path


def _content(text: str) -> str:
    size = len(text.encode())
    if size > MAX_CONTENT_BYTES:
        raise problem(f"has {size} bytes; a memory holds at most {MAX_CONTENT_BYTES}, split it into several")
    return text


def _name(name: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise problem("contains a control character; remove it")
    return name


def _prefix(prefix: str) -> str:
    wrong = "must end with /" if not prefix.endswith("/") else None if prefix == "/" else path_problem(prefix[:-1])
    if wrong is not None:
        raise problem(wrong)
    return prefix


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise problem("is not a SHA-256; write it as 64 lowercase hexadecimal digits")
    return text


Path = Annotated[str, AfterValidator(_path)]
Content = Annotated[str, AfterValidator(_content)]
"""Any Unicode text, taken as it is."""
Sha256 = Annotated[str, AfterValidator(_sha256)]
PathPrefix = Annotated[str, AfterValidator(_prefix)]
StoreName = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_name)]
StoreDescription = Annotated[Text, Field(max_length=1024)]


class CreateMemoryStore(Value):
    """The body of `POST /v1/memory_stores`."""

    name: StoreName
    description: StoreDescription | None = None
    metadata: Metadata = Field(default_factory=dict)


class UpdateMemoryStore(Value):
    """The body of `POST /v1/memory_stores/{id}`. What was not sent stays; a null or empty description clears."""

    name: StoreName | None = None
    description: StoreDescription | None = None
    metadata: MetadataPatch = Field(default_factory=dict)


class CreateMemory(Value):
    """The body of `POST …/memories`."""

    path: Path
    content: Content


class ContentPrecondition(Value):
    """The memory must hold these bytes now."""

    type: Literal["content_sha256"]
    content_sha256: Sha256


class UpdateMemory(Value):
    """The body of `POST …/memories/{id}`. What is null or was not sent stays."""

    path: Path | None = None
    content: Content | None = None
    precondition: ContentPrecondition | None = None


@dataclass(frozen=True, slots=True)
class MemoryQuery:
    """One page of memories in the order of their paths, compared byte by byte."""

    limit: int = 20
    prefix: str = "/"
    depth: Literal[0, 1] = 0
    """1: direct children only, and one item for each folder below `prefix`."""
    view: View = "basic"
    after: str | None = None
    """Path of the item before this page. One that ends in / stands for everything below it."""


@dataclass(frozen=True, slots=True)
class VersionQuery:
    """One page of versions, newest first. Every filter that is given must hold."""

    limit: int = 20
    view: View = "basic"
    memory_id: str | None = None
    operation: Operation | None = None
    session_id: str | None = None
    api_key_id: str | None = None
    service_account_id: str | None = None
    """No version here was ever written by a service account, so this filter finds nothing."""
    created_at: TimeRange = ANY_TIME
    after: tuple[str, str] | None = None
    """`created_at` and id of the version before this page."""


def slug(name: str, taken: frozenset[str] | set[str]) -> str:
    """The folder of a store of this name: lowercase, hyphens for all but letters and digits; not one of `taken`."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:200] or "memory"
    number, found = 1, plain
    while found in taken:
        number += 1
        found = f"{plain}-{number}"
    return found
