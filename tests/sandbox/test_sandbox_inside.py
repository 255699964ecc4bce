"""What is inside a sandbox, and what is not."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import claude_agent_sdk
import pytest
from sandbox_farm import DEADLINE, ENVIRONMENT, Farm, until

from hostler.engine.sandbox_port import SandboxLimits

MEBI = 1 << 20


async def test_program_is_uid_1000_with_no_capability_no_new_privileges_and_a_filter(farm: Farm) -> None:
    sandbox = await farm.create()
    status = await farm.python(
        sandbox,
        "import json; r=lambda p: dict(l.split(':\\t',1) for l in open(p).read().splitlines() if ':\\t' in l);"
        "print(json.dumps([r('/proc/self/status'), r('/proc/1/status')]))",
    )
    for process in status:
        assert process["Uid"].split() == ["1000"] * 4
        assert process["Gid"].split() == ["1000"] * 4
        assert process["Groups"].split() in (["1000"], [])
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(process[kind], 16) == 0, kind
        assert process["NoNewPrivs"] == "1"
        assert process["Seccomp"] == "2"


async def test_environment_is_exactly_the_spec(farm: Farm) -> None:
    sandbox = await farm.create(environment={"A": "1 2\n'\"$(id)", "EMPTY": "", "PATH": "/usr/bin"})
    worker = {
        **os.environ,
        "ANTHROPIC_API_KEY": "canary",
        "BASH_ENV": "/nonexistent",
        "LD_LIBRARY_PATH": "/nonexistent",
    }
    done = await farm.run(sandbox, "/bin/cat", "/proc/self/environ", env=worker)
    assert sorted(done.out.split("\0")) == sorted(
        ["A=1 2\n'\"$(id)", "EMPTY=", "PATH=/usr/bin", *shell_words(done.out)]
    )


def shell_words(environ: str) -> list[str]:
    """What the runner, a shell of the test's own, adds for its child; and the end of the last entry."""
    return [word for word in environ.split("\0") if word == "" or word == "PWD=/workspace"]


async def test_program_itself_gets_the_environment_of_the_spec_and_nothing_more(farm: Farm) -> None:
    sandbox = await farm.create(program=Path("/usr/bin/env"), environment={"A": "1", "B": "x=y"})
    done = await farm.run(sandbox, env={**os.environ, "ANTHROPIC_API_KEY": "canary"})
    assert sorted(done.out.splitlines()) == ["A=1", "B=x=y"]


async def test_arguments_arrive_as_given(farm: Farm) -> None:
    argv = ["", " ", "--", "--bind", "/", "/host", "a\nb", "$(id)", "'\"\\", "*", "--dangerously-skip-permissions", "é"]
    sandbox = await farm.create()
    code = "import json,sys; print(json.dumps(sys.argv[1:]))"
    done = await farm.run(sandbox, "/usr/bin/python3", "-I", "-S", "-c", code, *argv)
    assert done.code == 0, done
    assert json.loads(done.out) == argv


async def test_standard_streams_and_exit_code_pass_through(farm: Farm) -> None:
    sandbox = await farm.create()
    done = await farm.sh(sandbox, "cat; echo problem >&2; exit 7", given=b"through and through")
    assert (done.code, done.out, done.err) == (7, "through and through", "problem\n")


async def test_nothing_of_ours_holds_the_standard_output_open_after_the_program_ended(farm: Farm) -> None:
    sandbox = await farm.create()
    process = await farm.start(sandbox, "/bin/true")
    async with asyncio.timeout(DEADLINE):
        assert await process.communicate() == (b"", b"")


async def test_only_what_belongs_to_the_sandbox_is_visible(farm: Farm) -> None:
    sandbox = await farm.create()
    seen = await farm.python(
        sandbox,
        "import json,os; print(json.dumps({d: sorted(os.listdir(d)) for d in "
        "['/', '/etc', '/home', '/home/agent', '/mnt', '/mnt/session', '/opt', '/opt/hostler', '/run', '/run/hostler',"
        " '/tmp', '/workspace', '/home/agent/.claude', '/mnt/session/outputs']}))",
    )
    root = set(seen.pop("/"))
    assert root - {"bin", "sbin", "lib", "lib32", "lib64", "libx32"} == {
        *("dev", "etc", "home", "mnt", "opt", "proc", "run", "tmp", "usr", "workspace"),
    }
    assert {name for name in seen.pop("/etc") if not name.startswith("java-")} <= {  # settings of a JDK
        *("alternatives", "group", "hostname", "hosts", "ld.so.cache", "nsswitch.conf", "os-release", "passwd", "pki"),
        *("resolv.conf", "ssl"),
    }
    assert seen == {
        "/home": ["agent"],
        "/home/agent": [".claude"],
        "/mnt": ["session"],
        "/mnt/session": ["outputs"],
        "/opt": ["hostler"],
        "/opt/hostler": ["claude"],
        "/run": ["hostler"],
        "/run/hostler": ["egress.sock", "model.sock"],
        "/tmp": [],
        "/workspace": [],
        "/home/agent/.claude": [],
        "/mnt/session/outputs": [],
    }


async def test_only_the_sandboxes_own_places_can_be_written(farm: Farm) -> None:
    farm.runner.chmod(0o777)
    sandbox = await farm.create()
    writable = await farm.python(
        sandbox,
        """
import json, os
found = []
for top, dirs, files in os.walk("/"):
    dirs[:] = [] if top in ("/proc", "/usr") else dirs
    try:
        os.close(os.open(os.path.join(top, ".probe"), os.O_CREAT | os.O_WRONLY))
        found.append(top)
    except OSError:
        pass
for file in ("/opt/hostler/claude", "/etc/passwd", "/usr/bin/env", "/etc/hosts"):
    try:
        os.close(os.open(file, os.O_WRONLY))
        found.append(file)
    except OSError:
        pass
print(json.dumps(sorted(found)))
""",
    )
    assert writable == [
        "/dev/shm",
        "/home",
        "/home/agent",
        "/home/agent/.claude",
        "/mnt/session/outputs",
        "/tmp",
        "/workspace",
    ]


async def test_workspace_outputs_and_harness_state_are_kept_on_the_host(farm: Farm) -> None:
    sandbox = await farm.create()
    done = await farm.sh(
        sandbox, "echo w > a; echo o > /mnt/session/outputs/b; echo h > ~/.claude/c; pwd; hostname; whoami"
    )
    assert done.out == "/workspace\nsandbox\nagent\n", done
    await sandbox.destroy()
    spec = farm.spec()
    assert (spec.workspace / "a").read_text() == "w\n"
    assert (spec.outputs / "b").read_text() == "o\n"
    assert (spec.harness_state / "c").read_text() == "h\n"
    again = await farm.create()
    assert (await farm.sh(again, "cat a /mnt/session/outputs/b ~/.claude/c; echo x >> a")).out == "w\no\nh\n"


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm", "/home/agent"])
async def test_temporary_space_is_limited_and_private(farm: Farm, place: str) -> None:
    limits = SandboxLimits(tmp_bytes=2 * MEBI)
    first, second = await farm.create("one", limits=limits), await farm.create("two", limits=limits)
    done = await farm.sh(first, f"head -c 1M /dev/zero > {place}/fits && head -c 4M /dev/zero > {place}/big")
    assert done.code != 0
    assert "No space left" in done.err
    assert "fits" not in (await farm.sh(second, f"ls {place}")).out


async def test_model_socket_leads_to_the_sessions_gateway(farm: Farm) -> None:
    sandbox = await farm.create()
    listener = farm.listeners[0]
    code = (
        "import json,socket; s=socket.socket(socket.AF_UNIX); s.connect('/run/hostler/model.sock'); s.sendall(b'hi');"
        "print(json.dumps(s.recv(99).decode()))"
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(_answer_once(listener, b"hi", b"gateway"))
        assert await farm.python(sandbox, code) == "gateway"


async def test_local_proxy_port_leads_to_the_egress_socket(farm: Farm) -> None:
    sandbox = await farm.create()
    listener = farm.listeners[1]
    code = """
import json, socket, time
end = time.monotonic() + 60
while True:
    try:
        s = socket.create_connection(("127.0.0.1", 3128)); break
    except ConnectionRefusedError:
        if time.monotonic() > end: raise
s.sendall(b"CONNECT")
s.shutdown(socket.SHUT_WR)  # an answer to a half-closed connection still arrives
print(json.dumps(s.recv(99).decode()))
"""
    async with asyncio.TaskGroup() as group:
        group.create_task(_answer_once(listener, b"CONNECT", b"egress", after=0.8))
        assert await farm.python(sandbox, code) == "egress"


async def _answer_once(listener: socket.socket, expected: bytes, answer: bytes, *, after: float = 0.0) -> None:
    """`after`: seconds for which the peer is silent before it answers."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        connection, _ = await loop.sock_accept(listener)
        with connection:
            connection.setblocking(False)
            assert await loop.sock_recv(connection, 99) == expected
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), after)
            await loop.sock_sendall(connection, answer)


async def test_forwarder_is_no_child_of_the_program(farm: Farm) -> None:
    sandbox = await farm.create()
    process = await farm.start(sandbox, "/bin/sh", "-c", "read line; ps -eo ppid,comm; echo self $$")
    assert process.stdin is not None
    await until(lambda: b"socat" in _names(farm.pids_of(sandbox)), "the forwarder didn't start")
    out, _ = await process.communicate(b"\n")
    forwarder = next(line.split() for line in out.decode().splitlines() if "socat" in line)
    assert forwarder[0] == "1"


def _names(pids: frozenset[int]) -> list[bytes]:
    found = []
    for pid in pids:
        try:
            found.append(Path(f"/proc/{pid}/comm").read_bytes().strip())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("name", ["a b", "quo'te\"s", "new\nline", "ha#sh", "back\\slash", "dollar$(id)", "ünï"])
async def test_any_directory_name_works(farm: Farm, name: str) -> None:
    sandbox = await farm.create(name)
    assert (await farm.sh(sandbox, "echo here > file; cat file")).out == "here\n"
    assert (farm.spec(name).workspace / "file").read_text() == "here\n"


async def test_real_claude_runs_inside(farm: Farm) -> None:
    program = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    sandbox = await farm.create(
        program=program,
        environment={**ENVIRONMENT, "CLAUDE_CONFIG_DIR": "/home/agent/.claude", "DISABLE_AUTOUPDATER": "1"},
    )
    done = await farm.run(sandbox, "--version")
    assert "Claude Code" in done.out
    assert done.code == 0


async def test_limits_of_one_process(farm: Farm) -> None:
    sandbox = await farm.create(limits=SandboxLimits(open_files=77))
    assert (await farm.sh(sandbox, "ulimit -Hn; ulimit -Sn; ulimit -Hc")).out.split() == ["77", "77", "0"]
