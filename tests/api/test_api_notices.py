"""What a session tells its user besides the contract's events is read by strict clients of both generations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from apikit_queue import QueueServer, Yard

from hostler.domain import events as ev
from hostler.engine.denials import told
from hostler.engine.egress_port import EgressDecision
from hostler.engine.state import Step

READ = """
import json, sys, anthropic
base_url, key, session, version = sys.argv[1:]
assert anthropic.__version__.startswith(version), anthropic.__version__
client = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0, _strict_response_validation=True)
environment = client.beta.environments.retrieve(client.beta.sessions.retrieve(session).environment_id)
events = list(client.beta.sessions.events.list(session))
print(json.dumps([[type(e).__name__, e.error.type, e.error.message, e.error.retry_status.type] for e in events]))
"""


@pytest.mark.parametrize("version", ["2.", "0.121."])
def test_a_denial_is_an_event_for_strict_clients(
    queue_server: QueueServer, yard: Yard, old_generation: Path, version: str
) -> None:
    with yard.access.client() as client:
        agent = client.beta.agents.create(name="Coder", model="claude-opus-5-5").id
        config = {
            "type": "cloud",
            "networking": {"type": "limited", "rules": [{"host": "api.example.com", "methods": ["GET"]}]},
            "isolation": {"technology": "bubblewrap"},
            "limits": {"disk_mb": 512, "open_files": 1024},
            "hosting": {"cli_version": "2.1.300"},
            "preset": "development",
        }
        environment = client.beta.environments.create(name="all of it", config=config).id  # type: ignore[arg-type]
        session = client.beta.sessions.create(agent=agent, environment_id=environment).id
    denied = EgressDecision(session, "CONNECT", "x.example.com", 443, False, "host_not_allowed", "Add it.")
    notice = told(denied, None)
    queue_server._apply(
        session, lambda s, at, *_: Step(s, (ev.notice(at.text, notice.kind, notice.message, notice.details),))
    )

    environ = {"PATH": os.environ["PATH"]}
    if version == "0.121.":
        environ["PYTHONPATH"] = str(old_generation)
    done = subprocess.run(
        [sys.executable, "-c", READ, yard.access.base_url, yard.access.key, session, version],
        env=environ,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    message = "Hostler denied x.example.com:443 (host_not_allowed). Add it."
    assert json.loads(done.stdout) == [["BetaManagedAgentsSessionErrorEvent", "unknown_error", message, "retrying"]]
