"""A session's copy of a store and the store have both gone on since they were last alike: who gets what from whom?

Decided path by path, from three digests: what both had then (`base`), what the session's folder has now (`local`), and
what the store has now (`remote`). Pure; `engine.memory_files` performs it. Where both changed, the store wins and the
session's version is set aside. Where one side deleted what the other changed, the change wins. Nothing here depends on
whether an earlier attempt was cut off: what arrived already looks the same on both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

UNSENDABLE: Final = "unsendable"
"""In place of a digest: something is there that no memory can hold."""

Digests = Mapping[str, str]
"""Path to content digest."""


@dataclass(slots=True)
class Plan:
    """What to do. Every path is in at most one of these."""

    alike: dict[str, str] = field(default_factory=dict)
    """Nothing to do: both sides have this digest."""
    create: list[str] = field(default_factory=list)
    update: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    """Old path to new path: the memory keeps its id."""
    pull: list[str] = field(default_factory=list)
    pull_over: list[str] = field(default_factory=list)
    """Set aside what lies there, then pull."""
    remove: list[str] = field(default_factory=list)
    """From the folder: the store has deleted it."""
    kept: list[str] = field(default_factory=list)
    """Stays in the folder and is not sent."""

    @property
    def sends(self) -> bool:
        return bool(self.create or self.update or self.delete or self.rename)


def merge(base: Digests, local: Digests, remote: Digests, *, writable: bool) -> Plan:
    """The plan that makes both sides alike, as far as they can be.

    local  a path that is missing here is surely missing in the folder.
    """
    plan = Plan()
    for path in sorted({*base, *local, *remote}):
        _decide(plan, path, base.get(path), local.get(path), remote.get(path), writable)
    _find_renames(plan, base, local)
    return plan


def _decide(plan: Plan, path: str, base: str | None, local: str | None, remote: str | None, writable: bool) -> None:
    if local == remote:
        if remote is not None:
            plan.alike[path] = remote
    elif not writable or local == base:
        (plan.remove if remote is None else plan.pull).append(path)
    elif local == UNSENDABLE:
        (plan.kept if remote in (base, None) else plan.pull_over).append(path)
    elif remote == base:
        if local is None:
            plan.delete.append(path)
        else:
            (plan.create if remote is None else plan.update).append(path)
    elif remote is None:
        plan.create.append(path)
    else:
        (plan.pull if local is None else plan.pull_over).append(path)


def _find_renames(plan: Plan, base: Digests, local: Digests) -> None:
    """A file that went and one that came with the same content are one memory that moved, if there is no doubt."""
    gone, come = _alone(plan.delete, base), _alone(plan.create, local)
    for content in gone.keys() & come.keys():
        plan.delete.remove(gone[content])
        plan.create.remove(come[content])
        plan.rename[gone[content]] = come[content]


def _alone(paths: Collection[str], digests: Digests) -> dict[str, str]:
    """The paths whose content no other of them has, by content."""
    found: dict[str, str] = {}
    twice = set()
    for path in paths:
        content = digests[path]
        if content in found:
            twice.add(content)
        found[content] = path
    return {content: path for content, path in found.items() if content not in twice}
