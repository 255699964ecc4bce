"""How do two snapshots differ?"""

from __future__ import annotations

import os

from hostler.engine.snapshot_port import Change
from hostler.snapshots.manifest import Entry, Manifest


def differences(before: Manifest, after: Manifest) -> list[Change]:
    """Sorted by path. A time alone is no difference, nor is a second name in place of the same bytes."""
    found = []
    for path in sorted(before.by_path.keys() | after.by_path.keys()):
        old, new = before.by_path.get(path), after.by_path.get(path)
        sizes = _size(before, old), _size(after, new)
        if old is None or new is None:
            found.append(Change(shown(path), "added" if old is None else "removed", *sizes))
        elif _what(before, old) != _what(after, new):
            found.append(Change(shown(path), "changed", *sizes))
        elif _file(before, old).mode != _file(after, new).mode:
            found.append(Change(shown(path), "mode", *sizes))
    return found


def _file(manifest: Manifest, entry: Entry) -> Entry:
    return manifest.by_path[entry.target or ""] if entry.kind == "hardlink" else entry


def _what(manifest: Manifest, entry: Entry) -> object:
    entry = _file(manifest, entry)
    return entry.kind, entry.size, entry.spans, entry.target


def _size(manifest: Manifest, entry: Entry | None) -> int | None:
    if entry is None:
        return None
    entry = _file(manifest, entry)
    return entry.size if entry.kind == "file" else None


def shown(path: str) -> str:
    """As text that the wire can carry."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
