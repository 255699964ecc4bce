"""What is a container engine asked for, and what becomes of its answers? Without one; the ladder tests have them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostler.engine.sandbox_port import Mount, SandboxLimits, SandboxSpec, SandboxUnavailable
from hostler.sandbox import oci_container, oci_launchers, oci_seccomp, specs
from hostler.sandbox.oci import OciProvider
from hostler.sandbox.oci_container import Ground
from hostler.sandbox.oci_engine import Engine, EngineError, EngineSilent
from hostler.sandbox.seccomp import DENIED, TERMINAL_REQUESTS

# ------------------------------------------------------------------------------------------------------- the container


def spec(place: Path, **changes: Any) -> SandboxSpec:
    for name in ("workspace", "outputs", "harness"):
        (place / name).mkdir(exist_ok=True)
    for name in ("model.sock", "egress.sock"):
        if not (place / name).exists():
            with socket.socket(socket.AF_UNIX) as end:
                here = os.getcwd()
                os.chdir(place)
                end.bind(name)
                os.chdir(here)
    (place / "claude").touch()
    given: dict[str, Any] = {
        "session_id": "sesn_one",
        "workspace": place / "workspace",
        "outputs": place / "outputs",
        "harness_state": place / "harness",
        "model_socket": place / "model.sock",
        "egress_socket": place / "egress.sock",
        "program": place / "claude",
        "limits": SandboxLimits(memory_bytes=1 << 30, pids=100, cpus=1.5, open_files=128, tmp_bytes=1 << 20),
    }
    return SandboxSpec(**{**given, **changes})


def made(place: Path, kind: Any = "docker", *, gvisor: bool = False, **changes: Any) -> dict[str, Any]:
    (place / "etc").mkdir(exist_ok=True)
    (place / "etc" / "passwd").touch()
    ground = Ground("a" * 24, "state", "image", 300_007, place / "etc", place / "calls", {"/run/hostler": place})
    return oci_container.config(spec(place, **changes), ground, kind, "runsc" if gvisor else "", gvisor, "PROFILE")


def mounts(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["Target"]: mount for mount in config["HostConfig"]["Mounts"]}


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_a_container_is_hardened(tmp_path: Path, kind: str) -> None:
    config = made(tmp_path, kind)
    host = config["HostConfig"]
    assert config["User"] == "300007:300007"
    assert host["NetworkMode"] == host["IpcMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert "CapAdd" not in host
    assert host["Privileged"] is False
    assert host["ReadonlyRootfs"] is True
    assert host["SecurityOpt"] == ["no-new-privileges", "seccomp=PROFILE"]
    assert host["LogConfig"] == {"Type": "none"}
    assert host["Memory"] == host["MemorySwap"] == 1 << 30
    assert host["NanoCpus"] == 1_500_000_000
    assert host["PidsLimit"] == 100
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
    assert limits["nofile"] == (128, 128)
    assert limits["core"] == (0, 0)
    for place in ("/tmp", "/dev/shm", "/home/agent"):
        options = set(host["Tmpfs"][place].split(","))
        assert {"noexec", "nosuid", "nodev", f"size={1 << 20}"} <= options, place


def test_only_kept_folders_can_be_written(tmp_path: Path) -> None:
    config = made(tmp_path, mounts=(Mount(tmp_path / "etc", "/mnt/skills/one"), Mount(tmp_path, "/mnt/memory", True)))
    writable = {place for place, mount in mounts(config).items() if not mount["ReadOnly"]}
    assert writable == {"/workspace", "/mnt/session/outputs", "/home/agent/.claude", "/mnt/memory"}
    assert not any(mount["Source"].endswith(("docker.sock", "podman.sock")) for mount in mounts(config).values())


def test_no_limit_means_no_limit(tmp_path: Path) -> None:
    host = made(tmp_path, limits=SandboxLimits(memory_bytes=None, pids=None, cpus=None))["HostConfig"]
    assert not {"Memory", "MemorySwap", "NanoCpus", "PidsLimit"} & host.keys()


def test_gvisor_counts_processes_inside(tmp_path: Path) -> None:
    host = made(tmp_path, gvisor=True)["HostConfig"]
    assert host["Runtime"] == "runsc"
    assert {"Name": "nproc", "Soft": 100, "Hard": 100} in host["Ulimits"]
    assert host["PidsLimit"] > 4 * 100


def test_podman_gets_nothing_writable_besides(tmp_path: Path) -> None:
    tmpfs = made(tmp_path, "podman")["HostConfig"]["Tmpfs"]
    assert all("mode=0755" in tmpfs[place] for place in ("/run", "/var/tmp"))


@pytest.mark.parametrize("changes", [{"environment": {"A": "b\0c"}}, {"mounts": (Mount(Path("/etc"), "/a/../b"),)}])
def test_what_no_container_can_be_made_from(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"NUL|normalised"):
        specs.check(spec(tmp_path, **changes))


# ------------------------------------------------------------------------------------------------------ system calls


def test_nothing_is_both_allowed_and_denied() -> None:
    assert not set(oci_seccomp.ALLOWED) & set(DENIED)
    assert len(set(oci_seccomp.ALLOWED)) == len(oci_seccomp.ALLOWED)


def test_unknown_calls_do_not_exist() -> None:
    profile = oci_seccomp.profile()
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["defaultErrnoRet"] == errno.ENOSYS
    assert "archMap" not in profile, "a 32-bit entrance would pass by the rules about arguments"
    said = {name: rule for rule in profile["syscalls"] for name in rule["names"] if not rule.get("args")}
    assert said["clone3"]["errnoRet"] == errno.ENOSYS
    assert "clone" not in said
    assert "socket" not in said


@pytest.mark.parametrize("high", [0, 1 << 32])
def test_a_terminal_request_passes_with_no_high_half(high: int) -> None:
    rules = [rule["args"][0] for rule in oci_seccomp.profile()["syscalls"] if rule["names"] == ["ioctl"]]

    def allowed(request: int) -> bool:
        return any((request | high) & rule["value"] == rule["valueTwo"] for rule in rules)

    for request in TERMINAL_REQUESTS.values():
        assert not allowed(request)
        assert allowed(request - 1)
        assert allowed(request ^ 1 << 31)
    assert allowed(0)
    assert allowed(0xFFFFFFFF)


# ------------------------------------------------------------------------------------------------- roads and programs


def test_roads_lead_to_sockets_that_are_opened_anew(tmp_path: Path) -> None:
    first = spec(tmp_path)
    roads = oci_launchers.lay_roads(tmp_path / "roads", first)
    assert roads == {"/run/hostler": tmp_path / "roads"}
    before = (tmp_path / "roads" / "egress.sock").stat().st_ino
    for name in ("model.sock", "egress.sock"):
        (tmp_path / name).unlink()
    again = spec(tmp_path)
    oci_launchers.renew_roads(tmp_path / "roads", again)
    assert (tmp_path / "roads" / "egress.sock").stat().st_ino == (tmp_path / "egress.sock").stat().st_ino != before
    oci_launchers.renew_roads(tmp_path / "roads", again)
    assert sorted(path.name for path in (tmp_path / "roads").iterdir()) == ["egress.sock", "model.sock"]


async def test_programs_say_when_there_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    oci_launchers.write_programs(tmp_path, tmp_path / "none.sock", "/v1.41", "a" * 24, 1000, spec(tmp_path))
    assert (tmp_path / "environment").stat().st_mode & 0o777 == 0o600
    for name in ("launcher", "entrance"):
        process = await asyncio.create_subprocess_exec(tmp_path / name, "x", stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        assert process.returncode == 125
        assert b"can't be spoken to" in said
    assert list((tmp_path / "calls").iterdir()) == []


# -------------------------------------------------------------------------------------------------------- the engine


@asynccontextmanager
async def engine_that_answers(tmp_path: Path, answer: Callable[[str], bytes]) -> AsyncIterator[Engine]:
    """A server at the other end of a real socket that says what it is told to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n")).decode()
        writer.write(answer(line))
        await writer.drain()
        writer.close()

    here = os.getcwd()
    os.chdir(tmp_path)
    server = await asyncio.start_unix_server(serve, "engine.sock")
    os.chdir(here)
    try:
        folder = os.open(tmp_path, os.O_PATH)
        yield Engine(Path(f"/proc/self/fd/{folder}/engine.sock"))
        os.close(folder)
    finally:
        server.close()


def http(status: int, body: Any) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text)


async def test_an_engines_refusal_is_its_own_words(tmp_path: Path) -> None:
    async with engine_that_answers(tmp_path, lambda line: http(409, {"message": "it is paused"})) as engine:
        with pytest.raises(EngineError, match="it is paused") as raised:
            await engine.start("x")
    assert raised.value.status == 409


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH\r\n", http(200, b"<html>")], ids=["hangs up", "ssh", "html"])
async def test_what_is_no_engine_is_said(tmp_path: Path, said: bytes) -> None:
    async with engine_that_answers(tmp_path, lambda line: said) as engine:
        with pytest.raises(EngineSilent):
            await engine.about()


async def test_an_engine_that_is_too_old_is_refused(tmp_path: Path) -> None:
    old = {"ApiVersion": "1.40", "MinAPIVersion": "1.12", "Version": "19.03"}
    async with engine_that_answers(tmp_path, lambda line: http(200, old)) as engine:
        with pytest.raises(SandboxUnavailable, match=r"Docker 20\.10"):
            await engine.about()


async def test_a_newer_engine_is_spoken_to_in_a_version_that_it_has(tmp_path: Path) -> None:
    lines: list[str] = []

    def answer(line: str) -> bytes:
        lines.append(line)
        return http(200, {"ApiVersion": "1.52", "MinAPIVersion": "1.44", "Version": "29.0.1"})

    async with engine_that_answers(tmp_path, answer) as engine:
        about = await engine.about()
    assert about.api == "1.44"
    assert lines[1].startswith("GET /v1.44/info ")


async def test_a_container_is_gone_when_it_was_removed(tmp_path: Path) -> None:
    """Paused at first; then the engine needs a second request; then somebody else was quicker."""
    asked: list[str] = []
    running, paused = {"State": {"Paused": False}}, {"State": {"Paused": True}}
    answers = [
        ("GET /containers/x/json", http(200, paused)),
        ("POST /containers/x/unpause", http(204, b"")),
        ("DELETE /containers/x?force=true&v=true", http(500, {"message": "it is a zombie"})),
        ("GET /containers/x/json", http(200, running)),
        ("DELETE /containers/x?force=true&v=true", http(409, {"message": "removal is in progress"})),
        ("GET /containers/x/json", http(404, {"message": "no such container"})),
    ]

    def answer(line: str) -> bytes:
        asked.append(line.rpartition(" ")[0])
        return answers[len(asked) - 1][1]

    async with engine_that_answers(tmp_path, answer) as engine:
        await engine.remove("x")
    assert asked == [request for request, _ in answers]


async def test_a_container_that_was_removed_while_podman_looked_for_it_is_gone(tmp_path: Path) -> None:
    told = {"message": "container dda2 does not exist in database: no such container"}
    async with engine_that_answers(tmp_path, lambda line: http(500, told)) as engine:
        assert await engine.inspect("x") is None
        await engine.remove("x")


async def test_an_engine_that_fails_has_not_said_that_a_container_is_gone(tmp_path: Path) -> None:
    async with engine_that_answers(tmp_path, lambda line: http(500, {"message": "database is locked"})) as engine:
        with pytest.raises(EngineError, match="database is locked"):
            await engine.inspect("x")


def provider(tmp_path: Path, sock: Path, **changes: Any) -> OciProvider:
    given: dict[str, Any] = {"technology": "docker", "kind": "docker", "engine_socket": sock, "image": lambda: None}
    return OciProvider(tmp_path / "state", **{**given, **changes})


async def test_a_host_without_an_engine_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=r"systemctl start docker.*sandbox\.docker\.socket"):
        await provider(tmp_path, tmp_path / "none.sock").probe()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("info", "changes", "words"),
    [
        ({"Components": [{"Name": "Podman Engine"}]}, {}, r"sandbox\.podman\.socket"),
        ({"SecurityOptions": ["name=rootless"]}, {}, "without root"),
        ({"Runtimes": {"runc": {}}}, {"runtime": "runsc", "technology": "gvisor"}, "no runtime 'runsc', only runc"),
        ({}, {}, "hostler image build"),
    ],
    ids=["podman", "rootless", "runtime", "image"],
)
async def test_an_engine_that_will_not_do_says_why(
    tmp_path: Path, info: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    said = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24", **info}
    async with engine_that_answers(tmp_path, lambda line: http(200, said)) as engine:
        with pytest.raises(SandboxUnavailable, match=words):
            await provider(tmp_path, engine.socket, **changes).probe()
