"""Whatever is sent, the server never fails and never answers off its schema. `scripts/fuzz --requests N`."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from fuzz_things import Things
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "2000"))
SEED = int(os.environ.get("FUZZ_SEED") or secrets.randbelow(1_000_000))
API = Path(__file__).parents[2] / "src" / "hostler" / "api"

schemathesis.serializer.alias("application/zstd", "application/octet-stream")  # a bundle: bytes like others


def _operations(name: str) -> dict[str, APIOperation]:
    document = json.loads((API / name).read_text())
    del document["security"]  # the key is ours to send
    found = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    operations = {operation.definition.raw["operationId"]: operation for operation in found}
    # A stream has no end, and its frames are not in the schema.
    return {name: operation for name, operation in operations.items() if not name.endswith(".stream")}


OPERATIONS = _operations("openapi.json") | _operations("own_openapi.json")
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
LAST = (".archive", ".delete", ".redact", ".revoke", ".stop")
"""These leave little for the others to find."""
COUNTS: dict[str, dict[int, int]] = {}


@pytest.fixture(scope="module")
def things() -> Iterator[Things]:
    """A server in a process of its own, and one of everything in it."""
    with tempfile.TemporaryDirectory(prefix="hostler-fuzz-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        server = Path(__file__).parents[1] / "attacks" / "lone_server.py"
        wanted = json.dumps({"state_dir": folder, "server": {"port": 0}, "worker": {"slots": 2}})
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(server), wanted], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert process.stdin
        assert process.stdout
        told = json.loads(process.stdout.readline())
        try:
            yield Things(told["url"], told["key"])
            assert process.poll() is None, "the server has ended"
            said = (Path(folder) / "log").read_text()
            assert "request_failed" not in said, said[-4000:]
        finally:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()


@pytest.mark.fuzz
@pytest.mark.parametrize("name", sorted(OPERATIONS, key=lambda name: (name.endswith(LAST), name)))
def test_no_request_breaks_the_server(name: str, things: Things) -> None:
    operation = OPERATIONS[name]
    counts = COUNTS.setdefault(name, {})
    session = requests.Session()
    session.trust_env = False

    def send(case: Case) -> None:
        things.aim(case)
        headers = {"authorization": f"Bearer {things.key_for(name)}"}
        response = case.call(base_url=things.url, session=session, timeout=20, headers=headers)
        counts[response.status_code] = counts.get(response.status_code, 0) + 1
        case.validate_response(response, checks=CHECKS)

    each = ceil(REQUESTS / len(OPERATIONS))
    wrong = each * 3 // 10 if _can_be_wrong(operation.definition.raw) else 0
    for mode, count in ((GenerationMode.POSITIVE, each - wrong), (GenerationMode.NEGATIVE, wrong)):
        if not count:
            continue

        @seed(SEED)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def attempt(case: Case) -> None:
            send(case)

        try:
            attempt()
        except BaseException as error:
            error.add_note(f"seed {SEED}")
            raise


def _can_be_wrong(operation: dict[str, Any]) -> bool:
    return bool(operation.get("requestBody") or any(p["in"] == "query" for p in operation["parameters"]))


@pytest.mark.fuzz
def test_enough_requests_were_good_and_bad(capsys: pytest.CaptureFixture[str]) -> None:
    """Last in the file: says what was sent, and fails when all of it was refused."""
    total = sum(count for counts in COUNTS.values() for count in counts.values())
    good = sum(counts.get(200, 0) for counts in COUNTS.values())
    with capsys.disabled():
        print(f"\nseed {SEED}: {total} requests to {len(COUNTS)} endpoints, {good} answered 200")
        for name, counts in sorted(COUNTS.items()):
            print(f"  {name}: " + ", ".join(f"{count} × {status}" for status, count in sorted(counts.items())))
    never = sorted(name for name, counts in COUNTS.items() if 200 not in counts)
    assert good >= total // 5, f"only {good} of {total} requests were accepted; never: {never}"
