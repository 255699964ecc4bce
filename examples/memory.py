"""What one session writes into its memory, the next one knows."""

import time

from talk import MODEL, TOOLSET, connect, message, run, text_of, use

client = connect()
store = client.beta.memory_stores.create(name="House rules", description="What guests like.")
agent = client.beta.agents.create(name="Host", model=MODEL, tools=[TOOLSET])
environment = client.beta.environments.create(name="memory")
notes = {"type": "memory_store", "memory_store_id": store.id}

first = client.beta.sessions.create(agent=agent.id, environment_id=environment.id, resources=[notes])
folder = client.beta.sessions.retrieve(first.id).resources[0].mount_path
write = use("bash", command=f"echo 'Ada takes her tea without milk.' > {folder}/ada.md")
run(client, first.id, message("Remember: Ada takes her tea without milk.", write, "Noted."))

deadline = time.monotonic() + 30
while not (known := client.beta.memory_stores.memories.list(store.id).data):
    if time.monotonic() > deadline:
        raise SystemExit("nothing was remembered")
    time.sleep(0.1)
print(f"in the store: {[memory.path for memory in known]}")

second = client.beta.sessions.create(agent=agent.id, environment_id=environment.id, resources=[notes])
look = use("bash", command=f"cat {folder}/ada.md")
events = run(client, second.id, message("How does Ada take her tea?", look, "{{last_tool_result}}"))
print(next(text_of(event).strip() for event in events if event.type == "agent.message"))
