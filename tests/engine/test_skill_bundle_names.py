"""Whatever names and modes an upload has: it is refused, or what is kept stays inside its folder."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hostler.domain.errors import InvalidRequest
from hostler.engine.skill_bundles import bundle, unpacked

MATTER = b"---\nname: s\ndescription: d\n---\n"

parts = st.sampled_from(
    ["", ".", "..", "a", "A", "b", "SKILL.md", "C:", "\\", "e\u0301", "\u00e9", "\u202e", "x y", "~"]
)
names = st.one_of(
    st.lists(parts, min_size=1, max_size=5).map("/".join),
    st.lists(parts, min_size=1, max_size=4).map(lambda found: "s/" + "/".join(found)),
    st.text(min_size=1, max_size=20),
)
modes = st.sampled_from([0, 0o100644, 0o100755, 0o104755, 0o120777, 0o040755, 0o060600, 0o010600, 0o140777])


def check(sent: list[tuple[str, bytes]], tmp_path: Path) -> None:
    try:
        made = bundle(sent)
    except InvalidRequest:
        return
    names = zipfile.ZipFile(io.BytesIO(made.archive)).namelist()
    assert {f"{made.name}/{m.path}" for m in unpacked(made.archive)} == set(names)
    places: dict[str, str] = {}
    for path in names:
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            here = "/".join(parts[:end]) + ("/" if end < len(parts) else "")
            assert places.setdefault(here.rstrip("/").casefold(), here) == here, "one place for two things"
    assert len(set(names)) == len(names)
    for path in names:
        assert (tmp_path / path).resolve().is_relative_to(tmp_path / made.name)
    for entry in zipfile.ZipFile(io.BytesIO(made.archive)).infolist():
        assert stat.S_ISREG(entry.external_attr >> 16)
        assert entry.external_attr >> 16 & 0o7022 == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(names, max_size=6))
@example(["s/a", "s/A/b"])
@example(["s/a/b", "s/a"])
@example(["s/a", "s/A"])
def test_files_of_any_name(tmp_path_factory: pytest.TempPathFactory, sent: list[str]) -> None:
    check([("s/SKILL.md", MATTER), *((name, b"x") for name in sent)], tmp_path_factory.getbasetemp())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(names, modes, st.sampled_from([0, 3, 10])), max_size=6))
def test_zip_of_any_names_and_modes(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, int, int]]
) -> None:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as packed:
        warnings.simplefilter("ignore")
        packed.writestr("s/SKILL.md", MATTER)
        for name, mode, system in entries:
            try:
                name.encode()
            except UnicodeEncodeError:
                continue
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name  # as it is: the constructor would tidy it up
            info.create_system = system
            info.external_attr = mode << 16
            packed.writestr(info, b"x")
    check([("s.zip", out.getvalue())], tmp_path_factory.getbasetemp())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_for_a_zip_are_refused(tmp_path_factory: pytest.TempPathFactory, rest: bytes) -> None:
    with pytest.raises(InvalidRequest):
        bundle([("s.zip", b"PK\x03\x04" + rest)])
