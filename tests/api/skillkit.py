"""Skills to upload: files as the official helper sends them, and archives of every kind."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Mapping

SCRIPT = b"#!/bin/sh\necho CAESAR SAYS $1\n"


def skill_md(name: str = "caesar", description: str = "Speaks like Caesar.") -> bytes:
    return f"---\nname: {name}\ndescription: {description}\n---\nRun caesar.sh.\n".encode()


def files(name: str = "caesar", **more: bytes) -> list[tuple[str, bytes]]:
    """For `skills.create(files=…)`."""
    return [(f"{name}/SKILL.md", skill_md(name)), *((f"{name}/{path}", content) for path, content in more.items())]


def archive(members: Mapping[str, bytes], modes: Mapping[str, int] | None = None, system: int = 3) -> bytes:
    """A zip archive. `modes`: of `st_mode`, by name; plain files without."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.create_system = system
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            made.writestr(info, content)
    return out.getvalue()
