"""Package registries of a test's own: by what names are they reached, and how do they fail when they are told to?

They listen on an address of this host's loopback network. `Registry.resolve` leads the names of the public registries
there (it implements the proxy's `Resolver`), and a certificate of an authority of the test says that they are it. So a
test that installs packages needs nobody else.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal, cast

from certificates import certify
from goods import APT, FILES, NPM, PYPI, answer

Conduct = Literal["answers", "says nothing", "refuses", "breaks off"]
"""Says nothing: whoever connects is never answered. Refuses: nobody listens. Breaks off: whatever is larger than an
index is cut in the middle, by a reset."""

HOSTS = (NPM, PYPI, FILES, APT)
PATIENCE = 60.0


class Registry:
    """All registries together; there until the block of `open_registry` is left."""

    def __init__(self, place: Path, conduct: Conduct) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.authority = certify(place, HOSTS)
        """The certificate to trust, as for `egress.ca_bundle`."""
        self.conduct = conduct
        self.asked: list[str] = []
        """Host and path of each request that was understood."""
        self.reached = threading.Event()
        """Somebody has connected."""
        self.closed = threading.Event()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(place / "server.pem")
        self.address = f"127.{64 + secrets.randbelow(128)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
        """To be allowed as `egress.private_allowed`."""
        self._servers = [] if conduct == "refuses" else [_Server(self, port) for port in (80, 443)]
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in self._servers]
        for thread in self._threads:
            thread.start()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        if host not in HOSTS:
            raise OSError(f"{host} is no host of this test")
        return [self.address]

    def hosts_file(self, place: Path) -> Path:
        """The same for programs that ask the system, as a file to be mounted on `/etc/hosts`."""
        place.write_text("127.0.0.1 localhost\n" + "".join(f"{self.address} {host}\n" for host in HOSTS))
        return place

    def close(self) -> None:
        self.closed.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()  # waits for the connections that are open
        for thread in self._threads:
            thread.join()


@contextmanager
def open_registry(place: Path, conduct: Conduct = "answers") -> Iterator[Registry]:
    """Needs root, for the ports of the web. Writes its certificates below `place`."""
    registry = Registry(place, conduct)
    try:
        yield registry
    finally:
        registry.close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, registry: Registry, port: int) -> None:
        self.registry = registry
        self.port = port
        super().__init__((registry.address, port), _Answers)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In a thread of this connection."""
        self.registry.reached.set()
        request.settimeout(PATIENCE)
        if self.registry.conduct == "says nothing":
            self.registry.closed.wait(PATIENCE)
        elif self.port == 443:
            with self.registry.tls.wrap_socket(request, server_side=True) as safe:
                super().finish_request(safe, client_address)
        else:
            super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is nothing to be told."""


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        registry = cast(_Server, self.server).registry
        host = self.headers.get("Host", "").partition(":")[0]
        registry.asked.append(f"{host}{self.path}")
        body = answer(host, self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "text/html" if host == PYPI else "application/octet-stream")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if body is not None and registry.conduct == "breaks off" and self.path.endswith((".tgz", ".whl", ".deb")):
            self.wfile.write(body[: len(body) // 2])
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise ConnectionAbortedError("as told")
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        """`Registry.asked` is the log."""
