"""The parts of a machine that need no machine: its one line's streams, and the file system that it boots."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path

import pytest

from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox import machine_frames as frames
from hostler.sandbox import machine_guest
from hostler.sandbox.machine_frames import CREDIT_BYTES, HEADER, Broken, Frame, Inlet, Line, Loop, Outlet


class Ends:
    """Both ends of a line, in one loop."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.heard: list[Frame] = []
        self.broken: list[str] = []
        one, two = socket.socketpair()
        self.near = Line(self.loop, one.detach(), lambda frame: None, lambda: self.broken.append("near"))
        self.far = Line(self.loop, two.detach(), self.heard.append, lambda: self.broken.append("far"))

    def settle(self) -> None:
        for _ in range(200):
            self.loop.once(0)

    def bytes_of(self, stream: int) -> int:
        return sum(len(payload) for number, kind, payload in self.heard if (number, kind) == (stream, frames.DATA))


def _full_pipe(size: int) -> int:
    """The end to read from of a pipe with so many bytes in it, and then its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.write(writing, b"x" * size)
        finally:
            os._exit(0)
    os.close(writing)
    os.set_blocking(reading, False)
    return reading


def test_a_stream_that_nobody_takes_holds_up_only_itself() -> None:
    ends = Ends()
    slow = Inlet(ends.loop, _full_pipe(4 * CREDIT_BYTES), 1, frames.DATA, ends.near.send)
    for _ in range(50):
        ends.settle()
        if ends.bytes_of(1) == CREDIT_BYTES:
            break
        ends.loop.once(100)
    assert ends.bytes_of(1) == CREDIT_BYTES
    ends.settle()
    assert ends.bytes_of(1) == CREDIT_BYTES, "more was sent than there was credit for"
    assert slow.starving
    quick = Inlet(ends.loop, _full_pipe(1000), 3, frames.DATA, ends.near.send)
    while quick.open:
        ends.loop.once(1000)
    ends.settle()
    assert ends.bytes_of(3) == 1000
    slow.credit(5000)
    while not slow.starving:
        ends.loop.once(1000)
    ends.settle()
    assert ends.bytes_of(1) == CREDIT_BYTES + 5000


def test_credit_comes_back_for_what_was_written() -> None:
    loop = Loop()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    given: list[int] = []
    outlet = Outlet(loop, writing, given.append)
    outlet.put(b"y" * 100_000)  # more than the pipe holds
    loop.once(1000)
    loop.once(0)
    assert 0 < sum(given) < 100_000
    ended: list[bool] = []
    outlet.end(lambda: ended.append(True))
    while not ended:
        os.read(reading, 1 << 16)
        loop.once(0)
    assert sum(given) == 100_000


def test_more_than_the_credit_is_refused() -> None:
    reading, writing = os.pipe()
    outlet = Outlet(Loop(), writing, lambda count: None)
    with pytest.raises(Broken):
        outlet.put(b"z" * (2 * CREDIT_BYTES + 1))
    os.close(reading)
    os.close(writing)


def test_a_frame_that_says_it_is_endless_breaks_the_line() -> None:
    ends = Ends()
    os.write(ends.near.fd, HEADER.pack(1, frames.DATA, 0xFFFFFFFF))
    ends.settle()
    assert ends.broken == ["far"]
    assert ends.heard == []


def test_frames_arrive_whole_however_they_are_cut() -> None:
    ends = Ends()
    sent = HEADER.pack(7, frames.DATA, 3) + b"abc" + HEADER.pack(8, frames.EOF, 0)
    for byte in sent:
        os.write(ends.near.fd, bytes([byte]))
        ends.loop.once(1000)
    assert ends.heard == [(7, frames.DATA, b"abc"), (8, frames.EOF, b"")]


def _module(folder: Path, name: str, depends: str) -> None:
    path = folder / "kernel" / f"{name}.ko"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"ELF\0depends=" + depends.encode() + b"\0name=" + name.encode())


def _kernel(place: Path, version: str, *, nine: bool) -> None:
    (place / "boot").mkdir(exist_ok=True, parents=True)
    (place / "boot" / f"vmlinuz-{version}").write_bytes(b"kernel")
    modules = place / "lib" / "modules" / version
    _module(modules, "virtio_mmio", "virtio,virtio-ring")
    _module(modules, "virtio-ring", "virtio")
    _module(modules, "virtio", "")
    if nine:
        _module(modules, "9pnet_virtio", "9pnet,virtio")
        _module(modules, "9pnet", "")
        _module(modules, "9p", "9pnet,built_in")


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    _kernel(tmp_path, "6.1.0-9-amd64", nine=True)
    _kernel(tmp_path, "6.1.0-10-amd64", nine=True)
    _kernel(tmp_path, "6.1.0-11-cloud-amd64", nine=False)
    guest = machine_guest.prepare(tmp_path, "/bin/true", tmp_path / "keep")
    assert guest.version == "6.1.0-10-amd64", "the newest that has what is needed"
    archive = gzip.decompress(guest.initial.read_bytes())
    order = b"\n".join([b"virtio.ko", b"virtio_ring.ko", b"virtio_mmio.ko", b"9pnet.ko", b"9pnet_virtio.ko", b"9p.ko"])
    assert order in archive
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    again = machine_guest.prepare(tmp_path, "/bin/true", tmp_path / "keep")
    assert again.initial == guest.initial


def test_a_kernel_that_cannot_share_folders_is_refused(tmp_path: Path) -> None:
    _kernel(tmp_path, "6.1.0-11-cloud-amd64", nine=False)
    with pytest.raises(SandboxUnavailable, match="not a cloud kernel"):
        machine_guest.prepare(tmp_path, "/bin/true", tmp_path / "keep")
