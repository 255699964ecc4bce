"""Tools that run on a machine of yours: Anthropic's own worker serves the sessions of a `self_hosted` environment."""

import asyncio
import os
import tempfile
from itertools import chain

import anthropic
from anthropic.lib.environments import EnvironmentWorker
from talk import MODEL, TOOLSET, connect, message, text_of, use


async def work(environment_id: str, key: str, folder: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=os.environ["HOSTLER_URL"], auth_token=key, api_key=None) as client:
        await EnvironmentWorker(client, environment_id=environment_id, environment_key=key, workdir=folder).run()


async def main() -> None:
    client = connect()
    environment = client.beta.environments.create(name="my machine", config={"type": "self_hosted"})
    made = client.post(f"/hostler/v1/environments/{environment.id}/keys", body={"name": "worker"}, cast_to=object)
    agent = client.beta.agents.create(name="Remote", model=MODEL, tools=[TOOLSET])
    with tempfile.TemporaryDirectory() as folder:
        worker = asyncio.create_task(work(environment.id, made["secret"], folder))
        session = client.beta.sessions.create(
            agent=agent.id,
            environment_id=environment.id,
            initial_events=[message("Where are you?", use("bash", command="pwd"), "In {{last_tool_result}}.")],
        )
        said = await asyncio.to_thread(final_words, client, session.id)
        print(said.replace(folder, "the worker's folder"))
        worker.cancel()
        await asyncio.wait([worker])


def final_words(client: anthropic.Anthropic, session_id: str) -> str:
    """The agent's last message, once the turn is over. Calls in between are answered by the worker."""
    with client.beta.sessions.events.stream(session_id) as stream:
        for event in chain(client.beta.sessions.events.list(session_id), stream):
            if event.type == "agent.message":
                return text_of(event)
    raise SystemExit("the stream ended")


asyncio.run(main())
