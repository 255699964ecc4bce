"""The whole server, as it is put together for users, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from housekit import House, open_house
from sqlalchemy import Connection
from tenancy_ids import Owner

from hostler.store.database import Database
from hostler.store.keys import create_key, create_workspace

T = TypeVar("T")


class ComposedServer:
    """Started and stopped as a context manager."""

    def __init__(self, directory: Path, store_url: str, **settings: Any) -> None:
        self._directory, self._store_url, self._settings = directory, store_url, settings
        self._ready, self._failure = threading.Event(), None
        self._thread = threading.Thread(target=self._run, name="composed-server")

    def __enter__(self) -> ComposedServer:
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not stop"

    @property
    def base_url(self) -> str:
        assert self.house.hostler is not None
        return self.house.hostler.base_url

    @property
    def database(self) -> Database:
        assert self.house.hostler is not None
        return self.house.hostler.database

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def write(self, fn: Callable[[Connection], T]) -> T:
        return self.call(self.database.write(fn))

    def owner(self) -> Owner:
        """A fresh workspace, with an admin key."""

        def make(conn: Connection) -> tuple[str, str]:
            now = self.database.now(conn)
            workspace = create_workspace(conn, now, "of one test")
            return workspace.id, create_key(conn, now, workspace.id, "test")[1]

        return Owner(self.base_url, *self.write(make))

    def installation_key(self) -> str:
        """An admin key of the default workspace."""
        return self.house.secret

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with open_house(self._directory, self._store_url, **self._settings) as house:
            self.house: House = house
            self._ready.set()
            await self._stop.wait()
