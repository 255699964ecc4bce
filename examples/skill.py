"""A skill: instructions and a program, uploaded once, used by every agent that names it."""

from talk import MODEL, TOOLSET, connect, message, run, text_of, use

SKILL = """\
---
name: roman-numerals
description: Writes numbers the Roman way. Use it whenever somebody asks for Roman numerals.
---
Run `sh roman.sh NUMBER` in this folder, and give back what it prints.
"""
PROGRAM = """\
n=$1; out=
for pair in 1000:M 900:CM 500:D 400:CD 100:C 90:XC 50:L 40:XL 10:X 9:IX 5:V 4:IV 1:I; do
  while [ "$n" -ge "${pair%%:*}" ]; do out=$out${pair#*:}; n=$((n - ${pair%%:*})); done
done
echo "$out"
"""

client = connect()
skill = client.beta.skills.create(
    files=[("roman-numerals/SKILL.md", SKILL.encode()), ("roman-numerals/roman.sh", PROGRAM.encode())]
)
agent = client.beta.agents.create(
    name="Mason", model=MODEL, tools=[TOOLSET], skills=[{"type": "custom", "skill_id": skill.id}]
)
environment = client.beta.environments.create(name="skill")
session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
find = 'sh "$(find / -name roman.sh -path "*roman-numerals*" 2>/dev/null | head -1)" 2026'
events = run(
    client, session.id, message("2026 for the stone, please.", use("bash", command=find), "{{last_tool_result}}")
)
print(next(text_of(event).strip() for event in events if event.type == "agent.message"))
