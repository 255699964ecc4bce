"""Messages of AWS event streams: what is read, and what is not believed."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.gateway.event_stream import BadEventStream, EventStreamFramer, Message
from hostler.testing.clouds.bedrock import frame

HEADERS = st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=5), st.integers(1, 50))
def test_messages_come_out_as_they_went_in_whatever_the_pieces(
    messages: list[tuple[dict[str, str], bytes]], size: int
) -> None:
    whole = b"".join(frame(headers, payload) for headers, payload in messages)
    framer = EventStreamFramer(1 << 20)
    found = [message for at in range(0, len(whole), size) for message in framer.feed(whole[at : at + size])]
    assert found == [Message(headers, payload) for headers, payload in messages]
    assert not framer.unfinished
    aws = EventStreamBuffer()
    aws.add_data(whole)
    assert [(event.headers, event.payload) for event in aws] == messages


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_byte_is_believed(data: st.DataObject) -> None:
    whole = bytearray(frame({":message-type": "event", ":event-type": "chunk"}, b'{"bytes":"eHg="}'))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadEventStream):
        EventStreamFramer(1 << 20).feed(bytes(whole))


def test_headers_of_every_type_are_passed_over() -> None:
    typed = b"".join(
        (b"\x01a\x00", b"\x01b\x01", b"\x01c\x02x", b"\x01d\x03xx", b"\x01e\x04xxxx", b"\x01f\x05xxxxxxxx",
         b"\x01g\x06\x00\x02xx", b"\x01h\x07\x00\x02ok", b"\x01i\x08xxxxxxxx", b"\x01j\x09" + b"x" * 16)
    )  # fmt: skip
    assert EventStreamFramer(1 << 20).feed(signed(typed, b"p")) == [Message({"h": "ok"}, b"p")]


@pytest.mark.parametrize("headers", [b"\x01a\x0a", b"\x05a", b"\x01a\x07\x00\x09x", b"\x01\xff\x00"])
def test_headers_that_make_no_sense_end_it(headers: bytes) -> None:
    with pytest.raises(BadEventStream):
        EventStreamFramer(1 << 20).feed(signed(headers, b""))


def test_a_message_beyond_the_limit_is_not_waited_for() -> None:
    with pytest.raises(BadEventStream):
        EventStreamFramer(100).feed(frame({}, b"x" * 200)[:12])


def signed(headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))
