"""What do the parts of a room have in common on the host, and when does it end?

A room is several bubblewrap sandboxes that are one to the outside: one user on the host, one control group with the
room's limits around their own groups. The first part makes both, the last one that ends takes both away.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from hostler.engine.sandbox_port import SandboxLimits, SandboxStats, SharedRoom
from hostler.sandbox import cgroups, leftovers, users
from hostler.sandbox.cgroups import Cgroups, Group
from hostler.sandbox.users import UidPool


@dataclass(slots=True)
class Ground:
    """Of one room that has parts."""

    room_id: str
    uid: int | None
    group: Group
    parts: set[str] = field(default_factory=set)
    """Ids of the sandboxes."""


class Grounds:
    """Of all rooms of one provider. Thread-safe; may block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grounds: dict[str, Ground] = {}

    def enter(
        self,
        room: SharedRoom,
        sandbox_id: str,
        limits: Cgroups,
        name: str,
        pool: UidPool | None,
        before: int,
        own_range: range,
    ) -> Ground:
        """The sandbox is part of the room from now on, and what is common belongs to the room's user.

        `name`: prefix of groups. `before`: owner of the part's files. `own_range`: uids of sandboxes. Raises
        SandboxUnavailable, OSError.
        """
        with self._lock:
            ground = self._grounds.get(room.room_id)
            if ground is None:
                uid = None if pool is None else pool.acquire(before)
                plan = limits.plan(f"{name}-room-{sandbox_id}", room.limits)
                if uid is not None and pool is not None:
                    try:
                        # Only before anybody lives there: whoever does could move it while it is walked through.
                        users.hand_over(room.common, uid, always_walk=True, own_range=own_range)
                    except BaseException:
                        pool.release(uid)
                        raise
                ground = self._grounds[room.room_id] = Ground(room.room_id, uid, plan)
            ground.parts.add(sandbox_id)
            return ground

    def leave(self, sandbox_id: str, pool: UidPool | None) -> None:
        """The sandbox has ended. After the last one nothing of the room runs. Idempotent."""
        with self._lock:
            ground = next((each for each in self._grounds.values() if sandbox_id in each.parts), None)
            if ground is None:
                return
            ground.parts.discard(sandbox_id)
            if ground.parts:
                return
            del self._grounds[ground.room_id]
            if ground.uid is not None and pool is not None:
                leftovers.kill_user(ground.uid)
                pool.release(ground.uid)
            cgroups.remove(ground.group.directories)


def part(limits: SandboxLimits) -> SandboxLimits:
    """What one part of a room may use by itself: the room's groups limit memory, processes and processors."""
    return replace(limits, memory_bytes=None, pids=None, cpus=None)


def together(own: SandboxStats, room: SandboxStats) -> SandboxStats:
    """What to say of a part: what it uses itself, and what the room's limits have kept from it.

    Version 1 of the control groups counts a refusal where it was met, version 2 where the limit is.
    """
    refused = None if own.pids_refused is None else own.pids_refused + (room.pids_refused or 0)
    return replace(own, pids_refused=refused)
