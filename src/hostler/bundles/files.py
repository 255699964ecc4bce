"""Where is a bundle while it is written or read here? In a file without a name: gone when it is closed, or the
process is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO, cast


def nameless(folder: Path) -> BinaryIO:
    """An empty file on the file system of `folder`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))
