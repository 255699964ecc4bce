"""A new master key: every secret comes under it, at every moment each one opens, and an interruption harms nothing."""

from __future__ import annotations

import asyncio
import base64
import secrets
from pathlib import Path

import pytest
import sqlalchemy as sa
from brokerkit import URL, WORKSPACE, Bench, Heard, Skew, open_bench

from hostler.domain.errors import InvalidRequest, SecretUnreadable
from hostler.engine.credentials import match_key, opened, seal
from hostler.sealing import rotation
from hostler.sealing.envelope import EnvelopeSealer
from hostler.sealing.masterkeys import GivenKeys, KeyFile, MasterKey
from hostler.store.sealed import count_by_key, rewrap_some, sealed_columns
from hostler.store.tables_vaults import credentials
from hostler.store.vaults import find_active
from hostler.testing.postgres import PostgresCluster


async def _filled(bench: Bench, vaults: int = 2, each: int = 4) -> dict[str, list[str]]:
    """Credentials of several vaults, each with the token `canary-<vault>-<number>`."""
    made: dict[str, list[str]] = {}
    for _ in range(vaults):
        vault = await bench.vault()
        made[vault] = [f"https://mcp{number}.example.com" for number in range(each)]
        for number, url in enumerate(made[vault]):
            await bench.static(vault, f"canary-{vault}-{number}", url=url)
    return made


async def _all_open(bench: Bench, made: dict[str, list[str]]) -> None:
    for vault, urls in made.items():
        for number, url in enumerate(urls):
            assert await bench.token(vault, url=url) == f"canary-{vault}-{number}"


async def test_rotation_brings_everything_under_the_new_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "BATCH", 3)
    made = await _filled(bench)
    (old,) = bench.keys.ids()
    purged = await bench.vault()
    await bench.static(purged, "canary-purged")
    await bench.vaults.archive(WORKSPACE, purged)
    seen: list[int] = []
    done = await rotation.rotate(bench.database, bench.keys, seen.append)
    assert (done.rewrapped, done.kept) == (8, (old,))
    assert seen == [3, 6, 8], "in batches"
    assert done.key_id != old
    assert await bench.database.read(count_by_key) == {done.key_id: 8}
    await _all_open(bench, made)
    assert await rotation.prune(bench.database, bench.keys) == [], "ten minutes have not passed"
    assert await rotation.prune(bench.database, bench.keys, retired_for_seconds=-1) == [old]
    await _all_open(bench, made)
    assert list(bench.keys.ids()) == [done.key_id]


async def test_a_key_that_still_seals_something_is_not_pruned(bench: Bench) -> None:
    made = await _filled(bench, 1, 1)
    bench.keys.add()
    assert await rotation.prune(bench.database, bench.keys, retired_for_seconds=-1) == []
    await _all_open(bench, made)


async def test_an_interrupted_rotation_loses_nothing_and_can_be_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "BATCH", 3)
    made = await _filled(bench)

    class Cut(Exception):
        pass

    def cut(done: int) -> None:
        if done >= 3:
            raise Cut

    with pytest.raises(Cut):
        await rotation.rotate(bench.database, bench.keys, cut)
    counts = await bench.database.read(count_by_key)
    assert sorted(counts.values()) == [3, 5]
    await _all_open(bench, made)
    done = await rotation.rotate(bench.database, bench.keys)
    assert (await bench.database.read(count_by_key), done.rewrapped) == ({done.key_id: 8}, 8)
    await _all_open(bench, made)
    assert len(await rotation.prune(bench.database, bench.keys, retired_for_seconds=-1)) == 2


async def test_a_server_that_works_meanwhile_notices_nothing(
    bench: Bench, url: str, tmp_path: Path, skew: Skew, heard: Heard
) -> None:
    made = await _filled(bench)
    async with open_bench(url, tmp_path / "keys.json", skew, heard) as server:
        await _all_open(server, made)
        vault = await server.vault()
        stop = asyncio.Event()

        async def work() -> int:
            rounds = 0
            while not stop.is_set() or rounds == 0:
                credential = await server.static(vault, "canary-first")
                auth = {"type": "static_bearer", "token": f"canary-{rounds}"}
                await server.change(vault, credential, auth)
                assert await server.token(vault) == f"canary-{rounds}"
                await server.credentials.delete(WORKSPACE, vault, credential)
                rounds += 1
            return rounds

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            working = group.create_task(work())
            for _ in range(5):
                await rotation.rotate(bench.database, bench.keys)
            stop.set()
        assert working.result() >= 1
        await _all_open(server, made)
        await rotation.rotate(bench.database, bench.keys)
        await rotation.prune(bench.database, bench.keys, retired_for_seconds=-1)
        await _all_open(server, made)


async def test_a_secret_that_is_replaced_while_it_is_re_wrapped_stays_replaced(
    bench: Bench, url: str, request: pytest.FixtureRequest
) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    vault = await bench.vault()
    credential = await bench.static(vault, "canary-old")
    public = {"type": "static_bearer", "mcp_server_url": URL}
    replaced = seal(bench.sealer, WORKSPACE, vault, credential, public, {"token": "canary-new"})
    cluster: PostgresCluster = request.getfixturevalue("cluster")

    def rewrapped(old: str) -> str:
        cluster.sql(f"UPDATE credentials SET sealed = '{replaced}'", database=url.split("/")[3].split("?")[0])
        return bench.sealer.rewrapped(old)

    current = bench.keys.add().id
    (column,) = [column for column in sealed_columns() if column.table is credentials]
    await bench.database.write(lambda conn: rewrap_some(conn, column, current, rewrapped, limit=10))
    assert await bench.token(vault) == "canary-new"


async def test_a_lost_key_is_named_and_the_rest_is_not_harmed(bench: Bench, tmp_path: Path) -> None:
    made = await _filled(bench, 1, 2)
    (lost,) = bench.keys.ids()
    (tmp_path / "keys.json").unlink()
    for vault in made:
        with pytest.raises(SecretUnreadable, match=lost):
            await bench.token(vault, url="https://mcp0.example.com")
    before = await bench.database.read(_sealed)
    with pytest.raises(SecretUnreadable, match=lost):
        await rotation.rotate(bench.database, bench.keys)
    assert await bench.database.read(_sealed) == before


async def test_keys_of_the_configuration_are_rotated_by_naming_the_old_one(bench: Bench) -> None:
    made = await _filled(bench, 1, 3)
    old = KeyFile(bench.keys.path).current()
    fresh = MasterKey(secrets.token_bytes(32))
    done = await rotation.rotate(bench.database, GivenKeys(fresh, [old]))
    assert (done.key_id, done.rewrapped, done.kept) == (fresh.id, 3, (old.id,))
    ((vault, urls),) = made.items()
    found = await bench.database.read(lambda c: find_active(c, WORKSPACE, vault, match_key(urls[0])))
    assert found is not None
    assert opened(EnvelopeSealer(GivenKeys(fresh)), found) == {"token": f"canary-{vault}-0"}
    with pytest.raises(InvalidRequest, match="previous_keys"):
        await rotation.prune(bench.database, GivenKeys(fresh))


async def test_a_column_for_secrets_takes_nothing_else(bench: Bench) -> None:
    vault = await bench.vault()
    await bench.static(vault, "canary")
    for column in sealed_columns():
        with pytest.raises(Exception, match="sealed secrets") as caught:
            await bench.database.write(
                lambda conn, column=column: conn.execute(  # type: ignore[misc]
                    sa.update(column.table).values({column: "canary-plain"})
                )
            )
        assert "canary-plain" not in str(caught.value)
    assert await bench.token(vault) == "canary"


def test_no_key_is_in_a_representation() -> None:
    key = MasterKey(b"c" * 32)
    text = repr(key) + repr(GivenKeys(key)) + repr(EnvelopeSealer(GivenKeys(key)))
    assert "cccc" not in text
    assert base64.b64encode(key.key).decode() not in text


def _sealed(conn: sa.Connection) -> list[str]:
    return sorted(conn.execute(sa.select(credentials.c.sealed)).scalars())
