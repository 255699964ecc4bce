"""A git server on loopback: `git http-backend` behind Python's HTTP server, with Basic authentication."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "ghp_the-secret-token-of-the-test"


class GitHost:
    """Bare repositories below `root`. `/private/…` wants the token, `/forbidden/…` refuses even that."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.token = TOKEN
        self.requests: list[str] = []
        self.open = threading.Event()
        """Cleared: requests arrive and wait."""
        self.open.set()
        self.arrived = threading.Event()
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host._answer(self)

            do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                return  # a client that hangs up is what some tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def repository(self, name: str, files: dict[str, str], *, branches: dict[str, dict[str, str]] | None = None) -> str:
        """Make `name` with one commit on `main`, and one more on each branch. The id of the first commit."""
        work, bare = self.root / "work" / name, self.root / f"{name}.git"
        work.mkdir(parents=True)
        git(work, "init", "-q", "-b", "main")
        first = _commit(work, files)
        for branch, more in (branches or {}).items():
            git(work, "checkout", "-q", "-b", branch, "main")
            _commit(work, more)
        git(work, "checkout", "-q", "main")
        git(work, "clone", "-q", "--bare", str(work), str(bare))
        return first

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path, _, query = request.path.partition("?")
        self.requests.append(path)
        self.arrived.set()
        self.open.wait(60)
        said = request.headers.get("authorization", "")
        wanted = "Basic " + base64.b64encode(f"x-access-token:{self.token}".encode()).decode()
        if path.startswith("/moved/"):
            request.send_response(302)
            request.send_header("location", self.url + request.path.removeprefix("/moved"))
            request.end_headers()
            return
        if path.startswith(("/private/", "/forbidden/")) and said != wanted:
            request.send_response(401)
            request.send_header("www-authenticate", 'Basic realm="git"')
            request.end_headers()
            return
        if path.startswith("/forbidden/"):
            request.send_response(403)
            request.end_headers()
            return
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "uploadpack.allowAnySHA1InWant",
            "GIT_CONFIG_VALUE_1": "true",
            "REQUEST_METHOD": request.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        request.send_response(int(headers.pop("Status", "200 OK").split()[0]))
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


@contextmanager
def git_host(root: Path) -> Iterator[GitHost]:
    host = GitHost(root)
    host.start()
    try:
        yield host
    finally:
        host.stop()


def git(folder: Path, *arguments: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    named = ["-c", "user.name=T", "-c", "user.email=t@example.com"]
    done = subprocess.run(["git", *named, *arguments], cwd=folder, env=environment, capture_output=True, check=True)
    return done.stdout.decode().strip()


def _commit(work: Path, files: dict[str, str]) -> str:
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(content)
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "a commit")
    return git(work, "rev-parse", "HEAD")
