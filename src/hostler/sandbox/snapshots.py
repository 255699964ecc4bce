"""How is a workspace written down at one point of time? As a tar archive, by find(1) and tar(1).

The workspace is hostile: only plain files, folders and links are named, no link is followed, no other file system is
entered, and names travel between the two programs ended by NUL. Whoever calls makes sure that nothing runs inside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from hostler.engine.sandbox_port import SandboxUnavailable

OWNER = 1000
"""User and group in the archive, whatever they are on this host."""


class SnapshotFailed(Exception):
    """There is no archive. The message is what tar(1) said."""


def write(workspace: Path, target: Path) -> None:
    """Blocks. `target` must not exist; it is for the worker only. Raises SnapshotFailed; then `target` is gone."""
    find, tar = shutil.which("find"), shutil.which("tar")
    if find is None or tar is None:
        raise SandboxUnavailable("a snapshot needs find and tar: apt-get install findutils tar")
    looking = [find, ".", "-xdev", "(", "-type", "f", "-o", "-type", "d", "-o", "-type", "l", ")", "-print0"]
    packing = [
        *(tar, "--create", "--format=posix", "--sparse", "--no-recursion", "--null", "--verbatim-files-from"),
        *(
            "--files-from=-",
            "--numeric-owner",
            f"--owner=agent:{OWNER}",
            f"--group=agent:{OWNER}",
            "--warning=no-file-ignored",
        ),
    ]
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with subprocess.Popen(looking, cwd=workspace, stdout=subprocess.PIPE) as names:
            done = subprocess.run(
                packing, cwd=workspace, stdin=names.stdout, stdout=fd, stderr=subprocess.PIPE, check=False
            )
        if done.returncode != 0 or names.returncode != 0:
            raise SnapshotFailed(done.stderr.decode(errors="replace").strip()[-1000:] or "find failed")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
