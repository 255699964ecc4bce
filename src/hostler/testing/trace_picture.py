"""Draws the trace of a real session: a server, a real `claude` in a real sandbox, the rehearsal model, a collector.

python -m hostler.testing.trace_picture docs/images/trace-of-a-session.svg
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic

from hostler.testing.otlp import OtlpReceiver, ReceivedSpan
from hostler.testing.rehearsal import prompt, step, text, tool
from hostler.testing.waterfall import draw

SENT = "POST /v1/sessions/{session_id}/events"
STEPS = [
    step(text("I look at the folder, and whether the registry can be reached. ", rate=12), tool(
        "bash", command="ls -la; sleep 0.2; curl -s -m 3 https://registry.example.com/ || true"
    )),
    step(text("The registry is out of reach, so I write the list from what is here. ", rate=12), tool(
        "write", file_path="/workspace/list.txt", content="nothing yet\n"
    )),
    step(text("Done: the list is in list.txt.", rate=12)),
]  # fmt: skip


@asynccontextmanager
async def served(folder: Path, endpoint: str) -> Any:
    """A server of its own, by its command line; gives its address and a key."""
    environ = {
        **os.environ,
        "HOSTLER_STATE_DIR": str(folder),
        "HOSTLER_MODEL__REHEARSE": "true",
        "HOSTLER_TELEMETRY__TRACES": "otlp",
        "HOSTLER_TELEMETRY__ENDPOINT": endpoint,
    }
    program = [sys.executable, "-m", "hostler.cli.main", "serve", "--json", "--port", "0"]
    log = (folder / "server.log").open("wb")
    server = await asyncio.create_subprocess_exec(*program, env=environ, stdout=asyncio.subprocess.PIPE, stderr=log)
    try:
        assert server.stdout is not None
        line = await server.stdout.readline()
        if not line:
            raise RuntimeError((folder / "server.log").read_text())
        yield json.loads(line)["base_url"], json.loads((folder / "client.json").read_text())["api_key"]
    finally:
        server.terminate()
        await server.wait()
        log.close()


async def session_spans(folder: Path) -> Sequence[ReceivedSpan]:
    """All spans of the trace of one message."""
    async with OtlpReceiver() as collector:
        async with served(folder, collector.url) as (base_url, key):
            async with anthropic.AsyncAnthropic(base_url=base_url, api_key=key) as client:
                agent = await client.beta.agents.create(
                    name="Librarian", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
                )
                environment = await client.beta.environments.create(
                    name="closed",
                    config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["pypi.example.com"]}},
                )
                session = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
                async with await client.beta.sessions.events.stream(session.id) as stream:
                    said: Any = [{"type": "user.message", "content": [{"type": "text", "text": prompt(STEPS)}]}]
                    await client.beta.sessions.events.send(session.id, events=said)
                    async for event in stream:
                        if event.type == "session.status_idle":
                            break
                await collector.until(lambda spans: any(span.name == "claude_code.interaction" for span in spans))
        top = next(span for span in collector.spans if span.name == SENT)
        return [span for span in collector.spans if span.trace_id == top.trace_id]


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spans = asyncio.run(session_spans(Path(folder)))
    top = next(span for span in spans if span.name == SENT)
    version = top.resource["service.version"]
    picture = draw(
        spans,
        top,
        "One message to a new session, as one trace",
        f"A real run of Hostler {version}: real claude in a real sandbox, three requests to the rehearsal model.",
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(picture)
    print(f"{target}: {len(spans)} spans")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/trace-of-a-session.svg"))
