"""A small bundle with one of everything, and a hand that changes what is in it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import zstandard

from hostler.bundles.tar import BLOCK, Head, head_bytes, padding
from hostler.bundles.writing import BundleWriter

EVENTS = [
    {"id": "sevt_1", "type": "user.message", "processed_at": "2026-01-02T03:04:05Z", "content": []},
    {"id": "sevt_2", "type": "agent.message", "processed_at": "2026-01-02T03:04:06Z", "content": []},
]
DOCUMENT: dict[str, Any] = {
    "session": {"id": "sesn_1", "title": None, "metadata": {}, "budget": None, "resources": [], "vault_ids": []},
    "agent": {"id": "agent_1", "version": 1},
    "environment": {"id": "env_1"},
    "thread_id": "sthr_1",
    "transcript_id": "11111111-1111-4111-8111-111111111111",
    "state": {"thread_id": "sthr_1", "agent_name": "Coder"},
    "sequence": None,
    "usage": {"input_tokens": 1},
    "point": {"checkpoint_id": None, "events": 2, "exported_at": "2026-01-02T03:04:07Z"},
    "transcripts": [
        {"subpath": "", "entries": 2, "mtime_ms": 1},
        {"subpath": "subagents/a", "entries": 1, "mtime_ms": 1},
    ],
    "archives": [
        {"id": "arch_1", "number": 1, "entries": 1, "upto": {"": 1}, "created_at": "2026-01-02T03:04:05Z"},
    ],
    "skills": [],
    "files": [
        {
            "id": "file_1",
            "filename": "out.txt",
            "mime_type": "text/plain",
            "downloadable": True,
            "created_at": "2026-01-02T03:04:05Z",
            "output_path": "out.txt",
        }
    ],
    "tokens": [],
    "checkpoints": [],
    "has_workspace": True,
    "left_out": [],
}
TREE = [
    (Head("home/workspace", "folder", 0o755, 1_000_000_001), b""),
    (Head("home/workspace/a.txt", "file", 0o644, 2_000_000_002, 5), b"hello"),
    (Head("home/workspace/empty", "file", 0o600, 0, 0), b""),
    (Head("home/workspace/hard", "hardlink", 0o644, 2_000_000_002, 0, "home/workspace/a.txt"), b""),
    (Head("home/workspace/link", "symlink", 0o777, 3, 0, "/usr/bin/env"), b""),
    (Head("home/workspace/sub", "folder", 0o1777, -5), b""),
    (Head("home/workspace/sub/" + "n" * 150, "file", 0o644, 0, 3), b"abc"),
    (Head("home/workspace/sub/na\udcffme\n", "file", 0o644, 0, 1), b"x"),
    (Head("home/outputs", "folder", 0o755, 0), b""),
]


def lines(values: Sequence[Any]) -> bytes:
    return "".join(f"{json.dumps(value)}\n" for value in values).encode()


def written(document: dict[str, Any] | None = None, tree: Sequence[tuple[Head, bytes]] = TREE, **texts: bytes) -> bytes:
    """`texts`: other contents of members, by the beginning of their name."""
    file = io.BytesIO()
    with BundleWriter(file, "hostler 0", "2026-01-02T03:04:07Z") as writer:
        writer.add_bytes("session.json", lines([DOCUMENT if document is None else document]))
        writer.add_bytes("events.jsonl", texts.get("events", lines(EVENTS)))
        writer.add_bytes("transcripts/0.jsonl", texts.get("transcript", lines([{"uuid": "a"}, {"uuid": "b"}])))
        writer.add_bytes("transcripts/1.jsonl", lines([{"uuid": "a"}]))
        writer.add_bytes("archives/0.jsonl", texts.get("archive", lines([["", 0, {"uuid": "a"}]])))
        writer.add_bytes("files/0", b"out\n")
        for head, content in tree:
            writer.begin(head)
            writer.write(content)
            writer.end()
        writer.finish()
    return file.getvalue()


@dataclass
class Part:
    """A member as it stands in the archive."""

    head: bytes
    content: bytes
    name: str

    @property
    def whole(self) -> bytes:
        return self.head + self.content + bytes(padding(len(self.content)))


@dataclass
class Opened:
    """An archive, to be changed by hand. Nothing is put right."""

    parts: list[Part] = field(default_factory=list)
    end: bytes = bytes(2 * BLOCK)

    @staticmethod
    def of(data: bytes) -> Opened:
        plain = zstandard.ZstdDecompressor().stream_reader(data).read()
        opened = Opened()
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
            for info in archive:
                content = plain[info.offset_data : info.offset_data + (info.size if info.isreg() else 0)]
                opened.parts.append(Part(plain[info.offset : info.offset_data], content, info.name))
        return opened

    def __getitem__(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def put(self, head: Head, content: bytes = b"", *, before: str = "manifest.jsonl") -> None:
        at = next(n for n, part in enumerate(self.parts) if part.name == before)
        self.parts.insert(at, Part(head_bytes(replace(head, size=len(content))), content, head.name))

    def plain(self) -> bytes:
        return b"".join(part.whole for part in self.parts) + self.end

    def packed(self) -> bytes:
        return packed(self.plain())


def packed(plain: bytes, **more: Any) -> bytes:
    more = {"level": 3, "write_checksum": True, "write_content_size": False, **more}
    packing = zstandard.ZstdCompressor(**more).compressobj()
    return packing.compress(plain) + packing.flush()
