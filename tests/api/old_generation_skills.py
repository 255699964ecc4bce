"""A program of the old generation: every skill endpoint, with strict validation.

Arguments: base URL, key. Run by its own interpreter, with the old client before ours on the path. Prints the id of a
skill without versions.
"""

import sys

import anthropic

base_url, key = sys.argv[1:]
assert anthropic.__version__ == "0.121.0", anthropic.__version__
client = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0, _strict_response_validation=True)
skills, versions = client.beta.skills, client.beta.skills.versions
MD = b"---\nname: caesar\ndescription: Speaks like Caesar.\n---\n"

made = skills.create(files=[("caesar/SKILL.md", MD)], display_title="Caesar")
assert (made.display_title, made.source, made.type) == ("Caesar", "custom", "skill")
first = made.latest_version
assert first is not None
assert (first.isdigit(), len(first)) == (True, 16), first
assert skills.retrieve(made.id).to_dict() == made.to_dict()
assert [row.id for row in skills.list(limit=1, source="custom")] == [made.id]

second = versions.create(made.id, files=[("caesar/SKILL.md", MD), ("caesar/x", b"1")])
assert (second.name, second.directory, second.description) == ("caesar", "caesar", "Speaks like Caesar.")
assert int(second.version) > int(first)
assert [row.version for row in versions.list(made.id, limit=1)] == [second.version, first]
assert versions.retrieve(second.version, skill_id=made.id).id == second.id
assert versions.retrieve("latest", skill_id=made.id).id == second.id
assert versions.download(second.version, skill_id=made.id).read()[:2] == b"PK"

agent = client.beta.agents.create(
    name="a",
    model="claude-opus-4-6",
    tools=[{"type": "agent_toolset_20260401"}],
    skills=[{"type": "custom", "skill_id": made.id, "version": first}],
)
assert versions.retrieve(agent.skills[0].version, skill_id=made.id).version == first

refused = ""
try:
    skills.delete(made.id)
except anthropic.BadRequestError as error:
    refused = str(error)
assert "has versions" in refused
for version in (second.version, first):
    gone = versions.delete(version, skill_id=made.id)
    assert (gone.id, gone.type) == (version, "skill_version_deleted")
assert skills.retrieve(made.id).latest_version is None
assert skills.delete(made.id).type == "skill_deleted"

emptied = skills.create(files=[("caesar/SKILL.md", MD)])
versions.delete(emptied.latest_version or "", skill_id=emptied.id)
assert [row.id for row in skills.list()] == [emptied.id]
print(emptied.id)
