"""How do the folders of sessions appear in sandboxes that run already? Implements `FolderViews`, by mounts that spread.

The top folder is a shared mount. A sandbox's mount namespace has a slave of it: what is mounted there on the host turns
up inside, with the flags that it has on the host, and nothing that is done inside comes back.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from hostler.sandbox import loops

_MS_RDONLY: Final = 0x1
_MS_REMOUNT: Final = 0x20
_MNT_DETACH: Final = 0x2
_FLAGS: Final = loops.MS_NOSUID | loops.MS_NODEV


class SpreadViews:
    """Needs the right to mount. All methods block."""

    def open(self, top: Path) -> None:
        top.mkdir(mode=0o755, parents=True, exist_ok=True)
        top.chmod(0o755)
        if _is_mounted(top):
            return
        loops.mount(str(top), str(top), None, loops.MS_BIND)
        loops.mount("none", str(top), None, loops.MS_PRIVATE)
        loops.mount("none", str(top), None, loops.MS_SHARED)

    def show(self, top: Path, name: str, source: Path) -> None:
        point = top / name
        self.hide(top, name)
        point.mkdir(mode=0o755)
        try:
            # Read-only where nobody sees it yet: what spreads must not be writable for a moment.
            staged = top.with_name(f"{top.name}.new")
            staged.mkdir(mode=0o700, exist_ok=True)
            loops.mount(str(source), str(staged), None, loops.MS_BIND)
            try:
                flags = loops.MS_BIND | _MS_REMOUNT | _MS_RDONLY | _FLAGS
                loops.mount("none", str(staged), None, flags)
                loops.mount("none", str(staged), None, loops.MS_PRIVATE)
                loops.mount(str(staged), str(point), None, loops.MS_BIND)
            finally:
                loops.unmount(str(staged), _MNT_DETACH)
        except OSError:
            self.hide(top, name)
            raise

    def hide(self, top: Path, name: str) -> None:
        point = top / name
        if _is_mounted(point):
            loops.unmount(str(point), _MNT_DETACH)  # a program inside may be looking at it
        with suppress(FileNotFoundError):
            point.rmdir()

    def close(self, top: Path) -> None:
        for mounted in loops.mounts_at_or_below(top):
            loops.unmount(mounted.point, _MNT_DETACH)
        for folder in (top.with_name(f"{top.name}.new"), *(top.iterdir() if top.is_dir() else ()), top):
            with suppress(FileNotFoundError):
                folder.rmdir()

    def sweep(self, parent: Path) -> None:
        for top in parent.iterdir() if parent.is_dir() else ():
            if top.is_dir() and not top.name.endswith(".new"):
                self.close(top)


def _is_mounted(folder: Path) -> bool:
    """Not `os.path.ismount`, which sees no mount of a folder of the same file system."""
    return any(mounted.point == str(folder) for mounted in loops.mounts_at_or_below(folder))
