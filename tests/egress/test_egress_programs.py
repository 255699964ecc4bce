"""Real programs through the road: `curl`, `git` and Python, which know the road as an HTTP proxy on a TCP port."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tlskit import DEADLINE, Asked, Ways, ways, world

NAMES = ("allowed.example", "narrow.example", "other.example")


@asynccontextmanager
async def forwarder(w: Ways) -> AsyncIterator[int]:
    """What a sandbox has on its loopback: a port behind which is the road's socket."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        road_reader, road_writer = await asyncio.open_unix_connection(str(w.socket))
        async with asyncio.TaskGroup() as both:
            both.create_task(copy(reader, road_writer))
            both.create_task(copy(road_reader, writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def run(*command: str, port: int, trust: Path) -> tuple[int, str]:
    proxy = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": os.environ["PATH"],
        "https_proxy": proxy,
        "http_proxy": proxy,
        "SSL_CERT_FILE": str(trust),
        "CURL_CA_BUNDLE": str(trust),
    }
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment
    )
    async with asyncio.timeout(DEADLINE * 2):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


def _trust(w: Ways, folder: Path) -> Path:
    bundle = folder / "bundle.pem"
    bundle.write_bytes(world().pem + (w.road.authority or b""))
    return bundle


async def test_curl_reaches_what_is_allowed_and_reads_why_the_rest_is_not(tmp_path: Path) -> None:
    async with ways() as w, forwarder(w) as port:
        trust, site = _trust(w, tmp_path), w.secure.port
        w.secure.answer = lambda asked: (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
            % (
                len(asked.line),
                asked.line.encode(),
            )
        )
        curl = ("curl", "-sS", "--http1.1")
        urls = [f"https://narrow.example:{site}/v1/files/{number}" for number in (1, 2)]
        code, out = await run(*curl, f"https://allowed.example:{site}/a", *urls, port=port, trust=trust)
        assert (code, out) == (0, "GET /a HTTP/1.1GET /v1/files/1 HTTP/1.1GET /v1/files/2 HTTP/1.1")
        code, out = await run(*curl, urls[0], "--path-as-is", "-X", "DELETE", port=port, trust=trust)
        assert (code, "method_not_allowed" in out, "add DELETE to the methods" in out) == (0, True, True)
        code, out = await run(*curl, f"https://other.example:{site}/", port=port, trust=trust)
        assert code == 56
        assert "403" in out
        (tmp_path / "body").write_bytes(b"x" * 500_000)
        code, out = await run(*curl, "-d", f"@{tmp_path / 'body'}", urls[0], port=port, trust=trust)
        assert (code, out) == (0, "POST /v1/files/1 HTTP/1.1")


async def test_curl_with_http_2_only_is_told_by_the_handshake_that_http_1_is_spoken(tmp_path: Path) -> None:
    async with ways() as w, forwarder(w) as port:
        url = f"https://narrow.example:{w.secure.port}/v1/files"
        code, out = await run("curl", "-sS", "--http2", url, port=port, trust=_trust(w, tmp_path))
        assert (code, out) == (0, "ok")
        code, out = await run("curl", "-sS", "--http2-prior-knowledge", url, port=port, trust=_trust(w, tmp_path))
        assert w.secure.asked[0].line == "GET /v1/files HTTP/1.1"
        assert code != 0 or out == "ok"


async def test_pythons_own_client_gets_through_and_does_not_trust_the_session_by_itself(tmp_path: Path) -> None:
    async with ways() as w, forwarder(w) as port:
        program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
        command = (sys.executable, "-c", program, f"https://narrow.example:{w.secure.port}/v1/files")
        assert await run(*command, port=port, trust=_trust(w, tmp_path)) == (0, "ok\n")
        (tmp_path / "world.pem").write_bytes(world().pem)
        code, out = await run(*command, port=port, trust=tmp_path / "world.pem")
        assert code == 1
        assert "CERTIFICATE_VERIFY_FAILED" in out


async def test_git_clones_through_an_ended_tunnel_as_far_as_the_rule_goes(tmp_path: Path) -> None:
    async with ways() as w, forwarder(w) as port:

        def refs(asked: Asked) -> bytes:
            body = b"001e# service=git-upload-pack\n0000" + b"0000"
            return (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )

        w.secure.answer = refs
        git = ("git", "-c", f"http.sslCAInfo={_trust(w, tmp_path)}", "ls-remote")
        url = f"https://narrow.example:{w.secure.port}"
        code, out = await run(*git, f"{url}/v1/files/repo.git", port=port, trust=_trust(w, tmp_path))
        assert (code, out) == (0, "")
        code, out = await run(*git, f"{url}/v1/other.git", port=port, trust=_trust(w, tmp_path))
        assert code == 128
        assert "403" in out
