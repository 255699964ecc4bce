"""A7 from a session's own shell: the two sockets lead to the model and to listed hosts, and nowhere else."""

from __future__ import annotations

from attackkit import shell
from housekit import House

PROBES = """
import socket, urllib.request
def attempt(name, run):
    try: print("OPEN", name, run())
    except Exception as error: print("shut", name, type(error).__name__)
def connect(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(2); s.connect(address); s.send(b"x"); return s.recv(1) if kind == socket.SOCK_STREAM else "sent"
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close())
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
attempt("tcp4", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 443)))
attempt("tcp6", lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, ("2606:4700:4700::1111", 443)))
attempt("udp dns", lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("8.8.8.8", 53)))
attempt("metadata", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("169.254.169.254", 80)))
attempt("resolve", lambda: socket.getaddrinfo("example.com", 443))
for port in PORTS:
    attempt(f"host port {port}", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)))
for port in PORTS:
    attempt(f"proxied {port}", lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status)
    proxied = urllib.request.build_opener(urllib.request.ProxyHandler({"http": "http://127.0.0.1:3128"}))
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
        attempt(f"{host}:{port}", lambda: proxied.open(f"http://{host}:{port}/", timeout=5).status)
"""


async def test_no_road_but_the_two_sockets_leads_out(house: House) -> None:
    session = await house.session()
    assert house.hostler is not None
    ports = [int(url.rsplit(":", 1)[1]) for url in (house.hostler.base_url, house.model.url)]
    found = await shell(house, session, f"python3 - <<'PYTHON'\n{PROBES.replace('PORTS', repr(ports))}\nPYTHON")
    assert "shut tcp4" in found
    assert [line for line in found.splitlines() if line.startswith("OPEN")] == []
    curls = (
        "curl -s -m 5 --noproxy '*' https://example.com || echo shut; curl -s -m 5 -6 https://example.com || echo shut"
    )
    assert (await shell(house, session, f"({curls}) 2>&1")).count("shut") == 2
