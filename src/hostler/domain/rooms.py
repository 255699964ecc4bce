"""What is a room, and by which rules do the sessions in it live together?

A room is one sandbox with one file system in which several sessions of one environment live, each with a process of its
own (`hosting.pattern` `shared`). A session says with its metadata which room it belongs to, and under which name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from hostler.domain.errors import InvalidRequest
from hostler.domain.values import Value, problem

ROOM_KEY: Final = "hostler.room"
"""Key of a session's metadata: the name of its room. Absent: `main`."""
NAME_KEY: Final = "hostler.room_name"
"""Key of a session's metadata: its name in the room, and of its folder there. Absent: the session's id."""
MAIN: Final = "main"

COMMON: Final = "/room/common"
"""Where the common folder is inside."""
FOLDERS: Final = "/room/sessions"
"""Where the folders of the sessions of a room are inside, to be read, each under its session's name."""

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?"


def _name(text: str) -> str:
    if not re.fullmatch(_NAME, text):
        raise problem(NAME_RULE)
    return text


NAME_RULE: Final = "must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', with a letter or digit first and last"
RoomName = Annotated[str, AfterValidator(_name)]


class SharedRooms(Value):
    """The rules of an environment's rooms."""

    max_sessions: Annotated[int, Field(ge=1, le=64)] = 8
    """Sessions of one room that are not archived."""
    common_writers: Annotated[list[RoomName], Field(min_length=1, max_length=64)] | None = None
    """Names of the sessions that may write in the common folder; the others only read there. Absent: all of them."""
    own_folders: Literal["readable", "private"] = "readable"
    """Whether the other sessions of a room can read a session's own folder. None of them can ever write there."""
    conflicts: Literal["last_writer_wins", "first_writer_wins"] = "last_writer_wins"
    """What becomes of a change that somebody is about to overwrite without having seen it: it is overwritten, and both
    are told; or the tools `write` and `edit` refuse. What `bash` overwrites can only be told afterwards."""


def room_of(metadata: Mapping[str, str]) -> str:
    """The name of the room that a session asks for. Raises InvalidRequest."""
    return _asked(metadata, ROOM_KEY) or MAIN


def name_of(metadata: Mapping[str, str]) -> str | None:
    """The name that it wants there; None: its id. Raises InvalidRequest."""
    return _asked(metadata, NAME_KEY)


def _asked(metadata: Mapping[str, str], key: str) -> str | None:
    value = metadata.get(key)
    if value is not None and not re.fullmatch(_NAME, value):
        raise InvalidRequest(f"metadata.{key}: {NAME_RULE}")
    return value


def refuse_room_keys(metadata: Mapping[str, str]) -> None:
    """For sessions that get no room. Raises InvalidRequest."""
    for key in (ROOM_KEY, NAME_KEY):
        if key in metadata:
            raise InvalidRequest(
                f"metadata.{key}: the environment of this session has no rooms, so it would mean nothing; set "
                "config.hosting.pattern of the environment to shared, or leave it out"
            )


def refuse_moving(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """A session stays in its room. Raises InvalidRequest."""
    for key in (ROOM_KEY, NAME_KEY):
        if before.get(key) != after.get(key):
            raise InvalidRequest(f"metadata.{key}: is fixed when the session is created; leave it as it was")


def room_section(hosting: Mapping[str, object], metadata: Mapping[str, str], session_id: str) -> str:
    """What an agent is told of its room; empty for a session without one."""
    if hosting.get("pattern") != "shared":
        return ""
    rules = SharedRooms.model_validate(hosting.get("shared") or {})
    name = metadata.get(NAME_KEY, session_id)
    lines = [
        f"You share a file system with other agents. Your name there is {name}. /workspace is your own folder: nobody "
        "else writes there."
    ]
    if rules.common_writers is None or name in rules.common_writers:
        lines.append(
            f"{COMMON} belongs to all of you and everybody may change it at any time: read a file again right before "
            "you change it."
        )
    else:
        lines.append(f"{COMMON} belongs to all of you; you can read there, but not write.")
    if rules.own_folders == "readable":
        lines.append(f"You can read the others' own folders in {FOLDERS} while they are at work.")
    return "\n".join(lines)
