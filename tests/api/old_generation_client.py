"""A program of the old generation: run by its own interpreter, with the old client before ours on the path.

Arguments: base URL, key. Everything is checked with strict validation. Prints one JSON object of what it saw.
"""

import json
import sys

import anthropic

base_url, key = sys.argv[1:]
assert anthropic.__version__ == "0.121.0", anthropic.__version__
client = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0, _strict_response_validation=True)

agent = client.beta.agents.create(
    name="Coder", model="claude-opus-4-6", system="s", tools=[{"type": "agent_toolset_20260401"}], metadata={"a": "1"}
)
updated = client.beta.agents.update(agent.id, version=agent.version, description="d")
listed = [row.id for row in client.beta.agents.list()]
versions = [row.version for row in client.beta.agents.versions.list(agent.id)]
environment = client.beta.environments.create(
    name="dev", config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["example.com"]}}
)
assert environment.description == ""
assert [row.description for row in client.beta.environments.list()] == [""]
session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id, title="t")
with client.beta.sessions.events.stream(session.id) as stream:
    client.beta.sessions.events.send(
        session.id, events=[{"type": "user.message", "content": [{"type": "text", "text": "hello"}]}]
    )
    streamed = next(iter(stream)).type
threads = [thread.id for thread in client.beta.sessions.threads.list(session.id)]
sessions = [row.id for row in client.beta.sessions.list(statuses=["idle"])]
models = [model.id for model in client.beta.models.list()]
uploaded = [client.beta.files.upload(file=(f"{n}.txt", b"x", "text/plain")).id for n in range(3)]
files = [file.id for file in client.beta.files.list(limit=2)] == uploaded[::-1]
newer = [file.id for file in client.beta.files.list(before_id=uploaded[0], limit=1)] == [uploaded[1], uploaded[2]]
metadata = client.beta.files.retrieve_metadata(uploaded[0])
assert (metadata.filename, metadata.downloadable, metadata.size_bytes) == ("0.txt", False, 1)
assert client.beta.files.delete(uploaded[0]).type == "file_deleted"
try:
    client.beta.agents.update(agent.id, version=1, name="x")
    conflict = None
except anthropic.ConflictError as error:
    conflict = error.request_id
client.beta.sessions.archive(session.id)
client.beta.sessions.delete(session.id)
client.beta.environments.delete(environment.id)
client.beta.agents.archive(agent.id)

print(
    json.dumps(
        {
            "agent": agent.id, "version": updated.version, "listed": listed, "versions": versions, "streamed": streamed,
            "threads": len(threads), "sessions": sessions == [session.id], "models": "claude-opus-4-6" in models,
            "conflict": conflict, "files": files, "newer": newer,
        }
    )
)  # fmt: skip
