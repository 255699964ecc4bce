"""What does the gateway cost, next to LiteLLM's? Run: `python bench/gateway.py` (about 10 minutes).

Exit status 1 when a target is missed. The same topology for all: the gateway on core 0, clients and model
(`gateway_load.c`, compiled at run time) on core 1. The model answers at once, with a small message or with 20 deltas.
Closed loop, connections are kept. What is compared is alternated within each round; a value is the median of the
rounds. Only ratios survive a noisy machine; the load is printed.

- direct: the clients ask the model.
- bare: what the product runs between a sandbox's socket and a model, with rules, limits and metrics as they are
  without a configuration, and nothing written down. One road for each connection, as if each were a session.
- reserved: the same, with a budget for each session: every request is set aside, settled and recorded in PostgreSQL,
  which flushes to disk. How long one flush takes is printed.
- traced: bare, and every request is traced, batched and exported to a collector that says yes. What it costs is the CPU
  time of the gateway's process with all of its threads, not the collector's, until every span was sent. It is measured
  apart, in `--pairs` of short rounds, one traced and one not, taking turns in who is first: on a busy machine, what a
  request takes changes from minute to minute by more than what is looked for. Both go through the same process, on
  roads that are traced and roads that are not: what a request takes in two processes that do the same differs, too, by
  where their memory happens to lie. A request without a span fails the run.
- litellm: LiteLLM's proxy, /v1/messages, one worker, no database, no callbacks. Installed into a virtual environment of
  its own in `--cache`.

`added` is the difference of the medians of one request. Ours is reached over a unix socket, as by a sandbox, the others
over TCP.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import Connection

from hostler.compose.gateway import open_desk
from hostler.compose.metrics import open_metrics
from hostler.compose.stored import runner_ledger
from hostler.config import load
from hostler.domain.prices import Prices
from hostler.engine.model_port import Caller
from hostler.engine.ports import HeldCall, ModelRequestRecord
from hostler.engine.runner_parts import LeaseTerms
from hostler.gateway import ModelGateway
from hostler.store.catalog import create_agent, create_environment
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.sessions import NewSession, create_session
from hostler.testing.postgres import PostgresCluster

HERE = Path(__file__).parent
CONNECTIONS = (1, 20, 100)
MODEL = "claude-opus-5-5"
KEY = "sk-bench-4f1c0b7e92aa4d6d8f0e31c5"
"""What the clients send to everybody. LiteLLM starts with none that is shorter."""
A_LOT = 10**15
"""Nanos of each session's budget: a million dollars."""


class Missing(Exception):
    """This version has no such thing. The message says what."""


# -------------------------------------------------------------------------------------------------------- our gateway


@dataclass
class Listener:
    """Whose road it is. Writes down what it is told, if it was given where."""

    caller: Caller
    record: Callable[[ModelRequestRecord], Any] | None = None

    async def on_calls_held(self, shown: str, calls: Sequence[HeldCall]) -> None:
        return

    async def on_model_request(self, record: ModelRequestRecord) -> None:
        if self.record is not None:
            await self.record(record)

    async def on_budget_reached(self, why: str, *more: object) -> None:
        raise SystemExit(f"a budget of the benchmark is used up: {why}")


class NoSequence:
    async def load(self) -> str | None:
        return None

    async def save(self, state: str) -> None:
        return


async def run_gateway(variant: str, folder: Path, port: int, url: str) -> None:
    """`url`: of the database, or of the collector."""
    more = {"telemetry__traces": "otlp", "telemetry__endpoint": url} if variant == "traced" else {}
    upstream = {"model__base_url": f"http://127.0.0.1:{port}", "model__api_key": "sk-upstream"}
    settings = load({"HOME": str(folder)}, state_dir=str(folder), **upstream, **more)
    async with AsyncExitStack() as stack:
        sessions = [f"sesn_{number}" for number in range(max(CONNECTIONS))]
        desk, record = await open_desk(settings, stack), None
        if variant == "reserved":
            purse, record = await reserving(url, sessions, stack)
            desk = replace(desk, purse=purse)
        desk = desk.watched_by(open_metrics(desk.channels))
        desks = {variant: desk}
        if variant == "traced":
            desks["untraced"] = desk
            desks["traced"], figures = traced(desk, settings, sessions, stack)
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), tell, figures)
        for name, each in desks.items():
            await open_roads(ModelGateway(each), str(folder / name), sessions, record, stack)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # As the server does.
        print("ready", flush=True)
        await asyncio.Event().wait()


async def open_roads(
    gateway: ModelGateway, path: str, sessions: Sequence[str], record: Any, stack: AsyncExitStack
) -> None:
    """`path`: of their sockets, but for number and ending."""
    stack.push_async_callback(gateway.close)
    for number, session in enumerate(sessions):
        caller = Caller(
            session_id=session,
            workspace_id=DEFAULT_WORKSPACE,
            environment_id="env_1",
            agent_id="agent_1",
            agent_version=1,
            model=MODEL,
            agent={"model": {"id": MODEL}},
            epoch=1,
        )
        await gateway.open(
            session,
            Path(f"{path}-{number}.sock"),
            Listener(caller, record),
            one_call_at_a_time=False,
            sequence=NoSequence(),
            allowed_models=frozenset((MODEL,)),
        )


async def reserving(url: str, sessions: Sequence[str], stack: AsyncExitStack) -> tuple[Any, Any]:
    """The purse and the ledger of the product, and a budget for each session."""
    database = await Database.open(url)
    stack.push_async_callback(database.close)
    budgets = importlib.import_module("hostler.store.budgets")
    prices = Prices()

    def rows(conn: Connection) -> None:
        now = database.now(conn)
        create_agent(conn, now, id="agent_1", workspace_id=DEFAULT_WORKSPACE, name="a", body={})
        create_environment(conn, now, id="env_1", workspace_id=DEFAULT_WORKSPACE, name="e", body={})
        for session in sessions:
            made = NewSession(
                id=session,
                workspace_id=DEFAULT_WORKSPACE,
                agent_id="agent_1",
                agent_version=1,
                environment_id="env_1",
                thread_id=session.replace("sesn", "sthr"),
                agent={},
                environment={},
                state="{}",
            )
            create_session(conn, now, made)
            budgets.create(conn, now, DEFAULT_WORKSPACE, "session", session, "total", A_LOT)

    await database.write(rows)
    purse = importlib.import_module("hostler.engine.purse").StoredPurse(database, prices)
    ledger = runner_ledger(database, LeaseTerms(60.0, 5.0), prices, purse)
    return purse, ledger.record_request


def tell(figures: Callable[[], Any]) -> None:
    """Answers a line with what became of the spans."""
    if os.read(sys.stdin.fileno(), 64):
        print(json.dumps(figures()), flush=True)
    else:  # Nobody asks any more.
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


def traced(desk: Any, settings: Any, sessions: Sequence[str], stack: AsyncExitStack) -> tuple[Any, Callable[[], Any]]:
    """The desk as the product traces it, each session in a turn; and what became of the spans."""
    traces = importlib.import_module("hostler.compose.telemetry").open_traces(settings, "bench", stack)
    port = importlib.import_module("hostler.engine.trace_port")
    about = importlib.import_module("hostler.engine.about")
    for session in sessions:
        begun = port.TurnBegun(
            turn_id=f"turn_{session}",
            session_id=session,
            workspace_id=DEFAULT_WORKSPACE,
            environment_id="env_1",
            agent_id="agent_1",
            agent_version=1,
            agent_name="a",
            model=MODEL,
            how="start",
            parent="",
        )
        traces.tracing.turn(about.About(), begun)
    return traces.watching(desk), traces.figures


def check_variant(variant: str) -> None:
    """Raises Missing."""
    needs = {"reserved": "hostler.engine.purse", "traced": "hostler.telemetry.tracing"}
    if variant in needs and importlib.util.find_spec(needs[variant]) is None:
        raise Missing(f"{needs[variant]} is not in this version")


# -------------------------------------------------------------------------------------------------------------- LiteLLM


@contextmanager
def running(command: Sequence[str], core: int | None, **options: Any) -> Iterator[subprocess.Popen[str]]:
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    with subprocess.Popen([*pinned, *command], text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def litellm(folder: Path, cache: Path, python: str, port: int, stack: ExitStack) -> tuple[str, int]:
    """Where it listens, and its process. Raises Missing when it can't be installed or does not start."""
    program = cache / "litellm" / "bin" / "litellm"
    if not program.exists():
        print("installing LiteLLM …", flush=True)
        try:
            subprocess.run([python, "-m", "venv", str(cache / "litellm")], check=True, capture_output=True)
            install = [str(program.with_name("pip")), "install", "-q", "--disable-pip-version-check", "litellm[proxy]"]
            subprocess.run(install, check=True, capture_output=True, text=True, timeout=900)
        except (subprocess.SubprocessError, OSError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            raise Missing(f"it can't be installed: {said[-1] if said else error}") from error
    show = "import importlib.metadata as m; print(m.version('litellm'))"
    version = subprocess.run([str(program.with_name("python")), "-c", show], capture_output=True, text=True, check=True)
    print(f"LiteLLM {version.stdout.strip()}")
    target = {"model": f"anthropic/{MODEL}", "api_base": f"http://127.0.0.1:{port}", "api_key": "sk-upstream"}
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": target}],
        "litellm_settings": {"telemetry": False, "callbacks": []},
        "general_settings": {"master_key": KEY},
    }
    (folder / "litellm.json").write_text(json.dumps(settings))
    own = free_port()
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    command = [str(program), "--config", str(folder / "litellm.json"), "--host", "127.0.0.1", "--port", str(own)]
    log = stack.enter_context((folder / "litellm.log").open("w"))
    process = stack.enter_context(
        running([*command, "--num_workers", "1"], 0, stdout=log, stderr=log, env=environment, cwd=folder)
    )
    for _ in range(2400):
        with socket.socket() as trying:
            if trying.connect_ex(("127.0.0.1", own)) == 0:
                return f"tcp:{own}", process.pid
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise Missing("it did not start: " + (folder / "litellm.log").read_text()[-300:].replace("\n", " "))


# ------------------------------------------------------------------------------------------------------------- the load


@dataclass
class Round:
    rate: float
    median_ms: float
    p99_ms: float
    cpu_us: float
    """Of the gateway's process, for one request. It hardly depends on what else the machine does."""
    failures: int
    untraced: int = 0
    """Requests without a span that was sent. Of the traced gateway only."""


@dataclass
class Target:
    way: str
    pid: int | None = None
    """Whose CPU time it costs."""
    figures: Callable[[], Any] | None = None
    """Of its spans."""

    def settled(self) -> Any:
        """The figures, once nothing waits to be sent."""
        if self.figures is None:
            return None
        while (now := self.figures())["waiting"]:
            time.sleep(0.5)  # Asking costs it CPU time, too.
        return now


@dataclass
class Bench:
    load: Path
    bodies: dict[str, Path]
    seconds: float
    targets: dict[str, Target] = field(default_factory=dict)

    def ask(self, name: str, kind: str, connections: int, seconds: float | None = None) -> Round:
        target = self.targets[name]
        seconds = seconds or self.seconds * (2 if name == "litellm" else 1)
        command = [str(self.load), "ask", target.way, str(self.bodies[kind]), str(connections), str(seconds)]
        sent = target.settled()
        before = cpu_seconds(target.pid)
        done = subprocess.run(["taskset", "-c", "1", *command], capture_output=True, text=True, check=True)
        now = target.settled()
        spent = cpu_seconds(target.pid) - before
        requests, failures, took, median, p99 = done.stdout.split()
        each = spent / max(int(requests), 1) * 1e6
        untraced = 0
        if now is not None:
            lost = sum(now[what] - sent[what] for what in ("dropped", "failed"))
            untraced = max(lost, int(requests) - (now["sent"] - sent["sent"]))
        return Round(
            int(requests) / float(took), float(median) / 1000, float(p99) / 1000, each, int(failures), untraced
        )


def cpu_seconds(pid: int | None) -> float:
    """Of all its threads; to the nanosecond, where `stat` counts in hundredths of a second."""
    if pid is None:
        return 0.0
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@dataclass
class Verdicts:
    missed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def wanted(self, what: str, value: float, limit: float, *, most: bool, form: str = ".2f") -> None:
        well = value <= limit if most else value >= limit
        line = f"{what}: {value:{form}}, wanted {'at most' if most else 'at least'} {limit:{form}}"
        self.said.append(f"{'ok    ' if well else 'MISSED'}  {line}")
        if not well:
            self.missed.append(line)


Results = dict[tuple[str, int], dict[str, list[Round]]]


def middle(rounds: Sequence[Round], what: str) -> float:
    return statistics.median(getattr(each, what) for each in rounds)


def measured(bench: Bench, rounds: int) -> Results:
    """Shown as it comes."""
    print(f"{'case':<12}{'':<10}{'req/s':>9}{'p50 ms':>10}{'p99 ms':>11}{'added p50':>11}{'of bare':>9}", end="")
    print(f"{'CPU us':>9}{'failed':>8}")
    results: Results = {}
    names = list(bench.targets)
    for kind in bench.bodies:
        for connections in CONNECTIONS:
            for name in names:
                bench.ask(name, kind, connections, 0.3)  # Warm.
            found: dict[str, list[Round]] = {name: [] for name in names}
            for number in range(rounds):
                for place in range(len(names)):
                    name = names[(number + place) % len(names)]
                    found[name].append(bench.ask(name, kind, connections))
            results[kind, connections] = found
            show(f"{kind} {connections}", found)
    return results


def paired(bench: Bench, pairs: int, verdicts: Verdicts) -> None:
    """What tracing costs. Shown as it comes."""
    for kind in bench.bodies:
        for connections in (many for many in CONNECTIONS if many > 1):
            costs, missing = [], 0
            for number in range(pairs):
                names = ("untraced", "traced") if number % 2 else ("traced", "untraced")
                rounds = {name: bench.ask(name, kind, connections, bench.seconds / 2) for name in names}
                costs.append(rounds["traced"].cpu_us / max(rounds["untraced"].cpu_us, 1e-9) - 1)
                missing += rounds["traced"].untraced + rounds["traced"].failures + rounds["untraced"].failures
            low, half, high = statistics.quantiles(costs, n=4)
            case = f"{kind}, {connections} concurrent"
            print(f"{case}: tracing costs {half:.1%} of CPU, quartiles {low:.1%} and {high:.1%}", flush=True)
            verdicts.wanted(f"{case}: CPU for tracing", half, 0.05, most=True, form=".3f")
            if missing:
                verdicts.wanted(f"{case}: requests that failed or have no span", missing, 0, most=True, form=".0f")


def show(case: str, found: dict[str, list[Round]]) -> None:
    for name, rounds in found.items():
        added = middle(rounds, "median_ms") - middle(found["direct"], "median_ms")
        of_bare = middle(rounds, "rate") / max(middle(found["bare"], "rate"), 1e-9)
        line = f"{case if name == 'direct' else '':<12}{name:<10}{middle(rounds, 'rate'):>9.0f}"
        line += f"{middle(rounds, 'median_ms'):>10.3f}{middle(rounds, 'p99_ms'):>11.3f}{added:>11.3f}{of_bare:>9.2f}"
        print(line + f"{middle(rounds, 'cpu_us'):>9.0f}{sum(each.failures for each in rounds):>8}", flush=True)


def judged(results: Results) -> Verdicts:
    verdicts = Verdicts()
    for (kind, connections), found in results.items():
        added = {name: added_ms(found, name) for name in found}
        case = f"{kind}, {connections} concurrent"
        if connections == 1:
            verdicts.wanted(f"{case}: added by bare, ms", added["bare"], 0.8, most=True)
            if "reserved" in found:
                verdicts.wanted(f"{case}: added by reserved, ms", added["reserved"], 1.5, most=True)
        elif "litellm" in found:
            ratio = added["bare"] / max(added["litellm"], 1e-9)
            verdicts.wanted(f"{case}: added by bare, of LiteLLM's", ratio, 1 / 20, most=True, form=".4f")
        failures = {name: sum(each.failures for each in rounds) for name, rounds in found.items() if name != "litellm"}
        if sum(failures.values()):
            verdicts.wanted(f"{case}: failed requests", sum(failures.values()), 0, most=True, form=".0f")
    for name, least in (("bare", 3_000), ("reserved", 1_500)):
        rates = [
            middle(found[name], "rate")
            for (kind, connections), found in results.items()
            if kind == "json" and connections > 1 and name in found
        ]
        if rates:
            verdicts.wanted(f"small requests a second, {name}", max(rates), least, most=False, form=".0f")
    return verdicts


def added_ms(found: dict[str, list[Round]], name: str) -> float:
    return middle(found[name], "median_ms") - middle(found["direct"], "median_ms")


def flush_ms(folder: Path) -> float:
    """Median of one small write with fdatasync where the database is."""
    times = []
    with (folder / "flush").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 8192)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def measure(arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> Verdicts:
    load = folder / "load"
    compiler = ["gcc", "-O2", "-D_GNU_SOURCE", "-o", str(load), str(HERE / "gateway_load.c"), "-lpthread"]
    subprocess.run(compiler, check=True)
    bodies = {}
    for kind in ("json", "stream"):
        said = {"role": "user", "content": [{"type": "text", "text": "x" * 600}]}
        body = {"model": MODEL, "max_tokens": 1_000, "stream": kind == "stream", "messages": [said]}
        bodies[kind] = folder / f"{kind}.json"
        bodies[kind].write_text(json.dumps(body))
    model = stack.enter_context(running([str(load), "serve"], 1, stdout=subprocess.PIPE))
    assert model.stdout is not None
    port = int(model.stdout.readline())
    bench = Bench(load, bodies, arguments.seconds, {"direct": Target(f"tcp:{port}")})
    for variant in ("bare", "reserved", "traced"):
        try:
            if arguments.only and variant not in ("bare", *arguments.only):
                raise Missing("as --only says")
            bench.targets[variant] = ours(variant, folder, port, stack)
        except Missing as missing:
            print(f"{variant}: left out, {missing}")
    if not arguments.only or "litellm" in arguments.only:
        try:
            bench.targets["litellm"] = Target(*litellm(folder, arguments.cache, arguments.python, port, stack))
        except Missing as missing:
            print(f"litellm: left out, {missing}")
    print(f"load before: {os.getloadavg()[0]:.2f}; {arguments.rounds} rounds of {arguments.seconds} s")
    results = measured(bench, arguments.rounds)
    verdicts = judged(results)
    traced = bench.targets.get("traced")
    if traced is not None:
        bench.targets["untraced"] = Target(f"unix:{folder}/untraced-%d.sock", traced.pid)
        paired(bench, arguments.pairs, verdicts)
    print(f"load after: {os.getloadavg()[0]:.2f}")
    return verdicts


def ours(variant: str, folder: Path, port: int, stack: ExitStack) -> Target:
    """Raises Missing."""
    check_variant(variant)
    url = ""
    if variant == "reserved":
        cluster = stack.enter_context(PostgresCluster(durable=True))
        url = cluster.create_database("bench")
        print(f"one flush to disk: {flush_ms(folder):.2f} ms")
    elif variant == "traced":
        collector = stack.enter_context(running([str(folder / "load"), "serve"], 1, stdout=subprocess.PIPE))
        assert collector.stdout is not None
        url = f"http://127.0.0.1:{int(collector.stdout.readline())}/v1/traces"
    command = [sys.executable, __file__, "gateway", variant, str(folder), str(port), url]
    process = stack.enter_context(running(command, 0, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    asked, said = process.stdin, process.stdout
    assert asked is not None
    assert said is not None
    if said.readline().strip() != "ready":
        raise SystemExit(f"the gateway ({variant}) did not start")

    def figures() -> Any:
        asked.write("?\n")
        asked.flush()
        return json.loads(said.readline())

    way = f"unix:{folder}/{variant}-%d.sock"
    return Target(way, process.pid, figures if variant == "traced" else None)


def main() -> None:
    if sys.argv[1:2] == ["gateway"]:
        uvloop.run(run_gateway(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--pairs", type=int, default=16, help="for what tracing costs; each round takes half as long")
    parser.add_argument("--only", action="append", metavar="VARIANT", help="besides direct; bare is always there")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "hostler-bench")
    parser.add_argument("--python", default=sys.executable, help="interpreter for LiteLLM")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hb-") as name, ExitStack() as stack:
        verdicts = measure(arguments, Path(name), stack)
    print("\n".join(verdicts.said))
    raise SystemExit(1 if verdicts.missed else 0)


if __name__ == "__main__":
    main()
