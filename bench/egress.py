"""What does the egress proxy cost, next to two others? Run: `python bench/egress.py` (about 3 minutes).

Same topology for all: the proxy on core 0, clients and server (`egress_load.c`, compiled at run time, OpenSSL) on
core 1. Closed loop, a POST with a small JSON answer. The targets are alternated within each round; a value is the
median of the rounds. Only ratios survive a noisy machine; the load is printed. On a machine with other work even the
rates mislead, since a proxy of many threads (tinyproxy) gets a larger share of a crowded core than one of a single
thread: there the proxies' CPU time for each request is what can be compared.

- passed through: TLS inside of a tunnel, nothing of it read. Peer: tinyproxy.
- ended: TLS ended, a header changed, TLS to the server. Peer: mitmproxy (`mitmdump`), told to change a header as well.
- kept: each client has one connection; new: a tunnel and a TLS handshake for each request.
- cold: new, and each connection is for a host that was never asked for (a certificate has to be made).

Ours is what the product runs, except for the sandbox around the clients: road, policy, name resolution, filters (one
header is replaced, the answer is filtered), and every decision committed to SQLite before anything is connected.
`--without-records` leaves the last part out. Ours is reached over a unix socket, as by a sandbox, the others over
TCP. Needs gcc, the headers of OpenSSL and tinyproxy (apt: libssl-dev tinyproxy); mitmproxy is installed into a virtual
environment of its own in `--cache`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from sqlalchemy import Connection

from hostler.compose.stored import StoredDecisions
from hostler.config import Settings
from hostler.egress import EgressLimits, EgressProxy, SystemResolver
from hostler.egress.authority import Authority
from hostler.engine.denials import Denials
from hostler.engine.egress_port import EgressDecision, EgressRules, Filter, RequestHead, SecretExchange
from hostler.store.catalog import create_agent, create_environment
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.sessions import NewSession, create_session

HERE = Path(__file__).parent
SESSION = "sesn_bench"
TARGETS = {"pass kept 20": 0.85, "ended kept 20": 10.0, "ended new 20": 4.0}
"""Requests per second, as a multiple of the peer's."""
ADDED = {"pass kept 1": 0.5, "ended kept 1": 0.5, "ended new 1": 2.0, "ended cold 1": 5.0}
"""Milliseconds of the median."""


# ----------------------------------------------------------------------------------------------------------- our proxy


class Names:
    """The host's resolver for the one name that it knows; the others are made up."""

    def __init__(self) -> None:
        self._system = SystemResolver()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        if host == "localhost":
            return [found for found in await self._system.resolve(host, port) if ":" not in found]
        return ["127.0.0.1"]


class Nothing:
    """A recorder that costs nothing."""

    async def record(self, decision: EgressDecision) -> None:
        return


class Unchanged:
    def feed(self, piece: bytes) -> bytes:
        return piece

    def end(self) -> bytes:
        return b""


@dataclass
class Changed:
    head: RequestHead
    body: Filter | None = None

    def answer(
        self, status: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> tuple[Sequence[tuple[bytes, bytes]], Filter | None]:
        return [field for field in headers if field[0] != b"content-length"], Unchanged()


class OneHeader:
    """Puts a secret into one header of every request."""

    def concerns(self, host: str) -> bool:
        return True

    async def begin(self, head: RequestHead) -> SecretExchange | None:
        headers = tuple((name, value.replace(b"PLACEHOLDER", b"secret")) for name, value in head.headers)
        changed = RequestHead(head.method, head.scheme, head.host, head.port, head.target, headers, head.own_network)
        return Changed(changed)


async def run_proxy(folder: Path, port: int, records: bool) -> None:
    recorder: StoredDecisions | Nothing = Nothing()
    if records:
        settings = Settings(state_dir=folder / "state")
        settings.state_dir.mkdir()
        database = await Database.open(settings.store_url)
        await database.write(lambda conn: _add_session(conn, database.now(conn)))
        recorder = StoredDecisions(database, Denials())
    proxy = EgressProxy(
        recorder,
        resolver=Names(),
        private_allowed=frozenset({"127.0.0.1"}),
        ports=frozenset({443, port}),
        limits=EgressLimits(leaves=100_000),
        tls=ssl.create_default_context(cafile=str(folder / "world.pem")),
    )
    hosts = ("localhost", "*.bench.localhost")
    await proxy.open(SESSION, folder / "pass.sock", EgressRules("listed", hosts))
    ended = await proxy.open(SESSION, folder / "ended.sock", EgressRules("listed", hosts), secrets=OneHeader())
    (folder / "ours.pem").write_bytes(ended.authority or b"")
    print("ready", flush=True)
    await asyncio.Event().wait()


def _add_session(conn: Connection, now: float) -> None:
    """What decisions are about."""
    create_agent(conn, now, id="agent_1", workspace_id=DEFAULT_WORKSPACE, name="a", body={})
    create_environment(conn, now, id="env_1", workspace_id=DEFAULT_WORKSPACE, name="e", body={})
    made = NewSession(
        id=SESSION,
        workspace_id=DEFAULT_WORKSPACE,
        agent_id="agent_1",
        agent_version=1,
        environment_id="env_1",
        thread_id="sthr_1",
        agent={},
        environment={},
        state="{}",
    )
    create_session(conn, now, made)


# ---------------------------------------------------------------------------------------------------------- the others


@contextmanager
def running(command: Sequence[str], core: int, **options: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(["taskset", "-c", str(core), *command], text=True, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as trying:
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


def tinyproxy(folder: Path, stack: ExitStack) -> tuple[str, int]:
    if shutil.which("tinyproxy") is None:
        raise SystemExit("tinyproxy is missing; install it: apt-get install tinyproxy")
    port = free_port()
    settings = f"Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 500\nLogLevel Critical\nDisableViaHeader Yes\n"
    (folder / "tinyproxy.conf").write_text(settings)
    process = stack.enter_context(
        running(["tinyproxy", "-d", "-c", str(folder / "tinyproxy.conf")], 0, stdout=subprocess.DEVNULL)
    )
    wait_for(port)
    return f"tcp:{port}", process.pid


def mitmproxy(folder: Path, cache: Path, python: str, stack: ExitStack) -> tuple[str, int, Path]:
    program = cache / "mitmproxy" / "bin" / "mitmdump"
    if not program.exists():
        print("installing mitmproxy …", flush=True)
        subprocess.run([python, "-m", "venv", str(cache / "mitmproxy")], check=True)
        subprocess.run([str(program.with_name("pip")), "install", "-q", "mitmproxy"], check=True)
    port, place = free_port(), folder / "mitm"
    options = [f"confdir={place}", f"ssl_verify_upstream_trusted_ca={folder / 'world.pem'}", "flow_detail=0"]
    command = [str(program), "-q", "--listen-host", "127.0.0.1", "-p", str(port)]
    command += [part for option in options for part in ("--set", option)]
    command += ["--modify-headers", "/~q/authorization/Bearer secret"]
    process = stack.enter_context(running(command, 0, stdout=subprocess.DEVNULL))
    wait_for(port)
    version = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
    print(version.splitlines()[0])
    return f"tcp:{port}", process.pid, place / "mitmproxy-ca-cert.pem"


# ------------------------------------------------------------------------------------------------------------ the load


@dataclass
class Way:
    """How a target is reached, whom the clients trust there, and whose CPU time it costs."""

    way: str
    ca: Path
    pid: int | None


@dataclass
class Round:
    rate: float
    median_ms: float
    p99_ms: float
    cpu_us: float
    """Of the proxy, for one request. It hardly depends on what else the machine does."""
    failures: int


def ask(load: Path, to: Way, host: str, port: int, connections: int, seconds: float, kind: str) -> Round:
    keep, cold = ("1", "0") if kind == "kept" else ("0", "1" if kind == "cold" else "0")
    command = [str(load), "ask", to.way, host, str(port), str(to.ca), str(connections), str(seconds), keep, cold]
    spent = 0.0 if to.pid is None else cpu_seconds(to.pid)
    done = subprocess.run(["taskset", "-c", "1", *command], capture_output=True, text=True, check=True)
    spent = 0.0 if to.pid is None else cpu_seconds(to.pid) - spent
    requests, failures, took, median, p99 = done.stdout.split()
    each = spent / max(int(requests), 1) * 1e6
    return Round(int(requests) / float(took), float(median) / 1000, float(p99) / 1000, each, int(failures))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
    load = folder / "load"
    source = HERE / "egress_load.c"
    compiler = ["gcc", "-O2", "-D_GNU_SOURCE", "-o", str(load), str(source), "-lssl", "-lcrypto", "-lpthread"]
    subprocess.run(compiler, check=True)
    world = Authority("bench")
    (folder / "world.pem").write_bytes(world.pem)
    (folder / "site.pem").write_bytes(world.chain("localhost", "*.bench.localhost"))
    site = str(folder / "site.pem")
    server = stack.enter_context(running([str(load), "serve", site, site], 1, stdout=subprocess.PIPE))
    assert server.stdout is not None
    port = int(server.stdout.readline().split()[1])
    command = [sys.executable, __file__, "proxy", str(folder), str(port), "0" if arguments.without_records else "1"]
    ours = stack.enter_context(running(command, 0, stdout=subprocess.PIPE))
    assert ours.stdout is not None
    if ours.stdout.readline().strip() != "ready":
        raise SystemExit("the proxy did not start")
    mitm, mitm_pid, mitm_ca = mitmproxy(folder, arguments.cache, arguments.python, stack)
    tiny, tiny_pid = tinyproxy(folder, stack)
    trusted = folder / "world.pem"
    ways = {
        "direct": Way("direct", trusted, None),
        "tinyproxy": Way(tiny, trusted, tiny_pid),
        "mitmproxy": Way(mitm, mitm_ca, mitm_pid),
        "pass": Way(f"unix:{folder / 'pass.sock'}", trusted, ours.pid),
        "ended": Way(f"unix:{folder / 'ended.sock'}", folder / "ours.pem", ours.pid),
    }
    cases = {
        f"{what} {kind} {connections}": (("direct", peer, what), kind, connections)
        for what, peer in (("pass", "tinyproxy"), ("ended", "mitmproxy"))
        for kind in ("kept", "new")
        for connections in (1, 20)
    }
    cases["ended cold 1"] = (("direct", "direct", "ended"), "cold", 1)
    cases = {name: case for name, case in cases.items() if not arguments.only or name in arguments.only}
    print(f"load before: {os.getloadavg()[0]:.2f}; {arguments.rounds} rounds of {arguments.seconds} s")
    print(f"{'case':<16}{'':<11}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'added p50':>11}{'of peer':>9}", end="")
    print(f"{'CPU us':>9}{'failed':>8}")
    for name, (targets, kind, connections) in cases.items():
        rounds: dict[str, list[Round]] = {target: [] for target in targets}
        host = "bench.localhost" if kind == "cold" else "localhost"
        once = list(rounds)
        for number in range(arguments.rounds):
            for place in range(len(once)):
                target = once[(number + place) % len(once)]
                rounds[target].append(ask(load, ways[target], host, port, connections, arguments.seconds, kind))
        show(name, targets, rounds)
    print(f"load after: {os.getloadavg()[0]:.2f}")


def show(name: str, targets: Sequence[str], rounds: dict[str, list[Round]]) -> None:
    def middle(target: str, what: str) -> float:
        return statistics.median(getattr(each, what) for each in rounds[target])

    direct, peer, own = targets
    for target in rounds:
        added = middle(target, "median_ms") - middle(direct, "median_ms")
        ratio = middle(target, "rate") / max(middle(peer, "rate"), 1e-9)
        failed = sum(each.failures for each in rounds[target])
        line = f"{name if target == direct else '':<16}{target:<11}{middle(target, 'rate'):>9.0f}"
        line += f"{middle(target, 'median_ms'):>9.3f}{middle(target, 'p99_ms'):>9.3f}"
        print(line + f"{added:>11.3f}{ratio:>9.2f}{middle(target, 'cpu_us'):>9.0f}{failed:>8}", flush=True)
    if name in TARGETS:
        reached = middle(own, "rate") / max(middle(peer, "rate"), 1e-9)
        by_cpu = middle(peer, "cpu_us") / max(middle(own, "cpu_us"), 1e-9)
        print(f"{'':<16}-> {reached:.2f} x {peer} (by CPU {by_cpu:.2f} x), wanted {TARGETS[name]:g}")
    if name in ADDED:
        added = middle(own, "median_ms") - middle(direct, "median_ms")
        print(f"{'':<16}-> adds {added:.2f} ms, wanted at most {ADDED[name]:g}")


def main() -> None:
    if sys.argv[1:2] == ["proxy"]:
        uvloop.run(run_proxy(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--only", action="append", metavar="CASE", help="such as 'ended kept 20'; may be repeated")
    parser.add_argument("--without-records", action="store_true", help="decisions are not written down")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "hostler-bench")
    parser.add_argument("--python", default=sys.executable, help="interpreter for mitmproxy; 3.12 or newer for today's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hb-") as name, ExitStack() as stack:
        measure(arguments, Path(name), stack)


if __name__ == "__main__":
    main()
