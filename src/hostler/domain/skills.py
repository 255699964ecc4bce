"""What is a skill, and how large may one be? Its limits, its names, and how an agent asks for it.

A skill is a folder: `SKILL.md` at its top says when to use it, next to whatever programs and texts it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from hostler.domain.errors import InvalidRequest
from hostler.domain.tools import AgentToolset, CustomTool, McpToolset
from hostler.domain.values import Identifier, Items, Value, problem

MAX_SKILLS: Final = 20
"""Of one agent."""
MAX_DISPLAY_NAME: Final = 255
MAX_NAME: Final = 64
MAX_DESCRIPTION: Final = 1_024
MAX_FILES: Final = 1_000
"""Of one version; folders are not counted."""
MAX_BYTES: Final = 30 << 20
"""Of one version: all its files together, unpacked, and the archive that brings them."""
MAX_RATIO: Final = 200
"""How many times larger than the archive its files may be, beyond the first MiB."""
MAX_DEPTH: Final = 16
"""Folders in folders, the top one included."""
MAX_PATH: Final = 512
"""Bytes of a path in UTF-8."""
MAX_FRONT_MATTER: Final = 16 << 10
"""Bytes."""
SKILL_FILE: Final = "SKILL.md"
MOUNT: Final = "/mnt/skills"
"""Where the skills of a session are, in a sandbox of this server."""
LATEST: Final = "latest"

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffd]")


class CustomSkill(Value):
    """A skill of this workspace, as a request names it. Without a version, or with `latest`: its newest."""

    type: Literal["custom"]
    skill_id: Identifier
    version: Identifier | None = None


class PinnedSkill(Value):
    """A skill as an agent version holds it: at one version, for good."""

    type: Literal["custom"] = "custom"
    skill_id: str
    version: str


@dataclass(frozen=True, slots=True)
class SessionSkill:
    """A skill as a session holds it: what there is to know, whatever becomes of the skill later."""

    skill_id: str
    version: str
    name: str
    description: str
    sha256: str
    size_bytes: int


def _null_is_empty(value: object) -> object:
    return [] if value is None else value


def _ours_only(value: object) -> object:
    for item in value if isinstance(value, (list, tuple)) else ():
        if isinstance(item, dict) and item.get("type") == "anthropic":
            raise problem(
                "of type anthropic are published by Anthropic and not part of this server; upload the folder of such "
                "a skill with skills.create, and name it as type custom"
            )
    return value


def _distinct(skills: tuple[CustomSkill, ...]) -> tuple[CustomSkill, ...]:
    ids = [skill.skill_id for skill in skills]
    for skill_id in ids:
        if ids.count(skill_id) > 1:
            raise problem(f"names {skill_id} twice; once is enough")
    return skills


SkillRequests = Annotated[
    Items[CustomSkill],
    Field(max_length=MAX_SKILLS),
    BeforeValidator(_ours_only),
    BeforeValidator(_null_is_empty),
    AfterValidator(_distinct),
]
"""What a `skills` field of a request holds; null is the empty list."""


def check_readable(
    tools: Iterable[AgentToolset | McpToolset | CustomTool], skills: Iterable[Any], *, at: str = ""
) -> None:
    """Raises InvalidRequest when there are skills, and no tool to read them. `at` is put before the field's name."""
    if any(True for _ in skills) and not any(
        isinstance(tool, AgentToolset) and tool.of("read").enabled for tool in tools
    ):
        raise InvalidRequest(
            f"{at}skills: an agent reads its skills with the read tool, which is not enabled; add "
            '{"type": "agent_toolset_20260401"} to tools with read enabled, or clear skills'
        )


def check_names(names: Iterable[str], *, at: str = "") -> None:
    """Raises InvalidRequest when two skills of one agent have the same name, which is their folder's."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"{at}skills: two of them are called {name!r}, and share one folder; leave one out")
        seen.add(name)


def checked_name(name: str) -> str:
    """The name of a skill. Raises InvalidRequest."""
    if len(name) > MAX_NAME or not _SLUG.fullmatch(name):
        raise InvalidRequest(
            f"{SKILL_FILE}: the name {name[:100]!r} is not one of lower-case letters, digits and single hyphens, such "
            f"as roman-numerals, of at most {MAX_NAME}"
        )
    return name


def checked_description(description: str) -> str:
    """Raises InvalidRequest."""
    text = " ".join(description.split())
    if not text:
        raise InvalidRequest(f"{SKILL_FILE}: has no description; say there what the skill does and when to use it")
    if len(text) > MAX_DESCRIPTION:
        raise InvalidRequest(f"{SKILL_FILE}: the description has {len(text)} characters; at most {MAX_DESCRIPTION}")
    if _CONTROL.search(text):
        raise InvalidRequest(f"{SKILL_FILE}: the description holds a control character; remove it")
    return text


def checked_display_name(field: str, given: str | None) -> str | None:
    """None when nothing was given. Raises InvalidRequest."""
    text = (given or "").strip()
    if len(text) > MAX_DISPLAY_NAME:
        raise InvalidRequest(f"{field}: must have at most {MAX_DISPLAY_NAME} characters")
    if _CONTROL.search(text):
        raise InvalidRequest(f"{field}: must be a single line without control characters")
    return text or None


def safe_member(name: str) -> tuple[str, ...]:
    """The components of a path inside a skill, its top folder first. Raises InvalidRequest for what is no such path.

    Nothing is repaired: a path that could mean something else on another system is refused.
    """
    shown = name.encode("utf-8", "replace").decode()[:200]
    parts = tuple(name.split("/"))
    # (U+FFFD is what a name that isn't UTF-8 has become.)
    if _CONTROL.search(name) or "\\" in name or ":" in name:
        raise InvalidRequest(f"files: {shown!r} holds a character that no path here may have; rename the file")
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidRequest(
            f"files: {shown!r} is not a plain relative path; send one like my-skill/{SKILL_FILE}, without `..`"
        )
    if len(name.encode()) > MAX_PATH or any(len(part.encode()) > 255 for part in parts):
        raise InvalidRequest(
            f"files: the path {shown!r}… is longer than {MAX_PATH} bytes, or one of its names than 255"
        )
    if len(parts) > MAX_DEPTH:
        raise InvalidRequest(f"files: {shown!r} lies deeper than {MAX_DEPTH} folders")
    return parts
