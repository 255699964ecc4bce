"""A7, A8, A9 from a session's own shell: the two sockets lead to the model and to listed hosts, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attackkit import shell
from housekit import House, open_house

KEY = "sk-canary-upstream-4f1d"
UPSTREAM_KEY_HEADER = "x-api-key"


@pytest.fixture
def upstream_key() -> dict[str, str]:
    return {"model__api_key": KEY}


def request(model: str = "claude-opus-5-5", **more: object) -> str:
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **more}
    return json.dumps(body).replace("'", "'\\''")


def curl(path: str, *flags: str, body: str | None = None) -> str:
    data = f"-H 'content-type: application/json' -d '{body if body is not None else request()}'"
    return (
        "curl -s -m 20 -o /tmp/answer -w '%{http_code} ' --unix-socket /run/hostler/model.sock "
        f"{' '.join(flags)} {data} 'http://localhost{path}'; head -c 150 /tmp/answer; echo; rm -f /tmp/answer"
    )


async def statuses(house: House, session: str, commands: list[str]) -> list[str]:
    printed = await shell(house, session, "\n".join(commands))
    return [line.split(" ")[0] for line in printed.splitlines() if line[:3].isdigit()]


async def test_the_model_socket_gives_one_api_path_one_model_and_no_key(
    tmp_path: Path, store_url: str, upstream_key: dict[str, str]
) -> None:
    async with open_house(tmp_path, store_url, **upstream_key) as house:
        session = await house.session()
        allowed = [
            curl("/v1/messages"),
            curl("/v1/messages?beta=true", "-H 'x-api-key: sk-attacker' -H 'authorization: Bearer sk-attacker'"),
            curl("/v1/messages", "-H 'Host: api.evil.example'"),
        ]
        refused = [
            curl("/v1/messages", body=request("claude-fable-5-2")),
            curl("/v1/messages", body=request("claude-opus-5-5 ")),
            curl("/v1/messages", body=request()[:-1] + ', "model": "claude-fable-5-2"}'),
            curl(
                "/v1/messages", body=request(mcp_servers=[{"type": "url", "url": "https://evil.example", "name": "x"}])
            ),
            curl("/v1/messages", body=request(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}])),
            curl("/v1/messages", body=request(tools=[{"type": "code_execution_20250825", "name": "code_execution"}])),
            curl("/v1/messages", body=request(container="container_evil")),
            curl("/v1/files"),
            curl("/v1/models", "-X GET"),
            curl("/v1/messages/batches"),
            curl("/v1/messages/../files", "--path-as-is"),
            curl("/v1/%6dessages"),
            curl("//v1/messages"),
            curl("/v1/messages", "-X PUT"),
            curl("/v1/messages", "-H 'Transfer-Encoding: chunked' -H 'Content-Length: 4'"),
            curl("/v1/messages", "-H 'Upgrade: websocket' -H 'Connection: Upgrade' -X GET"),
            curl("/v1/messages", "--request-target http://api.evil.example/v1/messages"),
        ]
        seen = await statuses(house, session, [*allowed, *refused])
        assert seen[: len(allowed)] == ["200"] * len(allowed)
        assert len(seen) == len(allowed) + len(refused)
        assert [code for code in seen[len(allowed) :] if not "400" <= code < "500"] == []
        asked = house.model.requests
        assert {r.path for r in asked} == {"/v1/messages"}
        assert {r.headers[UPSTREAM_KEY_HEADER] for r in asked} == {KEY}
        assert not any("sk-attacker" in str(r.headers) for r in asked)
        assert not any("evil" in json.dumps(dict(r.headers)) for r in asked)
        assert {r.body["model"] for r in house.model.message_requests} == {"claude-opus-5-5"}


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
