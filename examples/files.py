"""A file goes in with the session, another one comes out."""

from talk import MODEL, TOOLSET, connect, message, output, run, use

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
print(f"sum.txt: {output(client, session.id, 'sum.txt').decode().strip()}")
