"""A folder that a hostile agent has made, or is changing at this moment: nothing outside is read or written."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hostler.domain.memories import digest, slug
from hostler.engine.memory_folder import ASIDE, MemoryFolder
from hostler.engine.memory_merge import UNSENDABLE, merge


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_text("secret")
    return place


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "files"
    place.mkdir()
    return place


def untouched(outside: Path) -> bool:
    return {file.name: file.read_text() for file in outside.iterdir()} == {"secret": "secret"}


def test_links_are_neither_read_nor_followed(root: Path, outside: Path) -> None:
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    folder = MemoryFolder(root)
    found = folder.scan()
    assert found.digests == {"/file": UNSENDABLE, "/folder": UNSENDABLE, "/loop": UNSENDABLE}
    assert sorted(found.hidden) == ["/file", "/folder", "/loop"]
    assert folder.read("/file") is None
    assert folder.read("/folder/secret") is None
    assert folder.state("/folder/secret") == UNSENDABLE, "not surely gone: the agent sees it there"
    folder.remove("/folder/secret")
    assert folder.set_aside("/folder/secret") is None
    assert untouched(outside)


def test_what_is_written_lands_inside_whatever_lies_there(root: Path, outside: Path) -> None:
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / ASIDE).symlink_to(outside)
    os.link(outside / "secret", root / "hard")
    (root / "full").mkdir()
    (root / "full" / "kept").write_text("kept")
    (root / "empty").mkdir()
    folder = MemoryFolder(root)
    for path in ("/file", "/folder/secret", "/hard", "/full", "/empty"):
        folder.write(path, b"new")
        assert (root / path[1:]).read_text() == "new"
        assert not (root / path[1:]).is_symlink()
    folder.explain("why")
    assert untouched(outside)
    assert not (root / ASIDE).is_symlink()
    assert sorted(os.listdir(root / ASIDE)) == ["README", "folder", "full"]
    assert (root / ASIDE / "full" / "kept").read_text() == "kept"
    assert (root / f"{ASIDE}-before").is_symlink()
    folder.explain(None)
    assert sorted(os.listdir(root / ASIDE)) == ["folder", "full"]


def test_things_that_are_no_text_are_said_and_do_not_block(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "binary").write_bytes(b"ok\xff")
    (root / "large").write_bytes(b"x" * 102_401)
    (root / "largest").write_bytes(b"x" * 102_400)
    with open(os.fsencode(root) + b"/\xff\n", "w"):
        pass
    (root / "e\u0301").write_text("decomposed")
    (root / ".hostler-unfinished-1").write_text("half")
    (root / ASIDE).mkdir()
    (root / ASIDE / "x").write_text("never sent")
    found = MemoryFolder(root).scan()
    assert found.digests == {
        "/pipe": UNSENDABLE, "/binary": UNSENDABLE, "/large": UNSENDABLE, "/largest": digest(b"x" * 102_400),
    }  # fmt: skip
    assert len(found.problems) == 5
    assert all(shown.isprintable() or "\n" in shown for shown in found.problems)
    assert not (root / ".hostler-unfinished-1").exists()


def test_deep_trees_are_not_walked_and_not_taken_for_gone(root: Path) -> None:
    deep = root
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "x").write_text("x")
    found = MemoryFolder(root).scan()
    assert found.digests == {}
    assert found.hidden == ["/" + "/".join("d" * 20)]


@pytest.mark.slow
def test_folder_that_turns_into_a_link_while_it_is_used_leads_nowhere(root: Path, outside: Path) -> None:
    """Somebody swaps a folder and a link to outside as fast as possible, while we read, write and remove there."""
    (root / "real").mkdir()
    (root / "real" / "secret").write_text("inside")
    (root / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for source in ("real", "link"):
                try:
                    os.rename(root / source, root / "used")
                    os.rename(root / "used", root / source)
                except OSError:
                    continue

    attacker = threading.Thread(target=swap)
    attacker.start()
    folder = MemoryFolder(root)
    try:
        for number in range(1500):
            try:
                assert folder.read("/used/secret") != b"secret"
                assert digest(b"secret") not in folder.scan().digests.values()
                folder.write("/used/secret", str(number).encode())
                folder.remove("/used/secret")
            except OSError:
                continue
    finally:
        stop.set()
        attacker.join()
    assert untouched(outside)


@pytest.mark.parametrize(
    ("name", "taken", "wanted"),
    [
        ("User Preferences", set(), "user-preferences"),
        ("a__b..c", set(), "a-b-c"),
        ("  Ünïcode! ", set(), "n-code"),
        ("日本語", set(), "memory"),
        ("x" * 255, set(), "x" * 200),
        ("../../etc", set(), "etc"),
        ("Notes", {"notes"}, "notes-2"),
        ("Notes", {"notes", "notes-2"}, "notes-3"),
    ],
)
def test_folder_of_a_store_is_named_after_it(name: str, taken: set[str], wanted: str) -> None:
    assert slug(name, taken) == wanted


B, X, Y = "base", "one", "two"


@pytest.mark.parametrize(
    ("base", "local", "remote", "what"),
    [
        (B, B, B, "alike"), (B, X, X, "alike"), (None, X, X, "alike"),
        (B, B, X, "pull"), (None, None, X, "pull"), (B, None, X, "pull"),
        (B, X, B, "update"), (None, X, None, "create"), (B, X, None, "create"), (B, None, B, "delete"),
        (B, B, None, "remove"), (B, X, Y, "pull_over"), (None, X, Y, "pull_over"),
        (B, UNSENDABLE, B, "kept"), (B, UNSENDABLE, None, "kept"), (None, UNSENDABLE, None, "kept"),
        (B, UNSENDABLE, X, "pull_over"), (B, None, None, "nothing"),
    ],
)  # fmt: skip
def test_each_case_of_a_merge_has_one_answer(
    base: str | None, local: str | None, remote: str | None, what: str
) -> None:
    def side(content: str | None) -> dict[str, str]:
        return {} if content is None else {"/p": content}

    plan = merge(side(base), side(local), side(remote), writable=True)
    found = [name for name in plan.__slots__ if getattr(plan, name)]  # type: ignore[attr-defined]
    assert found == ([] if what == "nothing" else [what])
    read_only = merge(side(base), side(local), side(remote), writable=False)
    assert not read_only.sends
    assert not read_only.pull_over


def test_file_that_moved_is_a_rename_only_without_doubt() -> None:
    plan = merge({"/a": X, "/b": Y, "/c": Y}, {"/z": X, "/y": Y}, {"/a": X, "/b": Y, "/c": Y}, writable=True)
    assert plan.rename == {"/a": "/z"}
    assert (plan.delete, plan.create) == (["/b", "/c"], ["/y"])
