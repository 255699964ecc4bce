"""How is a bucket that speaks S3 a place for objects?

Requests are made by `obstore`. Each has a limit in time, a few retries, and an end: what still doesn't answer then is
`ObjectsUnavailable`. Credentials are those given, else what the environment has (`AWS_…`, a web identity, the role of
the container or machine).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from hostler.engine.object_port import ObjectInfo, ObjectMissing, ObjectsUnavailable
from hostler.objects.names import checked

if TYPE_CHECKING:
    from obstore.store import S3Config

_ANSWER = re.compile(r"<Code>(\w+)</Code>(?:\s*<Message>([^<]*))?")
_LISTED_AT_ONCE = 1000
_DELETED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the bucket may take."""

    connect_seconds: float = 5.0
    request_seconds: float = 60.0
    """One request, with its body."""
    retries: int = 4
    retry_seconds: float = 90.0
    """After that a request is not repeated."""
    together_seconds: float = 240.0
    """One call of the port, with all its requests."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Which bucket, and how it is reached."""

    name: str
    prefix: str = ""
    endpoint: str = ""
    """Empty: Amazon's."""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""


class S3Objects:
    """Objects below a prefix of a bucket. Implements `Objects`."""

    def __init__(self, bucket: Bucket, patience: Patience | None = None) -> None:
        """Asks nothing of the network. Raises ObjectsUnavailable for settings that make no sense."""
        self._patience = wait = patience or Patience()
        self._where = f"s3://{bucket.name}/{bucket.prefix}".rstrip("/")
        config: S3Config = {"region": bucket.region or "us-east-1"}
        if bucket.endpoint:
            config["endpoint"] = bucket.endpoint
        if bucket.access_key_id:
            config["access_key_id"] = bucket.access_key_id
            config["secret_access_key"] = bucket.secret_access_key
        try:
            self._store = S3Store(
                bucket.name,
                prefix=bucket.prefix or None,
                config=config,
                client_options={
                    "allow_http": bucket.endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=wait.connect_seconds),
                    "timeout": timedelta(seconds=wait.request_seconds),
                },
                retry_config={"max_retries": wait.retries, "retry_timeout": timedelta(seconds=wait.retry_seconds)},
            )
        except (BaseError, ValueError) as error:
            raise ObjectsUnavailable(f"{self._where}: {_reason(error)}") from error

    async def put(self, name: str, data: bytes | Path) -> None:
        async with self._told(checked(name)):
            # What is there already has the same bytes: writing them again changes nothing.
            await obstore.put_async(self._store, name, data)

    async def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        try:
            async with self._told(checked(name)):
                if length is not None:
                    return bytes(await obstore.get_range_async(self._store, name, start=start, length=length))
                if start:
                    found = await obstore.get_async(self._store, name, options={"range": {"offset": start}})
                else:
                    found = await obstore.get_async(self._store, name)
                return bytes(await found.bytes_async())
        except ObjectsUnavailable as refused:
            # Asking for what is beyond the end is an error here, and gives nothing in a folder.
            if start and "InvalidRange" in str(refused) and start >= await self._size(name):
                return b""
            raise

    async def _size(self, name: str) -> int:
        async with self._told(name):
            return (await obstore.head_async(self._store, name))["size"]

    async def delete(self, names: Iterable[str]) -> None:
        every = [checked(name) for name in names]
        for start in range(0, len(every), _DELETED_AT_ONCE):
            async with self._told(""):
                await obstore.delete_async(self._store, every[start : start + _DELETED_AT_ONCE])

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        pages = obstore.list(self._store, folder or None, chunk_size=_LISTED_AT_ONCE).__aiter__()
        while True:
            try:
                async with self._told(""):
                    page = await pages.__anext__()
            except StopAsyncIteration:
                return
            for each in page:
                if each["path"].startswith(prefix):
                    yield ObjectInfo(each["path"], each["size"], each["last_modified"].timestamp())

    @asynccontextmanager
    async def _told(self, name: str) -> AsyncIterator[None]:
        """Errors in the words of the port."""
        try:
            async with asyncio.timeout(self._patience.together_seconds):
                yield
        except FileNotFoundError as error:
            # A bucket that is gone must not look like a bucket whose objects are.
            if not name or "NoSuchBucket" in str(error):
                raise ObjectsUnavailable(f"{self._where}: {_reason(error)}: check objects.url") from error
            raise ObjectMissing(name) from None
        except TimeoutError as error:
            raise ObjectsUnavailable(
                f"{self._where}: no answer within {self._patience.together_seconds:g} seconds: check objects.endpoint"
            ) from error
        except BaseError as error:
            raise ObjectsUnavailable(f"{self._where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What the server, or the library, says, in a line."""
    text = str(error)
    if code := _ANSWER.search(text):
        return ": ".join(part for part in (code[1], code[2]) if part)
    return text.partition("\n")[0][:300]
