"""Skills over HTTP: uploads that are skills and uploads that are not, versions, downloads, agents that name them."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.lib import files_from_dir
from anthropic.lib.tools._skills import _extract_skill_archive
from apikit_server import Access, RunningServer
from skillkit import SCRIPT, archive, files, skill_md
from sqlalchemy import select

from hostler.domain.skills import MAX_BYTES, MAX_FILES
from hostler.store.tables_skills import skill_versions, skills

TOOLSET: Any = {"type": "agent_toolset_20260401"}


def custom(skill_id: str, version: str | None = None) -> Any:
    return {"type": "custom", "skill_id": skill_id, **({} if version is None else {"version": version})}


@pytest.mark.endpoint("skills.create", "skills.retrieve", "skills.versions.retrieve", "skills.versions.download")
def test_folder_comes_back_as_one_archive(client: anthropic.Anthropic, tmp_path: Path) -> None:
    folder = tmp_path / "caesar"
    (folder / "scripts").mkdir(parents=True)
    (folder / "SKILL.md").write_bytes(skill_md())
    (folder / "scripts" / "caesar.sh").write_bytes(SCRIPT)
    (folder / "notes ü.txt").write_bytes(b"")
    made = client.beta.skills.create(files=files_from_dir(folder))
    assert (made.display_name, made.source.type, made.type) == ("caesar", "custom", "skill")
    assert made.id.startswith("skill_")
    assert client.beta.skills.retrieve(made.id).to_dict() == made.to_dict()
    version = client.beta.skills.versions.retrieve("latest", skill_id=made.id)
    assert (version.id, version.skill_id, version.type) == (made.latest_version_id, made.id, "skill_version")
    assert (version.name, version.description) == ("caesar", "Speaks like Caesar.")
    assert version.id.startswith("skver_")
    answer = client.beta.skills.versions.download(version.id, skill_id=made.id)
    assert answer.headers["content-type"] == "application/zip"
    content = answer.read()
    with zipfile.ZipFile(io.BytesIO(content)) as got:
        assert got.namelist() == ["caesar/SKILL.md", "caesar/notes ü.txt", "caesar/scripts/caesar.sh"]
        assert {info.create_system for info in got.infolist()} == {3}
        modes = [stat.S_IMODE(info.external_attr >> 16) for info in got.infolist()]
        assert modes == [0o644, 0o644, 0o755]  # a form has no modes: what begins with #! can be run
        assert got.read("caesar/scripts/caesar.sh") == SCRIPT
    # The same files, in whatever order and however sent, are the same archive: here as that archive itself.
    again = client.beta.skills.create(files=[("skill.zip", content)], display_name="Twin")
    assert again.display_name == "Twin"
    assert client.beta.skills.versions.download("latest", skill_id=again.id).read() == content


@pytest.mark.endpoint("skills.versions.download")
def test_executable_bit_survives_the_round_trip(client: anthropic.Anthropic, tmp_path: Path) -> None:
    members = {"top/SKILL.md": skill_md("pdf"), "top/bin/run": b"\x7fELF", "top/read": b"#!/bin/sh\n", "top/deep/": b""}
    sent = archive(members, {"top/bin/run": stat.S_IFREG | 0o4777, "top/deep/": stat.S_IFDIR | 0o777})
    made = client.beta.skills.create(files=[("a.zip", sent)])
    client.beta.skills.versions.download("latest", skill_id=made.id).write_to_file(tmp_path / "got.zip")
    _extract_skill_archive(tmp_path / "got.zip", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["SKILL.md", "bin", "read"]
    assert stat.S_IMODE((tmp_path / "out" / "bin" / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out" / "read").stat().st_mode) == 0o644
    with zipfile.ZipFile(tmp_path / "got.zip") as got:  # named as the skill is, whatever the folder was called
        assert {name.partition("/")[0] for name in got.namelist()} == {"pdf"}
        assert all(info.external_attr >> 16 & 0o7000 == 0 for info in got.infolist())


@pytest.mark.endpoint("skills.versions.create", "skills.versions.list", "skills.versions.delete", "skills.delete")
def test_versions_follow_one_another_and_the_latest_is_the_newest_left(client: anthropic.Anthropic) -> None:
    made = client.beta.skills.create(files=files())
    versions = client.beta.skills.versions
    second = versions.create(made.id, files=files(more=b"2"))
    third = versions.create(made.id, files=files(more=b"3"))
    assert [row.id for row in versions.list(made.id, limit=1)] == [third.id, second.id, made.latest_version_id]
    assert client.beta.skills.retrieve(made.id).latest_version_id == third.id
    assert client.beta.skills.retrieve(made.id).updated_at > made.updated_at
    with pytest.raises(anthropic.BadRequestError, match=r"this is the skill 'brutus', and .* is 'caesar'"):
        versions.create(made.id, files=files("brutus"))
    assert versions.retrieve("latest", skill_id=made.id).id == third.id
    gone = versions.delete(third.id, skill_id=made.id)
    assert (gone.id, gone.type) == (third.id, "skill_version_deleted")
    with pytest.raises(anthropic.NotFoundError):
        versions.retrieve(third.id, skill_id=made.id)
    assert versions.retrieve("latest", skill_id=made.id).id == second.id
    with pytest.raises(anthropic.BadRequestError, match="latest names another one tomorrow"):
        versions.delete("latest", skill_id=made.id)
    assert versions.delete(second.id, skill_id=made.id).id == second.id
    with pytest.raises(anthropic.BadRequestError, match="only version"):
        versions.delete(made.latest_version_id, skill_id=made.id)
    deleted = client.beta.skills.delete(made.id)
    assert (deleted.id, deleted.type) == (made.id, "skill_deleted")
    for look in (
        lambda: client.beta.skills.retrieve(made.id),
        lambda: client.beta.skills.delete(made.id),
        lambda: list(versions.list(made.id)),
        lambda: versions.download("latest", skill_id=made.id),
        lambda: versions.create(made.id, files=files()),
    ):
        with pytest.raises(anthropic.NotFoundError):
            look()


@pytest.mark.endpoint("skills.list")
def test_list_pages_and_filters_by_source(client: anthropic.Anthropic) -> None:
    made = [client.beta.skills.create(files=files(), display_name=f" {n} ").id for n in range(3)]
    assert [row.id for row in client.beta.skills.list(limit=2)] == made[::-1]
    assert [row.display_name for row in client.beta.skills.list(source="custom")] == ["2", "1", "0"]
    assert list(client.beta.skills.list(source="anthropic")) == []
    with pytest.raises(anthropic.BadRequestError, match="source"):
        client.beta.skills.list(source="mine")
    with pytest.raises(anthropic.BadRequestError, match="page"):
        client.beta.skills.list(page="x")


def kept(server: RunningServer, access: Access) -> int:
    """Rows that a workspace has."""

    def count(conn: Any) -> int:
        mine = select(skills.c.id).where(skills.c.workspace_id == access.workspace)
        of_them = select(skill_versions.c.id).where(skill_versions.c.skill_id.in_(mine))
        return len(conn.execute(mine).all()) + len(conn.execute(of_them).all())

    return server.write(count)


MD = skill_md()
MERGES = b"".join(
    b"%c: &%c {<<: [%s], k: v}\n"
    % (ord("a") + n, ord("a") + n, b", ".join([b"*%c" % (ord("a") + n - 1)] * 9 * (n > 0)))
    for n in range(26)
)
"""What fills any memory if it is read, in a few hundred bytes."""
MANY = archive({}) + b"PK\x01\x02" * 4001
LINK = stat.S_IFLNK | 0o777
BAD_FILES: list[tuple[Sequence[tuple[str, bytes]], str]] = [
    ([("SKILL.md", MD)], "one top folder"),
    ([("a/SKILL.md", MD), ("b/x", b"")], "one top folder"),
    ([("a/x", b"")], "SKILL.md is missing"),
    ([("a/skill.md", MD)], "SKILL.md is missing"),
    ([("a/b/SKILL.md", MD)], "SKILL.md is missing"),
    ([("a/SKILL.md", MD), ("a/../x", b"")], "plain relative path"),
    ([("a/SKILL.md", MD), ("../a/x", b"")], "plain relative path"),
    ([("a/SKILL.md", MD), ("a/./x", b"")], "plain relative path"),
    ([("a/SKILL.md", MD), ("/a/x", b"")], "plain relative path"),
    ([("a/SKILL.md", MD), ("a//x", b"")], "plain relative path"),
    ([("a/SKILL.md", MD), ("a/b\\..\\x", b"")], "holds a character"),
    ([("a/SKILL.md", MD), ("a/C:x", b"")], "holds a character"),
    ([("a/SKILL.md", MD), ("a/x", b"1"), ("a/x", b"2")], "is there twice"),
    ([("a/SKILL.md", MD), ("a/skill.md", b"")], "one on some systems"),
    ([("a/SKILL.md", MD), ("a/e\u0301", b""), ("a/\u00e9", b"")], "one on some systems"),
    ([("a/SKILL.md", MD), ("a/x", b""), ("a/x/y", b"")], "one on some systems"),
    ([("a/SKILL.md", MD), ("a/" + "b/" * 16 + "x", b"")], "deeper than 16"),
    ([("a/SKILL.md", MD), ("a/" + "x" * 256, b"")], "longer than"),
    ([("a/SKILL.md", b"# No front matter\n")], "must begin with a line"),
    ([("a/SKILL.md", b"---\nname: a\n")], "must begin with a line"),
    ([("a/SKILL.md", b"---\n" + b"# x\n" * 5000 + b"---\n")], "at most 16 KiB"),
    ([("a/SKILL.md", b"\xff")], "is not UTF-8"),
    ([("a/SKILL.md", b"---\n[a\n---\n")], "is not YAML"),
    ([("a/SKILL.md", b"---\nname: !!int x\n---\n")], "is not YAML"),
    ([("a/SKILL.md", b"---\nname: !!python/object/apply:os.getcwd []\n---\n")], "is not YAML"),
    ([("a/SKILL.md", b"---\n" + b"[" * 10_000 + b"\n---\n")], "nested too deep"),
    ([("a/SKILL.md", b"---\n- a\n---\n")], "must hold"),
    ([("a/SKILL.md", b"---\n" + MERGES + b"---\n")], "holds an alias"),
    ([("a/SKILL.md", b"---\nname: 5\ndescription: d\n---\n")], "name must be text"),
    ([("a/SKILL.md", b"---\nname: a\n---\n")], "has no description"),
    ([("a/SKILL.md", skill_md(description="d" * 1025))], "at most 1024"),
    ([("a/SKILL.md", skill_md(description='"a\\x00b"'))], "control character"),
    ([("a/SKILL.md", skill_md("Not A Slug"))], "is not one of lower-case"),
    ([("a/SKILL.md", skill_md("a" * 65))], "is not one of lower-case"),
    ([("A B/SKILL.md", b"---\ndescription: d\n---\n")], "is not one of lower-case"),
    ([(f"a/{n}", b"") for n in range(MAX_FILES + 1)], "more than 1000 files"),
    ([("a/SKILL.md", MD), ("a/big", bytes(MAX_BYTES))], "larger than 30 MiB"),
    ([("a.zip", b"PK\x03\x04 nonsense")], "can't be read as a zip"),
    ([("a.zip", archive({"a/SKILL.md": MD, "a/x": b"y"})[:-30])], "can't be read as a zip"),
    ([("a.zip", archive({"a/SKILL.md": MD, "../x": b""}))], "plain relative path"),
    ([("a.zip", archive({"a/SKILL.md": MD, "/x": b""}))], "plain relative path"),
    ([("a.zip", archive({"a/SKILL.md": MD, "a/../../x/": b""}))], "plain relative path"),
    ([("a.zip", archive({"a/SKILL.md": MD, "a/l": b"/etc/passwd"}, {"a/l": LINK}))], "link or a special"),
    ([("a.zip", archive({"a/SKILL.md": MD, "a/l": b""}, {"a/l": stat.S_IFIFO | 0o644}))], "link or a special"),
    ([("a.zip", archive({"a/SKILL.md": MD, "a/l/": b"x"}, {"a/l/": LINK}))], "link or a special"),
    ([("a.zip", archive({"a/SKILL.md": MD, "a/bomb": bytes(MAX_BYTES)}))], "times its archive"),
    ([("a.zip", archive({f"a/{n}": b"" for n in range(MAX_FILES + 1)}))], "more than 1000 files"),
    ([("a.zip", archive({}))], "SKILL.md is missing"),
    ([("a.zip", MANY)], "too many entries"),
]


@pytest.mark.parametrize(("uploads", "text"), BAD_FILES, ids=lambda value: value if isinstance(value, str) else "")
def test_upload_that_is_no_skill_is_refused_and_leaves_nothing(
    client: anthropic.Anthropic, access: Access, server: RunningServer, uploads: Any, text: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=text):
        client.beta.skills.create(files=uploads)
    assert kept(server, access) == 0


def test_encrypted_members_and_lying_sizes_are_refused(client: anthropic.Anthropic) -> None:
    plain = archive({"a/SKILL.md": MD, "a/x": b"y" * 5000})
    encrypted = bytearray(plain)
    for begin, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(begin) + flags] |= 1
    with pytest.raises(anthropic.BadRequestError, match="encrypted"):
        client.beta.skills.create(files=[("a.zip", bytes(encrypted))])
    lying = bytearray(plain)
    at = plain.rindex(b"PK\x01\x02") + 24
    lying[at : at + 4] = (1).to_bytes(4, "little")
    with pytest.raises(anthropic.BadRequestError, match="can't be read"):
        client.beta.skills.create(files=[("a.zip", bytes(lying))])


def test_fields_that_are_no_fields_are_refused(client: anthropic.Anthropic, access: Access) -> None:
    for name in ("x" * 256, "two\nlines"):
        with pytest.raises(anthropic.BadRequestError, match="display_name"):
            client.beta.skills.create(files=files(), display_name=name)
    with pytest.raises(anthropic.BadRequestError, match="display_title: is not a field"):
        client.beta.skills.create(files=files(), extra_body={"display_title": "x"})
    made = client.beta.skills.create(files=files())
    with pytest.raises(anthropic.BadRequestError, match="display_name: is not a field"):
        client.beta.skills.versions.create(made.id, files=files(), extra_body={"display_name": "x"})
    assert client.beta.skills.create(files=files(), display_name="é" * 255).display_name == "é" * 255


# --------------------------------------------------------------------------------------------------------- agents


@pytest.mark.endpoint("agents.create", "agents.update")
def test_agent_pins_the_version_of_its_skills(client: anthropic.Anthropic) -> None:
    skill = client.beta.skills.create(files=files())
    first = skill.latest_version_id
    agent = client.beta.agents.create(name="a", model="claude-opus-5-5", tools=[TOOLSET], skills=[custom(skill.id)])
    pinned = {"type": "custom", "skill_id": skill.id, "version": first}
    assert [one.to_dict() for one in agent.skills] == [pinned]
    second = client.beta.skills.versions.create(skill.id, files=files(more=b"2")).id
    named = client.beta.agents.update(agent.id, name="b")
    assert (named.version, [one.to_dict() for one in named.skills]) == (2, [pinned])
    newest = client.beta.agents.update(agent.id, skills=[custom(skill.id, "latest")])
    assert (newest.version, newest.skills[0].version) == (3, second)
    assert client.beta.agents.update(agent.id, skills=[custom(skill.id, second)]).version == 3
    assert client.beta.agents.update(agent.id, skills=[custom(skill.id, first)]).skills[0].version == first
    with pytest.raises(anthropic.BadRequestError, match="read tool"):
        client.beta.agents.update(agent.id, tools=[])
    assert client.beta.agents.update(agent.id, tools=[], skills=None).skills == []
    assert client.beta.agents.retrieve(agent.id, version=2).skills[0].version == first


def test_skills_that_an_agent_can_not_have(client: anthropic.Anthropic, stranger: Access) -> None:
    skill, same = (client.beta.skills.create(files=files()) for _ in range(2))
    with stranger.client() as other:
        theirs = other.beta.skills.create(files=files("theirs"))

    def create(wanted: list[Any], tools: Any = (TOOLSET,)) -> None:
        client.beta.agents.create(name="a", model="claude-opus-5-5", tools=list(tools), skills=wanted)

    off: Any = {"type": "agent_toolset_20260401", "configs": [{"name": "read", "enabled": False}]}
    for tools in ((), (off,)):
        with pytest.raises(anthropic.BadRequestError, match="skills: an agent reads its skills with the read tool"):
            create([custom(skill.id)], tools)
    with pytest.raises(anthropic.BadRequestError, match="upload the folder"):
        create([{"type": "anthropic", "skill_id": "xlsx"}])
    with pytest.raises(anthropic.BadRequestError, match="twice"):
        create([custom(skill.id), custom(skill.id)])
    with pytest.raises(anthropic.BadRequestError, match="two of them are called 'caesar'"):
        create([custom(skill.id), custom(same.id)])
    with pytest.raises(anthropic.BadRequestError, match="at most 20"):
        create([custom(f"skill_{n}") for n in range(21)])
    for missing in (
        custom("skill_x"),
        custom(skill.id, "skver_x"),
        custom(skill.id, same.latest_version_id),
        custom(theirs.id),
        custom(skill.id, theirs.latest_version_id),
    ):
        with pytest.raises(anthropic.NotFoundError):
            create([missing])
    assert list(client.beta.agents.list()) == []


@pytest.mark.endpoint("skills.create", "skills.list", "skills.delete", "skills.versions.delete")
def test_client_of_the_old_generation_uses_every_endpoint(access: Access, old_generation: Path) -> None:
    program = Path(__file__).with_name("old_generation_skills.py")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(old_generation)}
    command = [sys.executable, str(program), access.base_url, access.key]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    emptied = done.stdout.strip()
    with access.client() as client:  # a skill always has a version, for clients of today: this one has none
        assert emptied not in [row.id for row in client.beta.skills.list()]
        with pytest.raises(anthropic.NotFoundError):
            client.beta.skills.retrieve(emptied)
