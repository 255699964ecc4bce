"""Clients of the old generation (`x-api-key`, `?beta=true`, version 2023-06-01) work unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from apikit_server import Access


def test_old_client_creates_streams_and_deletes(access: Access, old_generation: Path) -> None:
    program = Path(__file__).with_name("old_generation_client.py")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(old_generation)}
    done = subprocess.run(
        [sys.executable, str(program), access.base_url, access.key],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("conflict").startswith("req_")
    assert seen == {
        "agent": seen["agent"],
        "version": 2,
        "listed": [seen["agent"]],
        "versions": [2, 1],
        "streamed": "user.message",
        "threads": 1,
        "sessions": True,
        "models": True,
        "files": True,
        "newer": True,
    }
