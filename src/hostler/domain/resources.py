"""What may a client mount for a session? Files, repositories and memory stores, as `resources` of its creation says."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from hostler.domain.values import Identifier, Items, Text, Value, problem

MAX_FILES: Final = 500
MAX_MEMORY_STORES: Final = 8
MAX_RESOURCES: Final = 520
UPLOADS: Final = "/mnt/session/uploads"
OUTPUTS: Final = "/mnt/session/outputs"
MEMORY: Final = "/mnt/memory"
WORKSPACE: Final = "/workspace"

_KEPT: Final = (
    *("/bin", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/opt/hostler", "/proc", "/root"),
    *("/room", "/run", "/sbin", "/sys", "/tmp", "/usr", OUTPUTS, MEMORY, "/mnt/skills"),
)
"""Places inside a sandbox where nothing may be mounted."""


def _mount_path(path: str) -> str:
    if not path.startswith("/") or len(path) > 1024:
        raise problem("must be an absolute path of at most 1024 characters")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise problem("holds a control character")
    if path.startswith("//") or posixpath.normpath(path) != path:
        raise problem("must be written without `.`, `..`, doubled or trailing slashes")
    if path in ("/", "/mnt", "/mnt/session", UPLOADS, WORKSPACE, "/opt"):
        raise problem(f"{path} holds other things; name a path below it")
    if any(path == kept or path.startswith(kept + "/") for kept in _KEPT):
        raise problem(f"lies in a place that the sandbox needs; use a path below {UPLOADS} or {WORKSPACE}")
    return path


MountPath = Annotated[Text, AfterValidator(_mount_path)]


def _repository_url(url: str) -> str:
    # The address goes to git, to the log and back to the client: nothing in it may be a secret or read as an option.
    if not re.fullmatch(r"https?://[!-~]+", url) or "\\" in url:
        raise problem("must be an http or https URL, such as https://github.com/owner/repository")
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        named = False
        parts = urlsplit("")
    if not named:
        raise problem("names no host; write it like https://github.com/owner/repository")
    if "@" in parts.netloc:
        raise problem("holds a user name or a password; send a token as authorization_token")
    if parts.query or parts.fragment or not repository_name(url):
        raise problem("names no repository; write it like https://github.com/owner/repository")
    return url


def repository_name(url: str) -> str:
    """The last component of a repository's address, fit to be the name of a folder; empty when there is none."""
    last = urlsplit(url).path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    return last if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", last) else ""


def _branch(name: str) -> str:
    # As git itself allows them, less what no one uses and a command could misread.
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)", name)
    if bad or name[0] in "-/." or name[-1] in "/." or name == "@":
        raise problem("is not the name of a branch")
    return name


class FileResource(Value):
    """A file that was uploaded. Read-only inside."""

    type: Literal["file"]
    file_id: Identifier
    mount_path: MountPath | None = None


class BranchCheckout(Value):
    type: Literal["branch"]
    name: Annotated[Text, Field(min_length=1, max_length=255), AfterValidator(_branch)]


class CommitCheckout(Value):
    type: Literal["commit"]
    sha: Annotated[Text, Field(pattern=re.compile(r"^[0-9a-fA-F]{7,64}$"))]


def _token(token: str) -> str:
    if not re.fullmatch(r"[!-~]+", token):
        raise problem("holds characters that no token has; send the token alone")
    return token


Token = Annotated[Text, Field(min_length=1, max_length=4096), AfterValidator(_token)]


class GithubResource(Value):
    """A repository that is cloned outside the sandbox. Its token is never inside."""

    type: Literal["github_repository"]
    url: Annotated[Text, Field(min_length=1, max_length=2048), AfterValidator(_repository_url)]
    authorization_token: Token | None = None
    checkout: Annotated[BranchCheckout | CommitCheckout, Field(discriminator="type")] | None = None
    mount_path: MountPath | None = None


class UpdateResource(Value):
    """The body of `POST /v1/sessions/{id}/resources/{id}`: a new token for a repository."""

    authorization_token: Token


class MemoryResource(Value):
    """A memory store, as a folder of files."""

    type: Literal["memory_store"]
    memory_store_id: Identifier
    access: Literal["read_write", "read_only"] | None = None
    """None is `read_write`."""
    instructions: Annotated[Text, Field(max_length=4096)] | None = None


ResourceRequest = Annotated[FileResource | GithubResource | MemoryResource, Field(discriminator="type")]


def _counts(
    requests: tuple[FileResource | GithubResource | MemoryResource, ...],
) -> tuple[FileResource | GithubResource | MemoryResource, ...]:
    for kind, most, name in ((FileResource, MAX_FILES, "files"), (MemoryResource, MAX_MEMORY_STORES, "memory stores")):
        count = sum(isinstance(request, kind) for request in requests)
        if count > most:
            raise problem(f"has {count} {name}; at most {most} are allowed")
    return requests


ResourceRequests = Annotated[Items[ResourceRequest], Field(max_length=MAX_RESOURCES), AfterValidator(_counts)]
