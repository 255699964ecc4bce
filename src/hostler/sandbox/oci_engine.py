"""How does one speak to a container engine? HTTP over its unix socket, the part of the Engine API that sandboxes need.

`dockerd` (20.10 and newer) and Podman's service (4.3 and newer) answer the same requests. One connection for each
request: they are few, and none of them outlives an engine that was restarted. The streams of a program inside are not
here but in `oci_attach`, which runs as a process of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import httptools

from hostler.engine.sandbox_port import SandboxUnavailable

SPOKEN = (1, 41)
"""The version of the API that is asked for, where the engine still has it (Docker 20.10 and Podman 4.3 do)."""

ANSWER_SECONDS = 60.0
"""An engine that says nothing for so long is stuck."""

LARGEST_ANSWER = 8 << 20

Query = Mapping[str, str | int | bool]


class EngineError(Exception):
    """The engine refused a request. The message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EngineSilent(SandboxUnavailable):
    """The engine can't be reached, or doesn't answer."""


@dataclass(frozen=True, slots=True)
class About:
    """Which engine it is."""

    kind: Literal["docker", "podman"]
    version: str
    api: str
    """Version of the API to speak, such as `1.41`."""
    rootless: bool
    remapped: bool
    """Whether the engine gives its containers other user ids than the host's (`userns-remap`)."""
    seccomp: bool
    runtimes: frozenset[str]
    default_runtime: str
    cgroup_version: str

    @property
    def name(self) -> str:
        return f"{self.kind} {self.version}"


class Engine:
    """A client. Holds nothing open; may be used from several event loops, one after the other."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._prefix = ""

    async def about(self) -> About:
        """Asks who it is, and settles which version of the API is spoken from now on.

        Raises EngineSilent, with what to do.
        """
        version = await self._json("GET", "/version")
        newest, oldest = _pair(version.get("ApiVersion")), _pair(version.get("MinAPIVersion"))
        if newest < SPOKEN:
            raise SandboxUnavailable(
                f"the engine at {self.socket} speaks version {version.get('ApiVersion')} of the Engine API; "
                "Docker 20.10 or Podman 4.3, or a newer one, is needed"
            )
        api = ".".join(map(str, max(SPOKEN, oldest)))
        self._prefix = f"/v{api}"
        info = await self._json("GET", "/info")
        options = " ".join(info.get("SecurityOptions") or ())
        podman = any(part.get("Name") == "Podman Engine" for part in version.get("Components") or ())
        return About(
            kind="podman" if podman else "docker",
            version=str(version.get("Version", "unknown")).split("+")[0],
            api=api,
            rootless="name=rootless" in options or bool(info.get("Rootless")),
            remapped="name=userns" in options,
            seccomp="name=seccomp" in options,
            runtimes=frozenset(info.get("Runtimes") or ()),
            default_runtime=str(info.get("DefaultRuntime") or ""),
            cgroup_version=str(info.get("CgroupVersion") or ""),
        )

    # ------------------------------------------------------------------------------------------------------ containers

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Gives the id."""
        made = await self._json("POST", "/containers/create", {"name": name}, config)
        return str(made["Id"])

    async def start(self, container: str) -> None:
        await self._call("POST", f"/containers/{container}/start")

    async def pause(self, container: str) -> None:
        await self._call("POST", f"/containers/{container}/pause")

    async def unpause(self, container: str) -> None:
        await self._call("POST", f"/containers/{container}/unpause")

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """None: there is no such container."""
        try:
            found: dict[str, Any] = await self._json("GET", f"/containers/{container}/json")
            return found
        except EngineError as error:
            # Podman says 500 when somebody else has removed it since it was looked up.
            if error.status == 404 or "no such container" in str(error).lower():
                return None
            raise

    async def labelled(self, label: str, value: str) -> list[dict[str, Any]]:
        """All containers with this label, running or not."""
        wanted = json.dumps({"label": [f"{label}={value}"]})
        found = await self._json("GET", "/containers/json", {"all": True, "filters": wanted})
        assert isinstance(found, list)
        return found

    async def stats(self, container: str) -> dict[str, Any]:
        query = {"stream": False, "one-shot": True}
        found: dict[str, Any] = await self._json("GET", f"/containers/{container}/stats", query)
        return found

    async def remove(self, container: str) -> None:
        """Kills it. Whoever else removes it at this moment does no harm. Raises EngineError when it stays."""
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
        found = await self.inspect(container)
        while found is not None:
            if found["State"].get("Paused"):  # not every runtime can kill what doesn't run
                with suppress(EngineError):
                    await self.unpause(container)
            try:
                await self._call("DELETE", f"/containers/{container}", {"force": True, "v": True})
            except EngineError as error:
                # Somebody else is removing it, or the kernel is slow to end what was killed.
                if error.status != 404 and asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.05)
            found = await self.inspect(container)

    # ---------------------------------------------------------------------------------------------------------- images

    async def has_image(self, name: str) -> bool:
        try:
            await self._call("GET", f"/images/{quote(name, safe='')}/json")
        except EngineError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def import_image(self, repository: str, tag: str, archive: AsyncIterator[bytes]) -> None:
        """Makes an image of one layer from a tar archive."""
        query = {"fromSrc": "-", "repo": f"{repository}:{tag}"}  # Podman doesn't look at a tag of its own
        said = await self._call("POST", "/images/create", query, archive, patience=None)
        _refuse_progress_error(said)

    async def put_archive(self, container: str, archive: AsyncIterator[bytes]) -> None:
        """Unpacks a tar archive over the root of a container that has not been started."""
        query: Query = {"path": "/", "noOverwriteDirNonDir": False}
        await self._call("PUT", f"/containers/{container}/archive", query, archive, patience=None)

    async def commit(self, container: str, repository: str, tag: str) -> None:
        """Makes an image of what a container's files are now."""
        query: Query = {"container": container, "repo": repository, "tag": tag, "pause": False}
        await self._call("POST", "/commit", query, {}, patience=None)

    async def images(self, repository: str) -> list[str]:
        """Names, with their tags, of all images of a repository."""
        found = await self._json("GET", "/images/json", {"all": False})
        assert isinstance(found, list)
        names = (name for image in found for name in image.get("RepoTags") or ())
        return [name for name in names if name.rpartition(":")[0] == repository]

    async def remove_image(self, name: str) -> None:
        try:
            await self._call("DELETE", f"/images/{quote(name, safe='')}")
        except EngineError as error:
            if error.status != 404:
                raise

    # ---------------------------------------------------------------------------------------------------- one exchange

    async def _json(self, method: str, path: str, query: Query | None = None, body: Any = None) -> Any:
        said = await self._call(method, path, query, body)
        try:
            return json.loads(said)
        except ValueError as error:
            raise EngineSilent(f"{self.socket} is no container engine: it answered with something else") from error

    async def _call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        patience: float | None = ANSWER_SECONDS,
    ) -> bytes:
        try:
            async with asyncio.timeout(patience):
                answer = await self._exchange(method, self._prefix + path + _query(query), body)
        except TimeoutError as error:
            raise EngineSilent(f"the engine at {self.socket} does not answer; restart it") from error
        except (OSError, httptools.HttpParserError, asyncio.IncompleteReadError) as error:
            raise EngineSilent(f"no container engine answers at {self.socket} ({error}); start it") from error
        if answer.status >= 400:
            raise EngineError(answer.status, _message(answer))
        return bytes(answer.body)

    async def _exchange(self, method: str, target: str, body: Any) -> _Answer:
        reader, writer = await asyncio.open_unix_connection(self.socket)
        try:
            head = [f"{method} {target} HTTP/1.1", "Host: engine", "Connection: close", "User-Agent: hostler"]
            if isinstance(body, AsyncIterator):
                lines = [*head, "Content-Type: application/x-tar", "Transfer-Encoding: chunked", "", ""]
                writer.write("\r\n".join(lines).encode())
                await _send_chunks(writer, body)
            else:
                content = b"" if body is None else json.dumps(body).encode()
                kind = [] if body is None else ["Content-Type: application/json"]
                lines = [*head, *kind, f"Content-Length: {len(content)}", "", ""]
                writer.write("\r\n".join(lines).encode() + content)
                await writer.drain()
            answer = _Answer()
            parser = httptools.HttpResponseParser(answer)
            while not answer.complete:
                piece = await reader.read(1 << 16)
                if not piece:
                    if not answer.status:
                        raise EngineSilent(f"the engine at {self.socket} hung up; start it again")
                    break
                parser.feed_data(piece)
                answer.status = parser.get_status_code() if answer.started else 0
                if len(answer.body) > LARGEST_ANSWER:
                    raise EngineSilent(f"the engine at {self.socket} answers without end")
            return answer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


class _Answer:
    """What the parser of httptools calls."""

    def __init__(self) -> None:
        self.status = 0
        self.started = False
        self.complete = False
        self.body = bytearray()

    def on_headers_complete(self) -> None:
        self.started = True

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.complete = True


async def _send_chunks(writer: asyncio.StreamWriter, pieces: AsyncIterator[bytes]) -> None:
    try:
        async for piece in pieces:
            if piece:
                writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the engine has answered before the end: its answer says why


def _query(query: Query | None) -> str:
    if not query:
        return ""
    words = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in query.items()}
    return "?" + urlencode(words)


def _message(answer: _Answer) -> str:
    try:
        data = json.loads(answer.body)
        return str(data.get("message") or data.get("cause") or data)
    except (ValueError, AttributeError):
        return answer.body.decode(errors="replace").strip()[-600:] or f"status {answer.status}"


def _refuse_progress_error(said: bytes) -> None:
    """Long requests answer 200 at once and say in their last line whether they failed."""
    for line in said.splitlines():
        with suppress(ValueError, AttributeError):
            error = json.loads(line).get("error")
            if error:
                raise EngineError(500, str(error))


def _pair(version: object) -> tuple[int, int]:
    try:
        major, minor = str(version).split(".")[:2]
        return int(major), int(minor)
    except ValueError:
        return (0, 0)
