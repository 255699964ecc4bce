"""What of one container is on the host: the two programs that lead into it, its roads, its `/etc`?"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hostler.engine.sandbox_port import SandboxSpec, SandboxUnavailable
from hostler.sandbox import oci_attach, programs
from hostler.sandbox.launch import MARK
from hostler.sandbox.oci_container import INSIDE_CALLS, name_of

_HERE = Path(__file__).parent
PROGRAM = "/opt/hostler/claude"
RUN_SECONDS = 60.0


def write_etc(directory: Path, user: int) -> None:
    """The files of `/etc` that say who is inside and what it can reach, in a new directory."""
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    for name, text in {
        "passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        f"agent:x:{user}:{user}:agent:/home/agent:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": f"root:x:0:\nagent:x:{user}:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "hostname": "sandbox\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "resolv.conf": "",
    }.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o644)


def write_calls(directory: Path) -> None:
    """The folder over which commands come in, with the tether; new."""
    directory.mkdir(mode=0o711)
    directory.chmod(0o711)
    shutil.copyfile(_HERE / "oci_tether.pl", directory / "tether")
    (directory / "tether").chmod(0o755)


def lay_roads(directory: Path, spec: SandboxSpec) -> dict[str, Path]:
    """What is mounted below `/run/hostler`: paths inside to paths of the host.

    Names of our own for the two sockets, in a folder that stays, so that sockets which are opened anew (`renew_roads`)
    are reached by a container that is there already. On another file system a socket has no second name: then the
    socket itself is mounted, and the container is good for as long as the socket.
    """
    directory.mkdir(mode=0o755, exist_ok=True)
    directory.chmod(0o755)
    sockets = _sockets(spec)
    try:
        for name, socket in sockets.items():
            os.link(socket, directory / name)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM):
            raise
        shutil.rmtree(directory)
        return {f"/run/hostler/{name}": socket for name, socket in sockets.items()}
    return {"/run/hostler": directory}


def renew_roads(directory: Path, spec: SandboxSpec) -> None:
    """Gives the names in the folder to the sockets as they are now. Raises SandboxUnavailable when that can't be."""
    if not directory.is_dir():
        raise SandboxUnavailable("the sandbox has roads that were closed; create another one")
    for name, socket in _sockets(spec).items():
        new = directory / f".{name}"
        new.unlink(missing_ok=True)
        os.link(socket, new)
        new.replace(directory / name)
        new.unlink(missing_ok=True)  # both names of the same socket: then replacing one by the other does nothing


def _sockets(spec: SandboxSpec) -> Mapping[str, Path]:
    return {"model.sock": spec.model_socket, "egress.sock": spec.egress_socket}


def write_programs(directory: Path, engine: Path, prefix: str, sandbox_id: str, user: int, spec: SandboxSpec) -> None:
    """`launcher` and `entrance`, and the environment that they give; also over older ones."""
    variables = directory / "environment"
    variables.write_bytes(b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in spec.environment.items()))
    variables.chmod(0o600)
    for name, program in (("launcher", PROGRAM), ("entrance", "")):
        words = [str(engine), prefix, name_of(sandbox_id), f"{user}:{user}", str(directory / "calls")]
        text = (
            f"{programs.python_line(_env(), f'{MARK}={sandbox_id}')}\n"
            "import sys\n"
            f"sys.path.append({str(_HERE)!r})\n"
            f"import {oci_attach.__name__.rpartition('.')[2]} as attach\n"
            f"attach.main({', '.join(map(repr, [*words, INSIDE_CALLS, str(variables), program]))})\n"
        )
        new = directory / f".{name}"
        programs.write(new, text)
        new.replace(directory / name)


def _env() -> str:
    return shutil.which("env") or "/usr/bin/env"


async def run(program: str | Path, *arguments: str) -> tuple[int, str]:
    """Exit status and words of a program that is quick. Raises SandboxUnavailable when it isn't."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError as error:
        raise SandboxUnavailable("a command in a container did not answer") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace").strip()[-600:]
