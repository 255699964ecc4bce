"""A tool that only your program can run: the session waits for it, however long that takes."""

from talk import MODEL, connect, message, run, text_of, use

STOCK = {"tea": 12, "coffee": 0}

client = connect()
agent = client.beta.agents.create(
    name="Shopkeeper",
    model=MODEL,
    tools=[
        {
            "type": "custom",
            "name": "in_stock",
            "description": "Tells how many pieces of an article are in stock.",
            "input_schema": {"type": "object", "properties": {"article": {"type": "string"}}, "required": ["article"]},
        }
    ],
)
environment = client.beta.environments.create(name="custom tool")
session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)

events = run(client, session.id, message("Is there tea?", use("in_stock", article="tea"), "{{last_tool_result}} left."))
while events[-1].stop_reason.type == "requires_action":
    answers = []
    for event in events:
        if event.type == "agent.custom_tool_use" and event.id in events[-1].stop_reason.event_ids:
            count = STOCK.get(str(event.input["article"]))
            print(f"asked for {event.input['article']}: {count}")
            answers.append(
                {
                    "type": "user.custom_tool_result",
                    "custom_tool_use_id": event.id,
                    "content": [{"type": "text", "text": "unknown article" if count is None else str(count)}],
                    "is_error": count is None,
                }
            )
    events = run(client, session.id, *answers)
print(next(text_of(event) for event in events if event.type == "agent.message"))
