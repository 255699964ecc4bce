"""Where does a test get a PostgreSQL of its own? From this machine's server programs, in a directory that goes away.

A cluster listens on a unix socket only, trusts whoever can reach that socket, and belongs to the test that made it. It
sorts like a person would (ICU, American English), so that a query which relies on the server's collation is found out.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

_START_SECONDS = 60
_STOP_SECONDS = 60
_PORT = 5432
"""Only names the socket file: nothing listens on a network."""


class PostgresMissing(Exception):
    """This machine has no PostgreSQL server programs. The message says what to install."""


class PostgresCluster:
    """A throw-away PostgreSQL server. A context manager: running inside, gone with its files afterwards.

    durable   False turns off every flush to disk: faster, and safe as long as the machine stays up. Measurements and
              crash tests of the server want True.
    settings  more lines of `postgresql.conf`.

    Started by root, the server runs as `postgres`, or `nobody` where that user is missing: PostgreSQL refuses uid 0.
    Raises PostgresMissing when the server programs are not installed.
    """

    def __init__(self, *, durable: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self._bin = _programs()
        self._durable = durable
        self._settings = dict(settings or {})
        self._root: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _server_user()

    def __enter__(self) -> Self:
        self._root = Path(tempfile.mkdtemp(prefix="hostler-pg-"))
        try:
            if self._user is not None:
                os.chown(self._root, self._user.pw_uid, self._user.pw_gid)
            self._root.chmod(0o755)
            self._make()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases, for `Database.open`."""
        return f"postgresql://postgres@/{database}?host={self._directory()}"

    @property
    def log(self) -> str:
        """What the server wrote."""
        return (self._directory() / "log").read_text(errors="replace")

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Make a database, as a copy of `template` if given (nobody may be connected to it). Returns its URL."""
        copied = f' TEMPLATE "{template}" STRATEGY file_copy' if template else ""
        self.sql(f'CREATE DATABASE "{name}"{copied}')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database and whoever is connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run one statement; its rows, one a line, columns joined by `|`."""
        return self._client("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement)

    def schema(self, database: str) -> str:
        """The schema of a database as SQL text, without what differs between equal ones."""
        dump = self._client("pg_dump", "--schema-only", "--no-owner", "-d", database)
        return "\n".join(line for line in dump.splitlines() if line and not line.startswith(("--", "\\")))

    def dump(self, database: str) -> str:
        """Schema and rows of a database as SQL text."""
        return self._client("pg_dump", "--no-owner", "-d", database)

    @property
    def directory(self) -> Path:
        """Where all its files are, the log of its writes included."""
        return self._directory()

    def start(self) -> None:
        """Start the server; returns when it answers. Does nothing when it runs."""
        if self._process is not None:
            return
        directory = self._directory()
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), str(self._bin / "postgres"), "-D", str(directory / "data")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=_environment(),
                start_new_session=True,
            )
        ready = [
            str(self._bin / "pg_isready"),
            "-q",
            "-h",
            str(directory),
            "-p",
            str(_PORT),
            "-t",
            "1",
            "-U",
            "postgres",
        ]
        pause = ["sleep", "0.05"]
        for _ in range(_START_SECONDS * 20):
            if subprocess.run(ready, check=False, env=_environment()).returncode == 0:
                return
            if self._process.poll() is not None:
                break
            subprocess.run(pause, check=True)
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-4000:]}")

    def stop(self, mode: Literal["smart", "fast", "immediate", "kill"] = "fast") -> None:
        """Stop the server. `immediate` and `kill` are crashes: the next start recovers from the log."""
        process, self._process = self._process, None
        if process is None:
            return
        signals = {
            "smart": signal.SIGTERM,
            "fast": signal.SIGINT,
            "immediate": signal.SIGQUIT,
            "kill": signal.SIGKILL,
        }
        # A server that is killed takes its back ends along only once they notice: for a while they would still answer.
        orphans = _children(process.pid) if mode == "kill" else []
        process.send_signal(signals[mode])
        process.wait(_STOP_SECONDS)
        for orphan in orphans:
            _kill(orphan)

    def _make(self) -> None:
        directory = self._directory()
        locale = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        command = [str(self._bin / "initdb"), "-D", str(directory / "data"), "-U", "postgres", "-A", "trust"]
        self._run([*self._as_user(), *command, "-E", "UTF8", "--no-sync", "--no-instructions", *locale])
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(directory),
            "port": str(_PORT),
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings |= self._settings
        with (directory / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def _client(self, program: str, *arguments: str) -> str:
        return self._run(
            [str(self._bin / program), "-h", str(self._directory()), "-p", str(_PORT), "-U", "postgres", *arguments]
        )

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=self._directory(), env=_environment()
        )
        if done.returncode != 0:
            raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def _as_user(self) -> list[str]:
        if self._user is None:
            return []
        # Dies with the test process, also when that is killed.
        ids = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
        return ["setpriv", *ids, "--pdeathsig=SIGQUIT", "--"]

    def _directory(self) -> Path:
        if self._root is None:
            raise RuntimeError("the cluster exists only inside its `with` block")
        return self._root


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    if initdb is None:
        raise PostgresMissing("PostgreSQL's server programs are missing: apt-get install postgresql")
    return Path(initdb).resolve().parent


def _server_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresMissing("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "PGTZ": "UTC"}


def _children(pid: int) -> list[int]:
    """Handles (pidfd) of the children of a process. Close them."""
    handles = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            handles.append(os.pidfd_open(int(child)))
    return handles


def _kill(handle: int) -> None:
    """End a process and wait until it is gone."""
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], _STOP_SECONDS)
    finally:
        os.close(handle)
