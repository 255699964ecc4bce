"""A file that is no whole, unchanged bundle is refused, whatever was done to it, and nothing else happens."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from bundlefile import DOCUMENT, EVENTS, TREE, Opened, lines, packed, written

from hostler.bundles import reading
from hostler.bundles.checking import check
from hostler.bundles.limits import BundleLimits
from hostler.bundles.tar import BundleWrong, Head, head_bytes
from hostler.bundles.writing import BundleWriter

WHOLE = written()


def refused(data: bytes, words: str = "", limits: BundleLimits | None = None) -> str:
    with pytest.raises(BundleWrong) as caught:
        check(io.BytesIO(data), limits)
    assert words in str(caught.value), caught.value
    return str(caught.value)


def test_a_whole_one_is_taken_and_says_what_is_in_it() -> None:
    found = check(io.BytesIO(WHOLE))
    assert found.event_ids == ("sevt_1", "sevt_2")
    assert found.times["home/workspace/a.txt"] == 2_000_000_002
    assert found.tree == len(TREE)
    assert found.producer == "hostler 0"
    # Packed again by somebody else it is the same bundle.
    assert check(io.BytesIO(packed(Opened.of(WHOLE).plain(), level=19))).digest == found.digest


def test_every_tar_reads_it() -> None:
    plain = Opened.of(WHOLE).plain()
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        assert archive.getmember("home/workspace/link").linkname == "/usr/bin/env"
        assert archive.extractfile("home/workspace/sub/" + "n" * 150).read() == b"abc"  # type: ignore[union-attr]


def test_no_flipped_bit_changes_anything() -> None:
    """In the file as it is sent a flip is refused, or unpacks to the same bytes; in the archive it is refused, when
    somebody packs it again."""
    digest = check(io.BytesIO(WHOLE)).digest
    for at in range(0, len(WHOLE), 7):
        try:
            assert check(io.BytesIO(flipped(WHOLE, at))).digest == digest
        except BundleWrong:
            continue
    plain = Opened.of(WHOLE).plain()
    for at in range(0, len(plain), 41):
        refused(packed(flipped(plain, at)))


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << at % 8
    return bytes(changed)


@pytest.mark.parametrize("name", sorted({part.name for part in Opened.of(WHOLE).parts}))
def test_no_member_may_be_removed_doubled_or_moved(name: str) -> None:
    gone, doubled, moved = Opened.of(WHOLE), Opened.of(WHOLE), Opened.of(WHOLE)
    at = next(n for n, part in enumerate(gone.parts) if part.name == name)
    del gone.parts[at]
    refused(gone.packed())
    doubled.parts.insert(at, doubled.parts[at])
    refused(doubled.packed())
    part = moved.parts.pop(at)
    moved.parts.insert(at - 1 if at else len(moved.parts), part)
    if name != "home/outputs":
        refused(moved.packed())
    moved.parts.remove(part)
    moved.parts.insert(0 if at else 1, part)
    refused(moved.packed())


@pytest.mark.parametrize("name", sorted({part.name for part in Opened.of(WHOLE).parts if part.content}))
def test_no_content_may_be_another(name: str) -> None:
    changed = Opened.of(WHOLE)
    part = changed[name]
    part.content = part.content[:-1] + bytes([part.content[-1] ^ 1])
    refused(changed.packed())


@pytest.mark.parametrize("size", [0, 1, 17, 18, 100, len(WHOLE) // 2, len(WHOLE) - 1])
def test_half_a_file_is_none(size: int) -> None:
    refused(WHOLE[:size])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WHOLE + b"x", "behind the bundle"),
        (WHOLE + WHOLE, "behind the bundle"),
        (packed(Opened.of(WHOLE).plain() + b"x"), "behind the end"),
        (packed(Opened.of(WHOLE).plain()[:-512]), "in the middle"),
        (packed(Opened.of(WHOLE).plain()[:-1024]), "in the middle"),
        (packed(Opened.of(WHOLE).plain(), write_checksum=False), "not packed"),
        (packed(b"x" * 2000), "damaged"),
        (b"PK\x03\x04" + WHOLE, "does not begin"),
        (Opened.of(WHOLE).plain(), "does not begin"),
    ],
)
def test_what_is_around_it(data: bytes, words: str) -> None:
    refused(data, words)


def put(head: Head, content: bytes = b"", before: str = "manifest.jsonl") -> Callable[[Opened], None]:
    return lambda opened: opened.put(head, content, before=before)


def head_of(name: str, **changes: Any) -> Callable[[Opened], None]:
    """The member's head says something else; the checksum is right."""

    def change(opened: Opened) -> None:
        info = tarfile.TarInfo.frombuf(opened[name].head[-512:], "utf-8", "surrogateescape")
        for field, value in changes.items():
            setattr(info, field, value)
        opened[name].head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")

    return change


IN = "home/workspace/"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(Head("other.json", "file", 0o600, 0), b"{}"), "no member"),
        (put(Head("/etc/passwd", "file", 0o644, 0), b"x"), "no member"),
        (put(Head("home/workspace/../../up", "file", 0o644, 0), b"x"), "no path inside"),
        (put(Head("home/workspace/./a", "file", 0o644, 0), b"x"), "no path inside"),
        (put(Head("home/workspace//a", "file", 0o644, 0), b"x"), "no path inside"),
        (put(Head("home/../etc", "file", 0o644, 0), b"x"), "no member"),
        (put(Head("home/state", "folder", 0o755, 0)), "no member"),
        (put(Head("home/workspacex", "folder", 0o755, 0)), "no member"),
        (put(Head("home/repositories", "symlink", 0o777, 0, 0, "/etc")), "no folder"),
        (put(Head(IN + "link/inside", "file", 0o644, 0), b"x"), "not in a folder"),
        (put(Head(IN + "a.txt/inside", "file", 0o644, 0), b"x"), "not in a folder"),
        (put(Head(IN + "nowhere/a", "file", 0o644, 0), b"x"), "not in a folder"),
        (put(Head(IN + "a.txt", "file", 0o644, 0), b"x"), "twice"),
        (put(Head(IN + "h", "hardlink", 0o644, 0, 0, "/etc/shadow")), "no file of this bundle"),
        (put(Head(IN + "h", "hardlink", 0o644, 0, 0, "home/workspace/link")), "no file of this bundle"),
        (put(Head(IN + "h", "hardlink", 0o644, 0, 0, "events.jsonl")), "no file of this bundle"),
        (put(Head(IN + "later", "hardlink", 0o644, 0, 0, "home/workspace/not yet")), "no file of this bundle"),
        (put(Head(IN + "s", "symlink", 0o777, 0, 0, "")), "points nowhere"),
        (put(Head(IN + "suid", "file", 0o4755, 0), b"x"), "mode"),
        (put(Head(IN + "n" * 256, "file", 0o644, 0), b"x"), "no path inside"),
        (put(Head(IN + "a/" * 9000 + "a", "file", 0o644, 0), b"x"), "name of"),
        (put(Head("transcripts/3.jsonl", "file", 0o600, 0), b"", "archives/0.jsonl"), "number 2 is expected"),
        (put(Head("transcripts/02.jsonl", "file", 0o600, 0), b"", "archives/0.jsonl"), "no member"),
        (put(Head("transcripts/2.jsonl", "file", 0o600, 0), b"", "archives/0.jsonl"), "manifest has"),
        (put(Head("files/1", "file", 0o600, 0), b"x", "home/workspace"), "manifest has"),
        (put(Head("skills/0.zip", "file", 0o600, 0), b"x", "files/0"), "manifest has"),
        (put(Head("files/1", "symlink", 0o600, 0, 0, "0"), b"", "home/workspace"), "not written as"),
        (put(Head(IN + "new", "file", 0o644, 0), b"x"), "manifest has"),
        (head_of("home/workspace/a.txt", type=tarfile.CHRTYPE), "neither a file"),
        (head_of("home/workspace/a.txt", type=tarfile.FIFOTYPE), "neither a file"),
        (head_of("home/workspace/a.txt", type=tarfile.CONTTYPE), "neither a file"),
        (head_of("home/workspace/a.txt", type=b"S"), "neither a file"),
        (head_of("home/workspace/a.txt", type=b"x"), "neither a file"),
        (head_of("home/workspace/a.txt", uid=1000), "not written as"),
        (head_of("home/workspace/a.txt", uname="root"), "not written as"),
        (head_of("home/workspace/a.txt", mtime=7), "not what the manifest says"),
        (head_of("home/workspace/a.txt", mode=0o755), "not what the manifest says"),
        (head_of("home/workspace/link", linkname="/etc"), "not what the manifest says"),
        (head_of("home/workspace", size=512), "not written as"),
        (head_of("home/workspace/a.txt", size=1 << 40), "holds more than"),
    ],
)
def test_members_that_are_none(change: Callable[[Opened], None], words: str) -> None:
    opened = Opened.of(WHOLE)
    change(opened)
    refused(opened.packed(), words)


def manifest(change: Callable[[list[dict[str, Any]]], None]) -> bytes:
    opened = Opened.of(WHOLE)
    part = opened["manifest.jsonl"]
    said = [json.loads(line) for line in part.content.splitlines()]
    change(said)
    part.content = lines(said)
    part.head = head_bytes(Head(part.name, "file", 0o600, 0, len(part.content)))
    return opened.packed()


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said[0].update(version=2),
        lambda said: said[0].update(bytes=1),
        lambda said: said[0].update(more=1),
        lambda said: said[3].update(sha256="0" * 64),
        lambda said: said[3].update(size=1),
        lambda said: said[3].update(more=1),
        lambda said: said[8].update(mtime_ns=3_000_000_000),
        lambda said: said[8].update(mtime_ns=True),
        lambda said: said[8].update(mtime_ns=2.5),
        lambda said: said[8].pop("mtime_ns"),
        lambda said: said.reverse(),
        lambda said: said.pop(),
        lambda said: said.append(said[-1]),
    ],
)
def test_the_manifest_says_it_all(change: Callable[[list[dict[str, Any]]], None]) -> None:
    refused(manifest(change))


def other(path: str, value: Any) -> dict[str, Any]:
    document = deepcopy(DOCUMENT)
    here: Any = document
    *above, last = path.split(".")
    for name in above:
        here = here[int(name) if name.isdigit() else name]
    here[int(last) if last.isdigit() else last] = value
    return document


CALL = {"event_id": "sevt_2", "tool_use_id": "t", "kind": "builtin", "name": "Bash", "gated": True}
TURN = {"id": "turn_1", "prompts": [{"event_id": "sevt_1", "content": []}], "phase": "blocked"}
WAITS = {
    **DOCUMENT["state"],
    "turn": TURN,
    "calls": [CALL],
    "stop_reason": {"type": "requires_action", "event_ids": ["sevt_2"]},
}


def test_one_that_waits_for_an_answer_is_taken() -> None:
    assert check(io.BytesIO(written(other("state", WAITS)))).state.calls[0].event_id == "sevt_2"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (other("more", 1), "more"),
        (other("state.more", 1), "state.more"),
        (other("state.status", "running"), "middle of a turn"),
        (other("state.queue", [{"body": {}}]), "middle of a turn"),
        (other("state.turn", {**TURN, "phase": "handed"}), "middle of a turn"),
        (other("state.turn", TURN), "no call does"),
        (other("state.calls", [CALL]), "calls of no turn"),
        (other("state", {**WAITS, "calls": [{**CALL, "event_id": "sevt_9"}]}), "not in the log"),
        (other("state", {**WAITS, "calls": [{**CALL, "answer": {"event_id": "sevt_1"}}]}), "no call does"),
        (other("state.thread_id", "sthr_2"), "another thread"),
        (other("point.events", 3), "tells of 3 events"),
        (other("transcripts.0.entries", 3), "tells of 3"),
        (other("archives.0.entries", 3), "tells of 3"),
        (other("transcripts.1.subpath", ""), "twice"),
        (other("has_workspace", False), "tells of no files"),
        (other("thread_id", "x/../y"), "thread_id"),
        (other("usage", {"input_tokens": -1}), "usage"),
        (other("usage", {"what": 1}), "usage"),
        (other("transcripts.1.subpath", "é" * 600), "longer than"),
        (other("files", []), "session.json describes 0"),
        (other("files", DOCUMENT["files"] * 2), "two of one id: files"),
        (other("archives", [DOCUMENT["archives"][0], {**DOCUMENT["archives"][0], "number": 2}]), "two of one id: arch"),
        (other("point.events", 1), "more events than session.json tells of"),
    ],
)
def test_what_session_json_may_not_say(document: dict[str, Any], words: str) -> None:
    refused(written(document), words)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"events": lines([EVENTS[0], EVENTS[0]])}, "twice"),
        ({"events": lines([EVENTS[0], {**EVENTS[1], "type": "agent.shouted"}])}, "which is none"),
        ({"events": lines([EVENTS[0], {**EVENTS[1], "id": "a\tb"}])}, "proper id"),
        ({"events": lines([EVENTS[0], {**EVENTS[1], "processed_at": "now"}])}, "proper id and time"),
        ({"events": lines([EVENTS[0], [1]])}, "no JSON object"),
        ({"events": lines([EVENTS[0], {**EVENTS[1], "much": float("nan")}])}, "no JSON"),
        ({"events": lines(EVENTS).replace(b'"content": []', b'"content": 1e999', 1)}, "no JSON"),
        ({"events": lines(EVENTS)[:-1]}, "middle of a line"),
        ({"events": lines(EVENTS) + b"{"}, "middle of a line"),
        ({"events": lines(EVENTS) + b"\n"}, "no JSON"),
        ({"events": b"[" * 100_000 + b"\n"}, "no JSON"),
        ({"transcript": lines([{"uuid": "a"}, {"uuid": "a"}])}, "twice"),
        ({"transcript": lines([{"uuid": "a"}, 7])}, "no JSON object"),
        ({"archive": lines([["", "0", {}]])}, "none of an archive"),
        ({"archive": lines([["", True, {}]])}, "none of an archive"),
    ],
)
def test_texts_that_are_none(texts: dict[str, bytes], words: str) -> None:
    refused(written(**texts), words)


def test_the_head_may_not_be_missing() -> None:
    """Without it nobody knows which version it is; a manifest that doesn't name it changes nothing."""
    opened = Opened.of(WHOLE)
    head, manifest_part = opened["bundle.json"], opened["manifest.jsonl"]
    opened.parts.remove(head)
    first, _, *rest = [json.loads(line) for line in manifest_part.content.splitlines()]
    first |= {"members": first["members"] - 1, "bytes": first["bytes"] - len(head.content)}
    manifest_part.content = lines([first, *rest])
    manifest_part.head = head_bytes(Head("manifest.jsonl", "file", 0o600, 0, len(manifest_part.content)))
    refused(opened.packed(), "bundle.json is missing")


def test_a_newer_version_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened.of(WHOLE)
    part = opened["bundle.json"]
    part.content = part.content.replace(b'"version": 1', b'"version": 2')
    refused(opened.packed(), "upgrade")


def test_limits_hold_on_both_sides() -> None:
    refused(WHOLE, "more than 3 members", BundleLimits(members=3))
    refused(WHOLE, "holds more than", BundleLimits(content_bytes=1000))
    with (
        pytest.raises(BundleWrong, match="max_members"),
        BundleWriter(io.BytesIO(), "", "", BundleLimits(members=1)) as w,
    ):
        w.add_bytes("session.json", b"{}")
    with pytest.raises(BundleWrong, match="max_mb"), BundleWriter(io.BytesIO(), "", "", BundleLimits(10)) as w:
        w.add_bytes("session.json", b"{}")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (BundleLimits(events=1), "has 2 events, and 1 are taken: twice sessions.max_events"),
        (BundleLimits(log_bytes=100), "a log of"),
        (BundleLimits(transcript_bytes=10), "transcripts of"),
        (BundleLimits(archives=0), "1 archives, and 0"),
    ],
)
def test_a_session_that_is_larger_than_one_may_be_is_refused(limits: BundleLimits, words: str) -> None:
    refused(WHOLE, words, limits)


def test_a_bomb_is_refused_on_both_sides_and_a_hole_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reading", "writing"):
        monkeypatch.setattr(f"hostler.bundles.{module}.FREE_BYTES", 1 << 20)
    hole, same = bytes(1 << 20), b"y" * (1 << 20)
    for content, taken in ((hole, True), (same, False)):
        tree = [TREE[0], *((Head(f"{IN}{n:02}", "file", 0o644, 0, len(content)), content) for n in range(20))]
        if taken:
            data = written(tree=tree)
            assert check(io.BytesIO(data)).tree == 21
            assert len(data) < 20_000
        else:
            with pytest.raises(BundleWrong, match="max_ratio"):
                written(tree=tree)
    monkeypatch.setattr("hostler.bundles.writing.FREE_BYTES", 1 << 40)
    refused(written(tree=tree), "times its size")


def test_a_window_that_takes_too_much_memory_is_refused() -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(
        19, window_log=27, write_checksum=True, write_content_size=False
    )
    packing = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    refused(packing.compress(Opened.of(WHOLE).plain()) + packing.flush(), "not packed")


def test_a_writer_that_is_given_another_size_says_so() -> None:
    with BundleWriter(io.BytesIO(), "", "") as writer:
        writer.begin(replace(TREE[1][0], size=3))
        with pytest.raises(BundleWrong, match="longer"):
            writer.write(b"four")
        with pytest.raises(BundleWrong, match="shorter"):
            writer.end()


def test_the_pass_is_over_at_the_end_only() -> None:
    """What is read before is not verified yet: the digest says when it is."""
    reader = reading.BundleReader(io.BytesIO(WHOLE))
    for _ in reader.members():
        assert not reader.digest
    assert reader.digest
