"""A file goes in with the session, another one comes out."""

import time

from talk import MODEL, TOOLSET, connect, message, run, use

client = connect()
sheet = client.beta.files.upload(file=("numbers.csv", b"3\n4\n5\n", "text/csv"))
agent = client.beta.agents.create(name="Adder", model=MODEL, tools=[TOOLSET])
environment = client.beta.environments.create(name="files")
session = client.beta.sessions.create(
    agent=agent.id,
    environment_id=environment.id,
    resources=[{"type": "file", "file_id": sheet.id, "mount_path": "/mnt/session/uploads/numbers.csv"}],
)
command = "awk '{s+=$1} END {print s}' /mnt/session/uploads/numbers.csv > /mnt/session/outputs/sum.txt"
run(client, session.id, message("Add the numbers, and leave the sum as a file.", use("bash", command=command), "Done."))

# What stands in /mnt/session/outputs is collected within seconds of the end of the turn.
deadline = time.monotonic() + 30
while not (outputs := client.beta.files.list(scope_id=session.id).data) or "sum.txt" not in [
    f.filename for f in outputs
]:
    if time.monotonic() > deadline:
        raise SystemExit("there is no output")
    time.sleep(0.1)
made = next(file for file in outputs if file.filename == "sum.txt")
print(f"{made.filename}: {client.beta.files.download(made.id).text().strip()}")
