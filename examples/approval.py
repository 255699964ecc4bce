"""A command that a person has to allow, and one that the person forbids."""

from talk import MODEL, connect, message, run, text_of, use

client = connect()
agent = client.beta.agents.create(
    name="Careful",
    model=MODEL,
    tools=[
        {
            "type": "agent_toolset_20260401",
            "configs": [{"name": "bash", "permission_policy": {"type": "always_ask"}}],
        }
    ],
)
environment = client.beta.environments.create(name="approval")
session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)

events = run(
    client,
    session.id,
    message("Tidy up.", use("bash", command="echo tidy"), use("bash", command="rm -rf /workspace"), "Done what I may."),
)
while events[-1].stop_reason.type == "requires_action":
    answers = []
    for event in events:
        if event.type == "agent.tool_use" and event.id in events[-1].stop_reason.event_ids:
            command = str(event.input["command"])
            harmless = not command.startswith("rm ")
            print(f"{'allowed' if harmless else 'denied'}: {command}")
            answer = {"type": "user.tool_confirmation", "tool_use_id": event.id}
            answers.append(
                answer
                | ({"result": "allow"} if harmless else {"result": "deny", "deny_message": "Nothing is removed."})
            )
    events = run(client, session.id, *answers)
    for event in events:
        if event.type == "agent.tool_result":
            print(f"result: {text_of(event).strip()}")
print(next(text_of(event) for event in events if event.type == "agent.message"))
