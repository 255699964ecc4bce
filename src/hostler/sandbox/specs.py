"""Can a sandbox be made from this specification at all, whatever makes it?"""

from __future__ import annotations

import os

from hostler.engine.sandbox_port import SandboxSpec


def check(spec: SandboxSpec) -> None:
    """Raises ValueError, which says what is wrong. Blocks: it looks at the files."""
    for path in (spec.model_socket, spec.egress_socket):
        if not path.is_socket():
            raise ValueError(f"{path} is no socket; open the session's roads before its sandbox is made")
    if not spec.program.is_file():
        raise ValueError(f"{spec.program} is no file")
    for name, value in spec.environment.items():
        if not name or "=" in name:
            raise ValueError(f"{name!r} can't be the name of an environment variable")
        if "\0" in name or "\0" in value:  # attack D1: a NUL ends it early
            raise ValueError(f"a NUL character in the environment variable {name!r}")
    for mount in spec.mounts:
        if not mount.inside.startswith("/") or os.path.normpath(mount.inside) != mount.inside or "\0" in mount.inside:
            raise ValueError(f"{mount.inside!r} is not an absolute, normalised path")
        if not mount.source.exists():
            raise ValueError(f"{mount.source} does not exist")
