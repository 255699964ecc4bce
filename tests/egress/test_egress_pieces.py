"""What comes in pieces is read as what comes whole, and each byte of it once."""

from __future__ import annotations

import pytest

from hostler.egress.jsonrpc import Events
from hostler.egress.websocket import FrameFilter

STREAM = b"event: a\ndata: one\n\ndata:two\r\ndata: more\r\n\r\n: words\n\n\n\rdata: three\r\rdata: cut"
WHOLE = [b"one", b"two\nmore", b"three", b"cut"]


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_events_are_the_same_in_whatever_pieces(size: int) -> None:
    events = Events()
    found: list[bytes] = []
    for at in range(0, len(STREAM), size):
        found += events.feed(STREAM[at : at + size])
        found += events.feed(b"")  # as a filter gives that holds back what came
    assert found == WHOLE[:3]
    assert events.end() == WHOLE[3:]


class Upper:
    """A filter whose makers are counted."""

    made = 0

    def __init__(self) -> None:
        Upper.made += 1

    def feed(self, data: bytes) -> bytes:
        return data.upper()

    def end(self) -> bytes:
        return b""


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_frames_are_the_same_in_whatever_pieces_and_empty_ones_need_no_filter(size: int) -> None:
    Upper.made = 0
    pings = b"\x89\x00" * 5_000
    long = b"\x82\x7e" + (300).to_bytes(2) + b"x" * 300
    sent = pings + b"\x81\x02hi" + pings + long + b"\x8a\x01a"
    passed = FrameFilter(Upper)
    got = b"".join(passed(sent[at : at + size]) for at in range(0, len(sent), size))
    assert got == pings + b"\x81\x02HI" + pings + long.replace(b"x" * 300, b"X" * 300) + b"\x8a\x01A"
    assert Upper.made == 3
