"""How is a repository fetched without trusting it, its address or its token to anybody?

The host's own `git` runs as a user of its own with nothing of this host's configuration: no hooks, no helpers, no
other protocol than HTTP, no submodules, no redirects. The address is resolved and judged here, and git is told the
answer, so that a name can't mean something else a moment later. The token travels in the environment of that process
only: never in a command line, a configuration file or the clone.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import signal
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hostler.egress.addresses import is_public, is_this_host
from hostler.egress.policy import BadTarget, normalise
from hostler.egress.resolve import Resolver, SystemResolver
from hostler.engine.ports import CloneFailed, CloneOrder, CloneProblem
from hostler.engine.shares import Shares

OLDEST_GIT = (2, 37)
"""First version that can be told the address of a host (`http.curloptResolve`)."""

_PLACES = ("/mnt", "/media", "/srv", "/opt")
"""Folders over which the clone is mounted, in a namespace of git's own, when git runs as another user."""

_SYMPTOMS: tuple[tuple[str, CloneProblem], ...] = (
    (r"Authentication failed|could not read (Username|Password)|error: 401", "authentication"),
    (r"error: 403|Permission to .* denied|access denied", "forbidden"),
    (r"error: 404|repository '.*' not found|Repository not found", "not_found"),
)


@dataclass(frozen=True, slots=True)
class CloneLimits:
    seconds: float = 300.0
    bytes: int = 2 << 30
    """On the disk, history and working tree together."""
    at_once: int = 6
    at_once_workspace: int = 4
    """Of them, of one workspace: with slow hosts of its own it must not keep the others waiting."""


class GitCloner:
    """Implements `engine.ports.Cloner`. Close it when no clone is under way."""

    def __init__(
        self,
        *,
        uids: range | None = None,
        private_allowed: frozenset[str] = frozenset(),
        resolver: Resolver | None = None,
        limits: CloneLimits | None = None,
        file_allowed: bool = False,
    ) -> None:
        """`uids`: users of the host that nobody else is, when this process is root; one for each clone at a time.

        `private_allowed`: addresses that are not judged, as the egress proxy has them.
        """
        self._limits = limits or CloneLimits()
        self._private_allowed = private_allowed
        self._own = SystemResolver() if resolver is None else None
        self._resolver: Resolver = resolver or self._own or SystemResolver()
        self._file_allowed = file_allowed
        root = os.geteuid() == 0
        self._free: asyncio.Queue[int | None] = asyncio.Queue()
        self._shares = Shares(self._limits.at_once_workspace)
        for number in range(self._limits.at_once):
            self._free.put_nowait(uids[number % len(uids)] if root and uids else None)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    async def clone(self, order: CloneOrder) -> None:
        """See the port."""
        environment = await self._environment(order)
        async with self._shares.one_of(order.workspace_id):
            uid = await self._free.get()
            try:
                await self._clone(order, environment, uid)
            finally:
                self._free.put_nowait(uid)

    async def _clone(self, order: CloneOrder, environment: dict[str, str], uid: int | None) -> None:
        staging = order.target.with_name(order.target.name + ".partial")
        try:
            await asyncio.to_thread(_make_staging, staging, uid)
            git = _Git(staging, uid, environment, order, self._limits)
            async with asyncio.timeout(self._limits.seconds):
                await self._run(git, order)
            await asyncio.to_thread(os.rename, staging / "tree", order.target)
        except TimeoutError:
            raise CloneFailed(
                "clone", f"The repository was not cloned within {self._limits.seconds:g} seconds."
            ) from None
        except OSError as error:
            raise CloneFailed("clone", f"The repository could not be cloned: {error.strerror or error}.") from None
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    async def _run(self, git: _Git, order: CloneOrder) -> None:
        await _check_version(git)
        await git.must("clone", "--no-checkout", "--no-recurse-submodules", "--template=", "--", order.url, git.tree)
        if order.branch is not None:
            start = f"refs/remotes/origin/{order.branch}"
            if not await git.knows(start):
                raise CloneFailed("checkout", f"The repository has no branch {order.branch}.")
            await git.check_out("-B", order.branch, start)
        elif order.commit is not None:
            if not await git.knows(order.commit) and len(order.commit) in (40, 64):
                await git.run("-C", git.tree, "fetch", "--no-recurse-submodules", "origin", order.commit)
            if not await git.knows(order.commit):
                raise CloneFailed("checkout", f"The repository has no commit {order.commit}.")
            await git.check_out("--detach", order.commit)
        elif await git.knows("HEAD"):  # else it is empty
            await git.check_out("HEAD")

    async def _environment(self, order: CloneOrder) -> dict[str, str]:
        config = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("core.askPass", ""),
            ("credential.helper", ""),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("submodule.recurse", "false"),
            ("transfer.bundleURI", "false"),
            ("http.followRedirects", "false"),
            ("http.proxy", ""),
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "60"),
        ]
        scheme = urlsplit(order.url).scheme
        protocols = "http:https"
        if scheme == "file" and self._file_allowed:
            protocols = "file"
        else:
            config += await self._pinned(order)
        if order.token is not None:
            basic = base64.b64encode(b"x-access-token:" + order.token).decode()
            origin = f"{scheme}://{urlsplit(order.url).netloc}/"
            config.append((f"http.{origin}.extraHeader", f"Authorization: Basic {basic}"))
        numbered = {f"GIT_CONFIG_KEY_{n}": key for n, (key, _) in enumerate(config)}
        numbered |= {f"GIT_CONFIG_VALUE_{n}": value for n, (_, value) in enumerate(config)}
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": protocols,
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_CONFIG_COUNT": str(len(config)),
            **numbered,
        }

    async def _pinned(self, order: CloneOrder) -> list[tuple[str, str]]:
        """The configuration that keeps git to the addresses that were judged. Raises CloneFailed when none is left."""
        parts = urlsplit(order.url)
        try:
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise BadTarget("it is no http or https address")
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            literal = ":" in parts.hostname
            host, is_address = (parts.hostname, True) if literal else normalise(parts.hostname)
            # git would look up what it is given, and not what is pinned here.
            if not is_address and parts.hostname != host:
                raise BadTarget(f"write its host as {host}")
        except (BadTarget, ValueError) as error:
            raise CloneFailed("clone", f"The address of the repository is not taken: {error}.") from None
        try:
            found = await self._resolver.resolve(host, port)
        except OSError:
            raise CloneFailed("clone", f"The host {host} was not found.") from None
        private = [address for address in found if address in self._private_allowed]
        public = [address for address in found if is_public(address) and not is_this_host(address)]
        if port not in (80, 443):
            public = []
        if not private and not public:
            raise CloneFailed(
                "clone",
                f"{host}, port {port}, is not on the public Internet, or not a port of the web. An operator can allow "
                "a private address with egress.private_allowed.",
            )
        if order.token is not None and parts.scheme == "http" and not private:
            raise CloneFailed("authentication", "A token is not sent without encryption; use an https address.")
        if is_address:
            return []
        shown = ",".join(f"[{address}]" if ":" in address else address for address in private or public)
        return [("http.curloptResolve", f"{host}:{port}:{shown}")]


class _Git:
    """Runs git for one clone."""

    def __init__(
        self, staging: Path, uid: int | None, environment: dict[str, str], order: CloneOrder, limits: CloneLimits
    ) -> None:
        self._staging = staging
        self._order = order
        self._limits = limits
        place = str(staging) if uid is None else _place()
        self.tree = f"{place}/tree"
        self._environment = {**environment, "HOME": f"{place}/home"}
        # Whatever kills this process ends git too.
        self._before = ["setpriv", "--pdeathsig", "KILL", "--"]
        if uid is not None:
            # A namespace of its own: the way to the folder need not be open to this user, and nothing outlives git.
            script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
            self._before += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "slave"]
            self._before += ["sh", "-c", script, "sh", str(staging), place]
            self._before += ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs"]
        self._before += ["prlimit", f"--fsize={limits.bytes}", "--core=0", "--"]

    async def must(self, *arguments: str) -> None:
        code, said = await self.run(*arguments)
        if code != 0:
            kinds = [kind for pattern, kind in _SYMPTOMS if re.search(pattern, said, re.IGNORECASE)]
            kind: CloneProblem = kinds[0] if kinds else "clone"
            raise CloneFailed(kind, f"git could not clone {self._order.url}: {self._shown(said)}")

    async def check_out(self, *what: str) -> None:
        code, said = await self.run("-C", self.tree, "checkout", "--quiet", "--force", *what, "--")
        if code != 0:
            raise CloneFailed("checkout", f"git could not check {self._order.url} out: {self._shown(said)}")

    async def knows(self, name: str) -> bool:
        commit = f"{name}^{{commit}}"
        code, _ = await self.run("-C", self.tree, "rev-parse", "--quiet", "--verify", "--end-of-options", commit)
        return code == 0

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Its status, and the end of what it said. Raises CloneFailed when it takes too much room."""
        process = await asyncio.create_subprocess_exec(
            *self._before,
            "git",
            *arguments,
            cwd="/",
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(_end_of(process))
                watching = tasks.create_task(self._watch_room())
                await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
                watching.cancel()
            return await process.wait(), reading.result()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await asyncio.shield(_end(process))

    async def _watch_room(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if await asyncio.to_thread(_room, self._staging, self._limits.bytes) > self._limits.bytes:
                raise CloneFailed("clone", f"The repository takes more than {self._limits.bytes >> 20} MiB.")

    def _shown(self, said: str) -> str:
        """The last complaint, fit for a log: one line, without the token in any form."""
        lines = [line for line in said.splitlines() if line.startswith(("fatal:", "error:"))] or said.splitlines()
        text = re.sub(r"[^ -~]", "?", " ".join(lines[-2:]))
        if self._order.token is not None:
            token = self._order.token.decode("latin-1")
            basic = base64.b64encode(b"x-access-token:" + self._order.token).decode()
            text = text.replace(token, "[token]").replace(basic, "[token]")
        return text[:500] or "it said nothing"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing of it lives when this returns. Its children first, so that it can bury them itself."""
    if process.returncode is not None:
        return
    with suppress(OSError):
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(2.0):
            await process.wait()
            return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _check_version(git: _Git) -> None:
    code, said = await git.run("--version")
    found = re.search(r"git version (\d+)\.(\d+)", said)
    if code != 0 or found is None:
        raise CloneFailed("clone", "This server has no working git; its operator must install it.")
    if (int(found[1]), int(found[2])) < OLDEST_GIT:
        wanted = ".".join(map(str, OLDEST_GIT))
        raise CloneFailed("clone", f"This server's git is too old; its operator must install {wanted} or newer.")


async def _end_of(process: asyncio.subprocess.Process) -> str:
    """The last few kilobytes of what it says, once it has ended."""
    assert process.stdout is not None
    end = b""
    while piece := await process.stdout.read(16 << 10):
        end = (end + piece)[-(16 << 10) :]
    return end.decode("utf-8", "replace")


def _make_staging(staging: Path, uid: int | None) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o711, parents=True)
    for folder in (staging / "tree", staging / "home"):
        folder.mkdir(mode=0o700)
        if uid is not None:
            os.chown(folder, uid, uid)


def _room(folder: Path, enough: int) -> int:
    """Bytes on the disk below `folder`, counted until they are more than `enough`."""
    total, waiting = 0, [str(folder)]
    while waiting and total <= enough:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    total += found.st_blocks * 512
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
    return total


def _place() -> str:
    for candidate in _PLACES:
        if os.path.isdir(candidate) and not os.path.islink(candidate):
            return candidate
    raise CloneFailed("clone", f"none of {', '.join(_PLACES)} is a folder on this server; its operator must make /mnt")
