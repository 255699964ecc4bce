"""Which writes overwrite a change that the writer has not seen?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest

from hostler.engine.room_changes import MOST_FILES, Changes, Overwritten


@dataclass
class Content:
    """A file that was touched, with what is in it."""

    text: bytes

    @property
    def size(self) -> int:
        return len(self.text)

    def digest(self, count: int) -> bytes | None:
        return None if count > len(self.text) else hashlib.sha256(self.text[:count]).digest()


class World:
    """A common folder: by path, an inode."""

    def __init__(self) -> None:
        self.inodes: dict[str, int] = {}
        self.changes = Changes(self.inodes.get)

    def write(self, who: str, path: str, text: str, inode: int | None = None) -> Overwritten | None:
        self.inodes[path] = inode if inode is not None else self.inodes.get(path, len(self.inodes) + 1)
        return self.changes.wrote(who, path, self.inodes[path], Content(text.encode()))


@pytest.fixture
def world() -> World:
    return World()


def test_who_has_read_what_it_overwrites_is_not_told(world: World) -> None:
    world.write("ann", "map", "one")
    world.changes.read("bob", "map")
    assert world.write("bob", "map", "two") is None


def test_who_has_not_is(world: World) -> None:
    world.write("ann", "map", "one")
    assert world.write("bob", "map", "two") == Overwritten("map", "bob", "ann")
    assert world.write("ann", "map", "three") == Overwritten("map", "ann", "bob")
    assert world.write("ann", "map", "four") is None, "it is its own by now"


def test_what_was_read_before_the_change_does_not_count(world: World) -> None:
    world.write("ann", "map", "one")
    world.changes.read("bob", "map")
    world.write("ann", "map", "one and a half, but not")
    assert world.write("bob", "map", "two") == Overwritten("map", "bob", "ann")


def test_writing_on_at_the_end_overwrites_nothing(world: World) -> None:
    world.write("ann", "log", "ann was here\n")
    assert world.write("bob", "log", "ann was here\nbob, too\n") is None
    assert world.write("ann", "log", "ann was here\nbob, too\nann again\n") is None
    assert world.write("bob", "log", "bob alone") == Overwritten("log", "bob", "ann")


def test_a_file_that_is_moved_over_another_one_overwrites_it(world: World) -> None:
    world.write("ann", "map", "one")
    world.write("bob", "map.new", "two", inode=77)
    world.inodes["map"] = world.inodes.pop("map.new")
    assert world.changes.moved() == [Overwritten("map", "bob", "ann")]
    assert world.changes.moved() == []


def test_unless_it_was_read_first(world: World) -> None:
    world.write("ann", "map", "one")
    world.changes.read("bob", "map")
    world.write("bob", "map.new", "two", inode=77)
    world.inodes["map"] = world.inodes.pop("map.new")
    assert world.changes.moved() == []


def test_whose_change_was_not_seen_is_known_before_it_is_overwritten(world: World) -> None:
    world.write("ann", "map", "one")
    assert world.changes.unseen("bob", "map") == "ann"
    assert world.changes.unseen("ann", "map") is None
    assert world.changes.unseen("bob", "other") is None
    world.changes.read("bob", "map")
    assert world.changes.unseen("bob", "map") is None
    world.changes.forget("bob")
    assert world.changes.unseen("bob", "map") == "ann", "a new process has read nothing"


def test_a_file_that_is_gone_is_forgotten(world: World) -> None:
    world.write("ann", "map", "one")
    del world.inodes["map"]
    assert world.changes.moved() == []
    assert world.write("bob", "map", "two", inode=9) is None


def test_no_more_files_are_remembered_than_there_is_room_for(world: World) -> None:
    for number in range(MOST_FILES + 5):
        world.write("ann", f"file {number}", "x", inode=number)
    assert world.changes.unseen("bob", "file 1") is None
    assert world.changes.unseen("bob", f"file {MOST_FILES}") == "ann"
