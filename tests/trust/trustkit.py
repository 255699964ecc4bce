"""Which programs trust a session's authority? Runs each one in a sandbox, against a server whose TLS the road ends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import secrets
import ssl
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pydantic

from hostler.egress.authority import Authority
from hostler.egress.proxy import EgressProxy
from hostler.engine.egress_port import EgressDecision, EgressRules, RequestHead
from hostler.engine.runs import RunSpec
from hostler.engine.sandbox_port import Mount, Sandbox, SandboxLimits
from hostler.engine.trust import VARIABLES, write_trust
from hostler.harness.claude import ClaudeHarness
from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.testing.sandboxes import Finished, Ground

HOST = "trust.example.com"
GREETING = "hello from behind the ended TLS"
LIBRARIES = "/opt/libraries"
"""Where this project's own Python packages are, inside."""

_NODE = """
const [host, port] = process.argv.slice(1);
const connect = require("http").request({host: "127.0.0.1", port: 3128, method: "CONNECT", path: `${host}:${port}`});
connect.on("connect", (_, socket) => {
  const get = {host, port, path: "/hello", socket, agent: false, servername: host};
  require("https").get(get, answer => answer.on("end", () => process.exit(0)).pipe(process.stdout));
});
connect.end();
"""
_JAVA = """
public class Fetch { public static void main(String[] given) throws Exception {
  System.out.write(new java.net.URL(given[0]).openStream().readAllBytes()); System.out.flush(); } }
"""
_GO = """
package main
import ("io"; "net/http"; "os")
func main() { r, e := http.Get(os.Args[1]); if e != nil { panic(e) }; io.Copy(os.Stdout, r.Body) }
"""


@dataclass(frozen=True, slots=True)
class Client:
    """One row of the table. The commands are for a shell inside, with `$URL`, `$HOST` and `$PORT`."""

    name: str
    present: str
    """Prints a version, and fails where it is not installed."""
    fetch: str
    """Succeeds, and prints `expects`, if it takes the certificate."""
    expects: str = GREETING
    variables: tuple[str, ...] = ("SSL_CERT_FILE",)
    """What of the environment makes it work."""


def _python(module: str, code: str, *variables: str) -> Client:
    place = f"PYTHONPATH={LIBRARIES} python3"
    version = f"{place} -c 'import {module}; print({module}.__version__)'"
    return Client(f"Python {module}", version, f"{place} -c '{code}' $URL/hello", variables=variables)


_HEREDOC = "cat > /tmp/{name} <<'END'\n{text}\nEND\n"

CLIENTS = (
    Client(
        "curl", "curl --version | head -1 | cut -d' ' -f1-2", "curl -sS -f $URL/hello", variables=("CURL_CA_BUNDLE",)
    ),
    Client(
        "wget",
        "wget --version | head -1 | cut -d' ' -f1-3",
        "wget -q -O - $URL/hello",
        variables=("SYSTEM_WGETRC",),
    ),
    Client(
        "openssl",
        "openssl version | cut -d' ' -f1-2",
        "openssl s_client -proxy 127.0.0.1:3128 -connect $HOST:$PORT -servername $HOST -verify_hostname $HOST "
        "-verify_return_error </dev/null",
        "Verify return code: 0 (ok)",
    ),
    Client("git", "git --version", "git ls-remote $URL/repo.git", "refs/heads/main", ("GIT_SSL_CAINFO",)),
    Client(
        "Python urllib",
        "python3 --version",
        "python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())' $URL/hello",
    ),
    _python("requests", "import sys, requests; print(requests.get(sys.argv[1]).text)", "REQUESTS_CA_BUNDLE"),
    _python("httpx2", "import sys, httpx2; print(httpx2.get(sys.argv[1]).text)", "SSL_CERT_FILE"),
    Client(
        "pip",
        f"PYTHONPATH={LIBRARIES} python3 -m pip --version | cut -d' ' -f1-2",
        f"PYTHONPATH={LIBRARIES} python3 -m pip install --disable-pip-version-check --no-deps --target /tmp/installed "
        "--index-url $URL/simple demo",
        "Successfully installed demo-1.0",
        ("PIP_CERT",),
    ),
    Client(
        "Node.js",
        "node --version",
        _HEREDOC.format(name="fetch.js", text=_NODE) + 'node -e "$(cat /tmp/fetch.js)" $HOST $PORT',
        variables=("NODE_EXTRA_CA_CERTS",),
    ),
    Client(
        "npm",
        "npm --version",
        "npm view demo version --registry $URL/npm/ --fetch-retries 0 --no-update-notifier",
        "1.0.0",
        ("NODE_EXTRA_CA_CERTS", "NPM_CONFIG_CAFILE"),
    ),
    Client(
        "Java",
        "javac --version >/dev/null && java --version 2>/dev/null | head -1",
        _HEREDOC.format(name="Fetch.java", text=_JAVA) + "java /tmp/Fetch.java $URL/hello",
        variables=("JAVA_TOOL_OPTIONS",),
    ),
    Client(
        "Go",
        "go version",
        _HEREDOC.format(name="fetch.go", text=_GO) + "GOCACHE=/tmp/go GO111MODULE=off go run /tmp/fetch.go $URL/hello",
    ),
    Client("Ruby", "ruby --version", "ruby -ropen-uri -e 'puts URI.open(ARGV[0]).read' $URL/hello"),
    Client(
        "cargo",
        "cargo --version",
        "CARGO_HOME=/tmp/cargo CARGO_REGISTRIES_DEMO_INDEX=sparse+$URL/cargo/ cargo info demo --registry demo",
        "version: 1.0.0",
        ("CARGO_HTTP_CAINFO",),
    ),
    Client(
        "Deno",
        "deno --version | head -1",
        "deno eval 'console.log(await (await fetch(Deno.args[0])).text())' $URL/hello",
        variables=("DENO_CERT",),
    ),
)  # fmt: skip


# -------------------------------------------------------------------------------------------------------- the server


class Answering(BaseHTTPRequestHandler):
    """What each client asks for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        made = _answer(self.path.partition("?")[0], self.headers.get("host", ""))
        kind, body = made or ("text/plain", b"not here")
        self.send_response(200 if made else 404)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not needed."""


def _answer(path: str, host: str) -> tuple[str, bytes] | None:
    wheel = _wheel()
    digest = hashlib.sha256(wheel).hexdigest()
    crate = {"name": "demo", "vers": "1.0.0", "deps": []}
    package = {"name": "demo", "version": "1.0.0", "dist": {"tarball": f"https://{host}/npm/demo.tgz"}}
    link = f'<a href="/demo-1.0-py3-none-any.whl#sha256={digest}">demo-1.0-py3-none-any.whl</a>'
    answers = {
        "/hello": ("text/plain", f"{GREETING}\n".encode()),
        "/repo.git/info/refs": ("application/x-git-upload-pack-advertisement", _advertised()),
        "/simple/demo/": ("text/html", f"<!DOCTYPE html><html><body>{link}</body></html>".encode()),
        "/demo-1.0-py3-none-any.whl": ("application/octet-stream", wheel),
        "/npm/demo": (
            "application/json",
            json.dumps({"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": package}}).encode(),
        ),
        "/cargo/config.json": ("application/json", json.dumps({"dl": f"https://{host}/cargo/dl"}).encode()),
        "/cargo/de/mo/demo": (
            "text/plain",
            json.dumps({**crate, "cksum": "0" * 64, "features": {}, "yanked": False}).encode(),
        ),
    }  # fmt: skip
    return answers.get(path)


def _advertised() -> bytes:
    def line(text: str) -> bytes:
        return f"{len(text) + 4:04x}{text}".encode()

    return line("# service=git-upload-pack\n") + b"0000" + line(f"{'1' * 40} refs/heads/main\0agent=x\n") + b"0000"


def _wheel() -> bytes:
    files = {
        "demo.py": "",
        "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        "demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for name, text in files.items()
    ]
    files["demo-1.0.dist-info/RECORD"] = "\n".join([*record, "demo-1.0.dist-info/RECORD,,\n"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return packed.getvalue()


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[int]:
    """The server, on a port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# ------------------------------------------------------------------------------------------------------- the sandbox


def libraries() -> Path:
    """This project's Python packages, on the host."""
    return Path(pydantic.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Measured:
    client: Client
    version: str | None
    """None: it is not installed here."""
    works: bool = False
    says: str = ""
    """What it said, when it doesn't work."""


class Bench:
    """A sandbox whose road ends the TLS of `HOST`."""

    def __init__(self, ground: Ground, sandbox: Sandbox, port: int) -> None:
        self._ground = ground
        self._sandbox = sandbox
        self._where = f"export HOST={HOST} PORT={port} URL=https://{HOST}:{port}\n"

    async def measure(self, client: Client) -> Measured:
        shown = await self._ground.sh(self._sandbox.entrance, client.present)
        if shown.code != 0 or not shown.out.strip():
            return Measured(client, None)
        done = await self.sh(client.fetch)
        works = done.code == 0 and client.expects in done.out
        return Measured(client, shown.out.strip(), works, "" if works else (done.err + done.out)[-600:])

    async def sh(self, script: str) -> Finished:
        return await self._ground.sh(self._sandbox.entrance, self._where + script)


class OneName:
    """Implements `Resolver`."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]


class Unrecorded:
    """Implements `EgressRecorder`: nobody asks."""

    async def record(self, decision: EgressDecision) -> None:
        """Not needed."""


class NothingSecret:
    """Implements `RoadSecrets`: looks into what goes to `HOST`, and changes nothing."""

    def concerns(self, host: str) -> bool:
        return host == HOST

    async def begin(self, head: RequestHead) -> None:
        return None


@asynccontextmanager
async def egress_road(socket: Path, port: int, upstream: ssl.SSLContext) -> AsyncIterator[bytes]:
    """A road of the real proxy."""
    proxy = EgressProxy(
        Unrecorded(),
        resolver=OneName(),
        private_allowed=frozenset({"127.0.0.1"}),
        ports=frozenset({port}),
        tls=upstream,
    )
    try:
        road = await proxy.open("sesn_trust", socket, EgressRules("listed", (HOST,)), secrets=NothingSecret())
        assert road.authority is not None
        yield road.authority
    finally:
        await proxy.close()


Roads = Callable[[Path, int, ssl.SSLContext], AbstractAsyncContextManager[bytes]]


@asynccontextmanager
async def open_bench(root: Path, road: Roads, *, trusting: bool = True) -> AsyncIterator[Bench]:
    """`road` opens one at a socket, for a port, with whom to trust there, and gives its authority.

    trusting  False: nothing in the sandbox says that the authority is to be trusted.
    """
    origin = Authority("origin")
    upstream = ssl.create_default_context(cadata=origin.pem.decode())
    with serving(origin.make(HOST)) as port:
        async with road(root / "road.sock", port, upstream) as authority:
            trust = await asyncio.to_thread(write_trust, root / "trust", authority)
            ours = ClaudeHarness().environment(RunSpec("", False, "", None, None, ()))
            environment = {**ours, **(trust.environment if trusting else {})}
            mounts = (*trust.mounts, Mount(libraries(), LIBRARIES))
            name = f"ht{secrets.token_hex(4)}"
            async with Ground(root, lambda state: BubblewrapProvider(state, cgroup_name=name)) as ground:
                limits = SandboxLimits(pids=512)
                sandbox = await ground.create(
                    environment=environment, mounts=mounts, egress_socket=root / "road.sock", limits=limits
                )
                await ground.holding(sandbox)
                yield Bench(ground, sandbox, port)


# ---------------------------------------------------------------------------------------------------------- the page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "ca-trust.md"
ABSENT = "not installed where this was measured"

_BEFORE = """\
# Who trusts a session's authority

<!-- Written by scripts/measure-ca-trust: change that, or the code, and run it again. -->

Where Hostler has to look inside TLS (a [variable of a vault](../how-to/keep-secrets-in-vaults.md#variables) is for that
host, or a rule names methods or paths), the session's proxy shows a certificate of its own. An authority that exists
for this one session has signed it; its key never leaves the server's memory. Programs in the sandbox are told to trust
it by the files in `/opt/hostler/trust`, which is read-only, and by variables. Sessions that need no authority have
neither.

## Variables

| variable | for |
| --- | --- |
"""
_BETWEEN = """
`bundle.pem` and `java.p12` hold what the host trusts, and the session's authority; `session.pem` holds the authority
alone, for programs that only add to a list of their own. A program that brings its own list and reads none of these
variables refuses the certificate: that is a failed connection, never one that was let through unseen.

## What was measured

Each program ran in a bubblewrap sandbox with the variables of a session, and asked a server whose TLS the proxy ended.
Without the variables, each of them refused.

| program | version | takes the certificate | because of |
| --- | --- | --- | --- |
"""


def variable_rows() -> list[str]:
    return [f"| `{one.name}` | {one.why} |" for one in VARIABLES]


def client_row(measured: Measured) -> str:
    of = measured.client
    because = ", ".join(f"`{name}`" for name in of.variables)
    if measured.version is None:
        return f"| {of.name} | {ABSENT} | | {because} |"
    return f"| {of.name} | {measured.version} | {'yes' if measured.works else '**no**'} | {because} |"


def page(found: Sequence[Measured]) -> str:
    return _BEFORE + "\n".join(variable_rows()) + "\n" + _BETWEEN + "\n".join(map(client_row, found)) + "\n"
