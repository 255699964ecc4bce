"""Whatever an upload is called, what comes out of it lies in its folder, and is the same whoever packed it."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.domain.errors import InvalidRequest
from hostler.engine.skill_bundles import Member, bundle, unpacked

MD = b"---\nname: a-skill\ndescription: >\n  Two\n  lines.\n---\nText.\n"

plain = st.text(st.sampled_from("abAB.é_- "), min_size=1, max_size=6)
odd = st.sampled_from(["..", ".", "", "/", "\\", "C:", "a\x00b", "\u202e", "con", "SKILL.md", "\udcff", "~", "a" * 300])
names = st.lists(plain | odd, min_size=1, max_size=20).map("/".join)
kinds = st.sampled_from([0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
modes = st.builds(lambda kind, mode: kind | mode, kinds, st.integers(0, 0o7777))


def inside(members: list[Member]) -> None:
    """Nothing of these could be written outside of one folder, or twice, or over one another."""
    paths = [member.path for member in members]
    assert len({path.casefold() for path in paths}) == len(paths)
    for path in paths:
        pure = PurePosixPath(path)
        assert not pure.is_absolute()
        assert str(pure) == path
        assert not {"..", "."} & set(pure.parts)
        assert "\\" not in path
        assert "\x00" not in path
        assert not any(other.startswith(path + "/") for other in paths)


def zipped(entries: list[tuple[str, bytes, int]], system: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo("x")
            # Past the constructor, which would mend it.
            info.filename = info.orig_filename = name
            info.create_system, info.external_attr = system, mode << 16
            archive.writestr(info, content)
    return out.getvalue()


@given(st.lists(st.tuples(names, st.binary(max_size=20), modes), max_size=6), st.sampled_from([0, 3]), st.booleans())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_name_of_an_archive_leads_out_of_the_skill(
    entries: list[tuple[str, bytes, int]], system: int, below: bool
) -> None:
    wanted = [(f"top/{name}" if below else name, content, mode) for name, content, mode in entries]
    try:
        sent = zipped([("top/SKILL.md", MD, 0o644), *wanted], system)
    except UnicodeEncodeError:
        return  # half a surrogate pair has no place in a zip archive at all
    try:
        made = bundle([("a.zip", sent)])
    except InvalidRequest:
        return
    members = unpacked(made.archive)
    inside(members)
    files = {name.removeprefix("top/"): content for name, content, _ in wanted if not name.endswith("/")}
    assert {member.path: member.content for member in members} == {"SKILL.md": MD, **files}


@given(st.lists(st.tuples(names, st.binary(max_size=20)), max_size=6))
def test_no_name_of_a_file_leads_out_of_the_skill(entries: list[tuple[str, bytes]]) -> None:
    try:
        made = bundle([("top/SKILL.md", MD), *((f"top/{name}", content) for name, content in entries)])
    except InvalidRequest:
        return
    members = unpacked(made.archive)
    inside(members)
    assert {member.path: member.content for member in members} == {"SKILL.md": MD, **dict(entries)}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}", fullmatch=True), st.binary(max_size=50)))
def test_same_files_are_the_same_archive_in_whatever_order(found: dict[str, bytes]) -> None:
    entries = [(f"top/{name}", content) for name, content in found.items()]
    try:
        one = bundle([("top/SKILL.md", MD), *entries])
    except InvalidRequest as error:
        assert "would be one" in error.message  # noqa: PT017 - only a file where a folder is
        return
    other = bundle([*(("other" + name[3:], content) for name, content in reversed(entries)), ("other/SKILL.md", MD)])
    assert one == other == bundle([("a.zip", one.archive)])
    assert (one.name, one.description) == ("a-skill", "Two lines.")


def test_highly_compressible_files_can_be_unpacked_again() -> None:
    """What the limit of archives that come in would refuse, were it asked of our own."""
    made = bundle([("top/SKILL.md", MD), ("top/zeros", bytes(20 << 20))])
    assert len(made.archive) * 200 < 20 << 20
    assert {member.path: len(member.content) for member in unpacked(made.archive)} == {
        "SKILL.md": len(MD),
        "zeros": 20 << 20,
    }
    with pytest.raises(InvalidRequest, match="times its archive"):
        bundle([("a.zip", made.archive)])
