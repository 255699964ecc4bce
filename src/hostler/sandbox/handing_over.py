"""Which folders and sockets of a specification become the sandbox's own user's, and nobody else's?"""

from __future__ import annotations

import os
from pathlib import Path

from hostler.engine.sandbox_port import SandboxSpec
from hostler.sandbox import users


def give_away(spec: SandboxSpec, uid: int | None, own_range: range, *, group: bool = False) -> None:
    """Blocks. `uid`: the sandbox's own user on the host; None: the worker's. `own_range`: uids of sandboxes.

    `group`: the sandbox has another user of that group, who connects to the sockets, too.
    """
    if uid is None:
        for directory in (spec.workspace, spec.outputs, spec.harness_state):
            directory.chmod(0o700)
        return
    users.hand_over(spec.workspace, uid, always_walk=False, own_range=own_range)
    users.hand_over(spec.outputs, uid, always_walk=False, own_range=own_range)
    # The worker writes into this one between two lives of a session, as root.
    users.hand_over(spec.harness_state, uid, always_walk=True, own_range=own_range)
    for mount in spec.mounts:
        if mount.writable and not mount.live:  # the worker writes there too, as root
            users.hand_over(mount.source, uid, always_walk=True, own_range=own_range)
    for path in (spec.model_socket, spec.egress_socket):
        give_socket(path, uid, group=group)


def give_socket(path: Path, uid: int | None, *, group: bool = False) -> None:
    """Makes a socket one that only `uid` (None: the worker), or its group, may connect to."""
    if uid is not None:
        os.chown(path, uid, uid, follow_symlinks=False)
        os.chmod(path, 0o660 if group else 0o600)
