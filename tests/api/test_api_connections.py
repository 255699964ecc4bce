"""What strangers can do to a connection before they show a key (A11)."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from apikit_server import Access


@contextmanager
def connected(access: Access) -> Iterator[socket.socket]:
    port = int(access.base_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("piece", [b"a" * 4096, b"x: y\r\n" * 700])
def test_head_without_end_is_cut_off(access: Access, piece: bytes) -> None:
    with connected(access) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nlong: ")
        received = b""
        try:
            for _ in range(1000):
                connection.sendall(piece)
        except OSError:
            pass
        else:
            pytest.fail("four megabytes of headers were taken")
        try:
            received = everything(connection)
        except OSError:
            return  # the answer was lost because we were still sending
        assert received.startswith(b"HTTP/1.1 431 ") or received == b""


def test_head_that_trickles_is_given_up(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostler.api.connections.HEAD_SECONDS", 0.1)
    for beginning in (b"", b"GET / HTTP/1.1\r\nhost: lo"):
        with connected(access) as connection:
            connection.sendall(beginning)
            assert everything(connection) == b""


def test_head_of_a_second_request_is_given_up_too(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(access) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        monkeypatch.setattr("hostler.api.connections.HEAD_SECONDS", 0.1)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost")
        assert b"HTTP/1.1" not in everything(connection)


@pytest.mark.parametrize(
    "head",
    [
        b"NOT HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nbad header: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    ],
)
def test_malformed_http_is_refused_in_the_envelope(access: Access, head: bytes) -> None:
    with connected(access) as connection:
        connection.sendall(head)
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    envelope = json.loads(received.partition(b"\r\n\r\n")[2])
    assert envelope["error"]["type"] == "invalid_request_error"
    assert envelope["request_id"].startswith("req_")


def test_hosts_are_sent_exactly_once(access: Access) -> None:
    for hosts in (b"", b"host: localhost\r\nhost: evil.example\r\n"):
        with connected(access) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n" + hosts + b"connection: close\r\n\r\n")
            assert everything(connection).startswith(b"HTTP/1.1 400 ")
