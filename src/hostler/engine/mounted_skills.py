"""How does a skill come into a session? Unpacked once on this host, mounted read-only, and told to the model.

Claude would look for skills in its own settings folder, but only if told to read the settings there, which the agent
can write: then it could give itself hooks and permissions. So the model is told of its skills in the system prompt,
and reads them with the read tool like anything else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hostler.domain.errors import HostlerError
from hostler.domain.skills import MOUNT, SKILL_FILE, SessionSkill
from hostler.engine.attachments import Attachment
from hostler.engine.sandbox_port import Mount
from hostler.engine.skill_bundles import unpacked
from hostler.engine.skills import of_snapshot
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.store.sessions import SessionRow
from hostler.store.skills import mounted_archives

log = logging.getLogger("hostler.mounted_skills")


class MountedSkills(Attachment):
    """Lays skills out in `folder`: each archive once, under its digest, for all sessions of this host.

    Nobody in a sandbox can write there. What an earlier life of the server left is removed by `clear`, so that a
    folder that a power failure cut short is never mounted.
    """

    SWEEP_SECONDS = 3_600.0

    def __init__(self, database: Database, blobs: Blobs, folder: Path) -> None:
        self._database = database
        self._blobs = blobs
        self._folder = folder
        self._laying = asyncio.Lock()

    def clear(self) -> None:
        """Before the first session is served: what is there was laid out by an earlier life."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def lay_out(self, session: SessionRow, home: Path) -> Sequence[Mount]:
        """Raises StoreDamaged when an archive is missing."""
        return await self.ahead(session)

    async def ahead(self, session: SessionRow) -> Sequence[Mount]:
        mounts = []
        for skill in of_snapshot(session.environment):
            place = self._folder / skill.sha256
            async with self._laying:
                if not await asyncio.to_thread(place.is_dir):
                    archive = await self._blobs.read_all(Blob(skill.sha256, skill.size_bytes))
                    await asyncio.to_thread(self._unpack, archive, place)
            mounts.append(Mount(place, f"{MOUNT}/{skill.name}"))
        return mounts

    async def sweep(self) -> int:
        """Remove what no session needs that can still run. How many went."""
        async with self._laying:
            there = await asyncio.to_thread(self._laid_out)
            used = await self._database.read(lambda c: mounted_archives(c, there))
            unused = [name for name in there if name not in used]
            for name in unused:
                await asyncio.to_thread(shutil.rmtree, self._folder / name, ignore_errors=True)
            return len(unused)

    async def keep_swept(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(self.SWEEP_SECONDS)
            try:
                await self.sweep()
            except (HostlerError, OSError):
                log.exception("skills_not_swept")

    # -- in threads

    def _laid_out(self) -> list[str]:
        return sorted(path.name for path in self._folder.glob("*")) if self._folder.is_dir() else []

    def _unpack(self, archive: bytes, place: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o711)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        try:
            for member in unpacked(archive):
                target = fresh / member.path
                _make_parents(fresh, target.parent)
                target.write_bytes(member.content)
                target.chmod(0o755 if member.executable else 0o644)
            fresh.chmod(0o755)  # whatever the umask
            os.rename(fresh, place)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def _make_parents(top: Path, folder: Path) -> None:
    for part in reversed([folder, *folder.parents]):
        if part != top and part.is_relative_to(top):
            part.mkdir(mode=0o755, exist_ok=True)
            part.chmod(0o755)


def skills_section(environment: Mapping[str, Any]) -> str | None:
    """What the model is told about the skills of its session; None without any. `environment`: the snapshot."""
    skills: Sequence[SessionSkill] = of_snapshot(environment)
    if not skills:
        return None
    # The official worker, which serves sessions elsewhere, puts them into its working directory.
    top = "skills" if environment["config"].get("type") == "self_hosted" else MOUNT
    lines = [
        "# Skills",
        "",
        "These folders teach you how to do certain things well, with instructions and often with programs. When a task "
        f"fits a description, read the {SKILL_FILE} of that skill before you begin, and do as it says. Paths in it are "
        "relative to its folder. Skills are read-only.",
        "",
    ]
    lines += [f"- {skill.name} ({top}/{skill.name}/{SKILL_FILE}): {skill.description}" for skill in skills]
    return "\n".join(lines)
