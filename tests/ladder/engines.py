"""Container engines of the tests' own: where does one come from, and how does it go without leaving anything?

Each runs below a directory of its own, touches no network of the host, and is stopped by its process id. Nothing that
was there before (an engine of this machine, its containers, its images) is used or changed. What a test run leaves that
was killed itself, the next one takes away: directories say whose they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

START_SECONDS = 60.0
STOP_SECONDS = 30.0
ASK_SECONDS = 30
OWNER = "owner"
"""File of an engine's directory: id of the process that made it, and when that was started."""

RUNSC_ARGUMENTS = ("--network=none", "--host-uds=open", "--platform=systrap", "--oci-seccomp")


@dataclass(frozen=True)
class Engine:
    """A running one."""

    kind: Literal["docker", "podman"]
    socket: Path
    home: Path
    """Everything that it keeps is below."""
    pid: int


def runsc() -> str | None:
    """gVisor's program, where this machine has one."""
    return shutil.which("runsc")


@contextmanager
def docker() -> Iterator[Engine]:
    """`dockerd` with a `containerd` of its own; gVisor is its runtime `runsc`, where this machine has it."""
    with _home("hd-") as home:
        runtimes = {"runsc": {"path": runsc(), "runtimeArgs": list(RUNSC_ARGUMENTS)}} if runsc() else {}
        (home / "daemon.json").write_text(json.dumps({"runtimes": runtimes}))
        socket = home / "docker.sock"
        command = [
            *("dockerd", "--config-file", str(home / "daemon.json"), "--data-root", str(home / "data")),
            *("--exec-root", str(home / "run"), "--pidfile", str(home / "pid"), "-H", f"unix://{socket}"),
            # No bridge, no rule, no forwarding: the host's network stays as it is.
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        ]
        with _service("docker", command, home, socket) as engine:
            yield engine


@contextmanager
def podman() -> Iterator[Engine]:
    """`podman system service`, in the way that the how-to describes, with storage of its own."""
    with _home("hp-") as home:
        (home / "containers.conf").write_text(
            # Locks in shared memory are the whole host's: a second store would free those of the first.
            '[engine]\nlock_type = "file"\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\nruntime = "runc"\n'
            f'tmp_dir = "{home}/tmp"\nvolume_path = "{home}/volumes"\n'
            "[containers]\ndefault_ulimits = []\n"
        )
        socket = home / "podman.sock"
        command = [
            *("podman", "--root", str(home / "root"), "--runroot", str(home / "run"), "--tmpdir", str(home / "tmp")),
            *("--storage-driver", "overlay", "system", "service", "--time", "0", f"unix://{socket}"),
        ]
        with _service("podman", command, home, socket, {"CONTAINERS_CONF": str(home / "containers.conf")}) as engine:
            yield engine


@contextmanager
def _home(prefix: str) -> Iterator[Path]:
    # Not below pytest's directory: the name of a socket is at most 107 bytes long.
    sweep(prefix)
    home = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        (home / OWNER).write_text(_life(os.getpid()))
        yield home
    finally:
        _unmount_below(home)
        shutil.rmtree(home, ignore_errors=True)
        assert str(home) not in Path("/proc/self/mountinfo").read_text(), f"mounts are left below {home}"


def sweep(prefix: str, below: Path = Path("/tmp")) -> list[Path]:
    """Ends and removes what test runs left that are no more. Gives the directories."""
    found = []
    for home in below.glob(f"{prefix}*"):
        try:
            owner = (home / OWNER).read_text()
        except OSError:  # just being made, or not one of ours
            continue
        if owner and _life(int(owner.split()[0])) != owner:
            _end_rest(home)
            _unmount_below(home)
            shutil.rmtree(home, ignore_errors=True)
            found.append(home)
    return found


def _life(pid: int) -> str:
    """Two processes that have the same id one after the other differ in it. Empty: there is none."""
    try:
        return f"{pid} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return ""


@contextmanager
def _service(
    kind: Literal["docker", "podman"],
    command: Sequence[str],
    home: Path,
    socket: Path,
    environment: dict[str, str] | None = None,
) -> Iterator[Engine]:
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=home,  # conmon writes a file there when a container runs out of memory
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
    try:
        _until_it_answers(process, socket, home / "log")
        yield Engine(kind, socket, home, process.pid)
    finally:
        _remove_containers(socket)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        _end_rest(home)


def _until_it_answers(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if ask(socket, "GET", "/_ping", seconds=5) is not None:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not answer:\n{log.read_text(errors='replace')[-2000:]}")


def ask(socket: Path, method: str, path: str, seconds: int = ASK_SECONDS) -> bytes | None:
    """One request to an engine by way of curl, so that the tests don't depend on the client that they test. None: it
    was refused, or not answered in time."""
    done = subprocess.run(
        ["curl", "-sf", "--max-time", str(seconds), "-X", method, "--unix-socket", str(socket), f"http://engine{path}"],
        capture_output=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else None


def containers(socket: Path) -> list[str]:
    """Ids of all containers that the engine has, whoever made them."""
    said = ask(socket, "GET", "/v1.41/containers/json?all=1")
    return [one["Id"] for one in json.loads(said or b"[]")]


def _remove_containers(socket: Path) -> None:
    for container in containers(socket):
        ask(socket, "POST", f"/v1.41/containers/{container}/unpause")
        ask(socket, "DELETE", f"/v1.41/containers/{container}?force=1&v=1")


def _end_rest(home: Path) -> None:
    """Helpers that an engine leaves when it was killed: everything with our directory in its arguments."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{home}/".encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)


def _unmount_below(home: Path) -> None:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{home}/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=False, timeout=60)
