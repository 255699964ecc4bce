"""An agent, an environment, a session, a task: what happens is told as it happens."""

from talk import MODEL, TOOLSET, connect, message, text_of, use

client = connect()
agent = client.beta.agents.create(name="Clerk", model=MODEL, system="Be brief.", tools=[TOOLSET])
environment = client.beta.environments.create(
    name="quickstart", config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
)
session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id, title="First steps")

with client.beta.sessions.events.stream(session.id) as stream:
    client.beta.sessions.events.send(
        session.id,
        events=[message("How many words has this sentence?", use("bash", command="echo five words | wc -w"), "Two.")],
    )
    for event in stream:
        if event.type == "agent.tool_use":
            print(f"{event.name}: {event.input}")
        elif event.type in ("agent.tool_result", "agent.message"):
            print(f"{event.type}: {text_of(event).strip()}")
        elif event.type == "session.status_idle":
            break

used = client.beta.sessions.retrieve(session.id).usage
print(f"{used.input_tokens} tokens in, {used.output_tokens} out")
