"""Which technologies does a server of these tests try at its start? Only bubblewrap, unless a test is about another.

A server tries every technology that it could use by running a program in a sandbox of each. To start gVisor takes
longer than all else that a server does before it listens, and the tests start hundreds of servers.
"""

from __future__ import annotations

from typing import Final

NARROW: Final = {
    "HOSTLER_SANDBOX__TECHNOLOGY": "bubblewrap",
    "HOSTLER_SANDBOX__GVISOR__RUNSC": "/nonexistent/runsc",
    "HOSTLER_SANDBOX__MICROVM__QEMU": "/nonexistent/qemu",
}
"""Variables for the environment of a server. The other rungs are tested in `ladder`."""
