"""The official worker's memory sync against this server: download, upload 32 at a time, conflicts (T44's part, T53)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import pytest
from anthropic.lib.tools._memories import SessionMemoryStores
from apikit_server import Access


def session_of(*stores: tuple[str, Path], access: str = "read_write") -> Any:
    """What the sync reads of a session."""
    return SimpleNamespace(
        resources=[
            SimpleNamespace(
                type="memory_store", memory_store_id=store_id, mount_path=str(root), name="s", access=access
            )
            for store_id, root in stores
        ]
    )


def client_of(access: Access) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=access.base_url, api_key=access.key, _strict_response_validation=True)


async def memories(client: anthropic.AsyncAnthropic, store_id: str) -> dict[str, str]:
    listed = client.beta.memory_stores.memories.list(store_id, view="full")
    return {item.path: item.content or "" async for item in listed if item.type == "memory"}


@pytest.mark.endpoint(
    "memory_stores.memories.create",
    "memory_stores.memories.list",
    "memory_stores.memories.update",
    "memory_stores.memories.delete",
)
async def test_official_sync_carries_changes_both_ways(access: Access, tmp_path: Path) -> None:
    async with client_of(access) as client:
        stores = client.beta.memory_stores
        store_id = (await stores.create(name="s")).id
        for path, content in (("/kept.md", "kept"), ("/a/changed.md", "old"), ("/gone.md", "gone"), ("/nul", "\x00é")):
            await stores.memories.create(store_id, path=path, content=content)
        root = tmp_path / "memory" / "s"
        sync = SessionMemoryStores(client, workdir=tmp_path)
        await sync.download(session_of((store_id, root)))
        assert (root / "nul").read_text() == "\x00é"
        (root / "a" / "changed.md").write_text("new")
        (root / "a" / "made.md").write_text("made")
        (root / "gone.md").unlink()
        await stores.memories.create(store_id, path="/remote.md", content="from elsewhere")
        await sync.finish()
        assert (root / "remote.md").read_text() == "from elsewhere"
        assert await memories(client, store_id) == {
            "/a/changed.md": "new",
            "/a/made.md": "made",
            "/kept.md": "kept",
            "/nul": "\x00é",
            "/remote.md": "from elsewhere",
        }
        await sync.dispose()


@pytest.mark.endpoint("memory_stores.memories.create", "memory_stores.memories.update")
async def test_many_uploads_at_once_lose_no_update(
    access: Access, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two workers and a client, 32 + 32 + 8 requests in flight: each file is one memory, each edit one version."""
    count = 150
    caplog.set_level(logging.WARNING, "anthropic.lib.tools.agent_toolset")
    async with client_of(access) as client:
        stores = client.beta.memory_stores
        store_id = (await stores.create(name="s")).id
        counter = await stores.memories.create(store_id, path="/counter", content="0")
        workers = []
        for name in ("one", "two"):
            sync = SessionMemoryStores(client, workdir=tmp_path)
            root = tmp_path / name
            await sync.download(session_of((store_id, root)))
            for number in range(count):
                (root / f"{name}-{number}.md").write_text(f"{name} {number}")
            workers.append(sync)

        refused: set[str] = set()

        async def add_ten() -> None:
            for _ in range(10):
                while True:
                    now = await stores.memories.retrieve(counter.id, memory_store_id=store_id)
                    held: Any = {"type": "content_sha256", "content_sha256": now.content_sha256}
                    try:
                        await stores.memories.update(
                            counter.id,
                            memory_store_id=store_id,
                            content=str(int(now.content or "") + 1),
                            precondition=held,
                        )
                        break
                    except anthropic.ConflictError as error:
                        refused.add(str(error.type))

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for sync in workers:
                group.create_task(sync.flush_writes())
            for _ in range(8):
                group.create_task(add_ten())
        assert refused == {"memory_precondition_failed_error"}
        found = await memories(client, store_id)
        assert found.pop("/counter") == "80"
        assert found == {f"/{name}-{n}.md": f"{name} {n}" for name in ("one", "two") for n in range(count)}
        versions = [v async for v in stores.memory_versions.list(store_id, memory_id=counter.id, limit=100)]
        assert len(versions) == 81
        assert len({v.content_sha256 for v in versions}) == 81
        assert not [record for record in caplog.records if "memory_store" in record.getMessage()]
        for sync in workers:
            await sync.dispose()


async def test_edit_that_loses_against_the_store_and_a_refused_file_are_told_apart(
    access: Access, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "anthropic.lib.tools.agent_toolset")
    async with client_of(access) as client:
        stores = client.beta.memory_stores
        store_id = (await stores.create(name="s")).id
        made = await stores.memories.create(store_id, path="/both.md", content="old")
        root = tmp_path / "s"
        sync = SessionMemoryStores(client, workdir=tmp_path)
        await sync.download(session_of((store_id, root)))
        (root / "both.md").write_text("mine")
        (root / "large.md").write_text("x" * 102_401)
        await stores.memories.update(made.id, memory_store_id=store_id, content="theirs")
        await sync.finish()
        assert (root / "both.md").read_text() == "theirs"
        assert await memories(client, store_id) == {"/both.md": "theirs"}
        said = caplog.text
        assert "changed both locally and remotely" in said
        assert "the server rejected this memory file" in said
        assert "102401 bytes" in said
        assert hashlib.sha256(b"theirs").hexdigest() == (await stores.memories.retrieve(
            made.id, memory_store_id=store_id
        )).content_sha256  # fmt: skip
        await sync.dispose()
