"""Which token a session gets, and how OAuth tokens stay good. T57."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from brokerkit import URL, WORKSPACE, Bench, Heard, Skew, open_bench
from oauthkit import FakeProvider, answers

from hostler.domain.clock import rfc3339_of
from hostler.domain.errors import Conflict, InvalidRequest, SecretUnreadable
from hostler.engine.bearers import HOLD_SECONDS, QUIET_SECONDS, CredentialFailed
from hostler.engine.egress_port import Bearer
from hostler.store.tables_vaults import credentials

DEADLINE = 60.0


# --------------------------------------------------------------------------------------------------------- resolution


async def test_the_first_vault_with_a_match_wins(bench: Bench) -> None:
    one, two, three = await bench.vault(), await bench.vault(), await bench.vault()
    await bench.static(two, "canary-two")
    third = await bench.static(three, "canary-three")
    await bench.static(one, "canary-other", url="https://other.example.com")
    assert await bench.token(one, two, three) == "canary-two"
    assert await bench.token(three, two) == "canary-three"
    assert await bench.token(one) is None
    assert await bench.token() is None
    bearer = await bench.bearer(three)
    assert bearer is not None
    assert (bearer.workspace, bearer.vault_id, bearer.credential_id) == (WORKSPACE, three, third)
    assert "canary" not in repr(bearer)


@pytest.mark.parametrize(
    ("stored", "asked", "same"),
    [
        ("https://MCP.example.com/mcp/", "https://mcp.example.com/mcp", True),
        ("https://mcp.example.com:443", "HTTPS://mcp.example.com/", True),
        ("http://mcp.example.com:80/x", "http://mcp.example.com/x", True),
        ("https://mcp.example.com/mcp", "http://mcp.example.com/mcp", False),
        ("https://mcp.example.com/mcp", "https://mcp.example.com:8443/mcp", False),
        ("https://mcp.example.com/mcp", "https://mcp.example.com/MCP", False),
        ("https://mcp.example.com/mcp", "https://mcp.example.com/mcp/other", False),
        ("https://mcp.example.com/mcp", "https://mcp.example.com/mcp?x=1", False),
        ("https://mcp.example.com", "https://mcp.example.com.evil.example", False),
        ("https://mcp.example.com", "https://evil@mcp.example.com:99999", False),
        ("https://mcp.example.com", "", False),
    ],
)
async def test_servers_are_told_apart_by_their_normalised_url(
    bench: Bench, stored: str, asked: str, same: bool
) -> None:
    vault = await bench.vault()
    await bench.static(vault, "canary", url=stored)
    assert await bench.token(vault, url=asked) == ("canary" if same else None)


async def test_what_is_archived_deleted_or_somebody_elses_gives_nothing(bench: Bench) -> None:
    archived, deleted, alone = await bench.vault(), await bench.vault(), await bench.vault()
    for vault in (archived, deleted):
        await bench.static(vault, "canary")
    credential = await bench.static(alone, "canary")
    assert await bench.token(alone, workspace="wrkspc_other") is None
    await bench.vaults.archive(WORKSPACE, archived)
    await bench.vaults.delete(WORKSPACE, deleted)
    await bench.credentials.archive(WORKSPACE, alone, credential)
    assert await bench.token(archived, deleted, alone) is None


async def test_a_token_that_was_replaced_is_used_at_once(bench: Bench) -> None:
    vault = await bench.vault()
    credential = await bench.static(vault, "canary-old")
    before = await bench.bearer(vault)
    assert before is not None
    assert await bench.broker.rejected(before) is None, "nothing can renew it"
    await bench.change(vault, credential, {"type": "static_bearer", "token": "canary-new"})
    assert await bench.token(vault) == "canary-new"
    after = await bench.broker.rejected(before)
    assert after is not None
    assert after.token == "canary-new", "somebody has replaced what was rejected"


async def test_a_secret_that_was_moved_between_rows_is_not_used(bench: Bench) -> None:
    vault, other = await bench.vault(), await bench.vault()
    mine, theirs = await bench.static(vault, "canary-mine"), await bench.static(other, "canary-theirs")

    def swap(conn: sa.Connection) -> None:
        sealed = dict(conn.execute(sa.select(credentials.c.id, credentials.c.sealed)).all())  # type: ignore[arg-type]
        for row, source in ((mine, theirs), (theirs, mine)):
            conn.execute(credentials.update().where(credentials.c.id == row).values(sealed=sealed[source]))

    await bench.database.write(swap)
    with pytest.raises(SecretUnreadable, match="moved"):
        await bench.token(vault)


EVIL = "https://evil.example.com/mcp"


@pytest.mark.parametrize("what", ["auth", "match_key", "both", "vault", "token_endpoint", "client_auth"])
async def test_who_writes_to_the_database_can_not_send_a_token_elsewhere(
    bench: Bench, provider: FakeProvider, what: str
) -> None:
    vault, theirs = await bench.vault(), await bench.vault()
    credential = await bench.oauth(vault, provider, lives=30)
    auth = (await bench.credentials.retrieve(WORKSPACE, vault, credential))["auth"]
    evil = json.dumps({**auth, "mcp_server_url": EVIL})
    endpoint = json.dumps({**auth, "refresh": {**auth["refresh"], "token_endpoint": provider.base_url + "/evil"}})
    post = json.dumps({**auth, "refresh": {**auth["refresh"], "token_endpoint_auth": {"type": "client_secret_post"}}})
    values = {
        "auth": {"auth": evil},
        "match_key": {"match_key": f"mcp {EVIL}"},
        "both": {"auth": evil, "match_key": f"mcp {EVIL}"},
        "vault": {"vault_id": theirs},
        "token_endpoint": {"auth": endpoint},
        "client_auth": {"auth": post},
    }[what]
    await bench.database.write(
        lambda conn: conn.execute(credentials.update().where(credentials.c.id == credential).values(**values))
    )
    for url in (URL, EVIL):
        for asked in (vault, theirs):
            with suppress(SecretUnreadable):
                assert await bench.token(asked, url=url) is None
    assert provider.exchanges == []


# -------------------------------------------------------------------------------------------------------------- OAuth


async def test_a_token_with_time_left_is_not_renewed(bench: Bench, provider: FakeProvider) -> None:
    one, two = await bench.vault(), await bench.vault()
    await bench.oauth(one, provider, lives=120)
    await bench.oauth(two, provider)
    assert await bench.token(one) == await bench.token(two) == "canary-access-0"
    assert provider.exchanges == []


@pytest.mark.parametrize("kind", ["none", "client_secret_basic", "client_secret_post"])
async def test_each_kind_of_client_says_who_it_is(bench: Bench, provider: FakeProvider, kind: str) -> None:
    vault = await bench.vault()
    secret = "canary/client+secret: %é"
    auth = {"type": kind} if kind == "none" else {"type": kind, "client_secret": secret}
    credential = await bench.oauth(
        vault, provider, lives=30, auth=auth, client_id="me & you", scope="a b", resource="https://r.example.com/"
    )
    before = await bench.now()
    assert await bench.token(vault) == "canary-access-1"
    (exchange,) = provider.exchanges
    form = {
        "grant_type": "refresh_token",
        "refresh_token": "canary-refresh-0",
        "scope": "a b",
        "resource": "https://r.example.com/",
    }
    if kind == "client_secret_post":
        form["client_secret"] = secret
    if kind != "client_secret_basic":
        form["client_id"] = "me & you"
    assert exchange.form == form
    assert exchange.client == (("me & you", secret) if kind == "client_secret_basic" else None)
    expiry = await bench.expiry(vault, credential)
    assert expiry is not None
    assert rfc3339_of(before + 3590) < expiry < rfc3339_of(await bench.now() + 3600.001)


async def test_the_refresh_token_that_came_along_is_used_next(bench: Bench, provider: FakeProvider, skew: Skew) -> None:
    vault = await bench.vault()
    await bench.oauth(vault, provider, lives=30)
    for number in (1, 2, 3):
        assert await bench.token(vault) == f"canary-access-{number}"
        skew.seconds += 3600
    assert [e.form["refresh_token"] for e in provider.exchanges] == [f"canary-refresh-{n}" for n in range(3)]
    provider.rotates = False
    for number in (4, 5):
        assert await bench.token(vault) == f"canary-access-{number}"
        skew.seconds += 3600


@pytest.mark.parametrize(
    ("lives", "known"), [(None, False), ("7200", True), ("soon", False), (-5, False), (1e99, False)]
)
async def test_a_life_that_is_not_told_is_not_known(
    bench: Bench, provider: FakeProvider, lives: Any, known: bool
) -> None:
    vault = await bench.vault()
    credential = await bench.oauth(vault, provider, lives=30)
    provider.lives = lives
    assert await bench.token(vault) == "canary-access-1"
    assert (await bench.expiry(vault, credential) is not None) == known
    assert await bench.token(vault) == "canary-access-1"
    assert len(provider.exchanges) == 1


async def test_a_rejected_token_is_renewed_whatever_its_age(bench: Bench, provider: FakeProvider) -> None:
    vault = await bench.vault()
    await bench.oauth(vault, provider, lives=3000)
    bearer = await bench.bearer(vault)
    assert bearer is not None
    fresh = await bench.broker.rejected(bearer)
    assert fresh is not None
    assert fresh.token == "canary-access-1" == await bench.token(vault)
    late = await bench.broker.rejected(bearer)
    assert late is not None
    assert late.token == "canary-access-1", "a second report of the old token renews nothing"
    assert len(provider.exchanges) == 1


# ------------------------------------------------------------------------------------------------------------ failure


async def test_a_refusal_is_announced_once_and_not_repeated_at_once(
    bench: Bench, provider: FakeProvider, skew: Skew, heard: Heard
) -> None:
    vault = await bench.vault()
    credential = await bench.oauth(vault, provider, lives=90)
    provider.token_answer = answers(400, b'{"error": "invalid_grant"}')
    skew.seconds = 40
    assert await bench.token(vault) == "canary-access-0", "it is still good for a while"
    skew.seconds = 91
    for _ in range(3):
        with pytest.raises(CredentialFailed) as caught:
            await bench.token(vault)
        assert (caught.value.credential_id, caught.value.vault_id) == (credential, vault)
        assert "canary" not in str(caught.value)
    assert len(provider.exchanges) == 1
    skew.seconds = 41 + QUIET_SECONDS
    with pytest.raises(CredentialFailed):
        await bench.token(vault)
    assert len(provider.exchanges) == 2
    told = {"id": credential, "vault_id": vault}
    assert heard.of("vault_credential.refresh_failed") == [told], "once, until it has worked again"
    await bench.change(vault, credential, {"type": "mcp_oauth", "refresh": {"refresh_token": "canary-given"}})
    provider.token_answer, provider.refresh_token = None, "canary-given"
    assert await bench.token(vault) == "canary-access-3", "a change is tried at once"
    provider.token_answer = answers(500, b"")
    skew.seconds += 3600
    with pytest.raises(CredentialFailed):
        await bench.token(vault)
    assert heard.of("vault_credential.refresh_failed") == [told, told]


async def test_a_token_endpoint_in_a_private_place_is_not_asked(
    bench: Bench, provider: FakeProvider, heard: Heard
) -> None:
    vault = await bench.vault()
    for number, address in enumerate(("10.0.0.1", "169.254.169.254", "127.0.0.2", "[::1]", "0x7f.1")):
        url = f"https://mcp{number}.example.com"
        refresh = {
            "client_id": "me",
            "refresh_token": "canary",
            "token_endpoint": f"http://{address}/token",
            "token_endpoint_auth": {"type": "none"},
        }
        auth = {"type": "mcp_oauth", "mcp_server_url": url, "access_token": "canary-a", "refresh": refresh}
        await bench.add(vault, auth)
        bearer = await bench.bearer(vault, url=url)
        assert bearer is not None
        assert await bench.broker.rejected(bearer) is None
    assert len(heard.of("vault_credential.refresh_failed")) == 5


async def test_the_log_tells_the_reason_and_no_secret(
    bench: Bench, provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    vault = await bench.vault()
    credential = await bench.oauth(vault, provider, auth={"type": "client_secret_post", "client_secret": "canary-cs"})
    provider.token_answer = lambda exchange: (400, {}, json.dumps(exchange.form).encode())
    bearer = await bench.bearer(vault)
    assert bearer is not None
    assert await bench.broker.rejected(bearer) is None
    (record,) = [r for r in caplog.records if r.name == "hostler.vaults"]
    assert (record.message, record.__dict__["reason"]) == ("vault_credential.refresh_failed", "status 400")
    assert record.__dict__["credential_id"] == credential
    assert "canary" not in repr(record.__dict__)


# ------------------------------------------------------------------------------------------------------------ at once


async def _asked(provider: FakeProvider) -> None:
    """The token endpoint holds its answer from now on; returns when it has been asked."""
    assert await asyncio.to_thread(provider.asked.wait, DEADLINE)


async def test_many_users_of_a_token_share_one_exchange_over_two_processes(
    bench: Bench, provider: FakeProvider, url: str, tmp_path: Path, skew: Skew, heard: Heard
) -> None:
    async with open_bench(url, tmp_path / "keys.json", skew, heard) as second:
        vault = await bench.vault()
        await bench.oauth(vault, provider, lives=30)
        provider.go_on.clear()
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            users = [group.create_task(which.token(vault)) for which in (bench, second) for _ in range(5)]
            await _asked(provider)
            rejecting = group.create_task(_rejected(second, vault))
            provider.go_on.set()
        assert {user.result() for user in users} == {"canary-access-1"}
        assert rejecting.result() == "canary-access-1"
        assert len(provider.exchanges) == 1


async def _rejected(bench: Bench, vault: str) -> str | None:
    (row,) = (await bench.credentials.list(WORKSPACE, vault, limit=1))[0]
    fresh = await bench.broker.rejected(Bearer("canary-access-0", WORKSPACE, vault, row["id"]))
    return None if fresh is None else fresh.token


async def test_the_right_of_a_process_that_died_runs_out(bench: Bench, provider: FakeProvider, skew: Skew) -> None:
    vault = await bench.vault()
    credential = await bench.oauth(vault, provider, lives=30)
    until = await bench.now() + HOLD_SECONDS
    dead = credentials.update().where(credentials.c.id == credential)
    await bench.database.write(lambda c: c.execute(dead.values(refreshing_by="dead", refreshing_until=until)))
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        user = group.create_task(bench.token(vault))
        done, _ = await asyncio.wait({user}, timeout=0.3)
        assert not done, "it waits for its turn"
        assert provider.exchanges == []
        skew.seconds = HOLD_SECONDS + 0.1
    assert user.result() == "canary-access-1"


async def test_a_user_that_goes_away_loses_no_new_refresh_token(bench: Bench, provider: FakeProvider) -> None:
    vault = await bench.vault()
    await bench.oauth(vault, provider, lives=30)
    provider.go_on.clear()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        user = group.create_task(bench.token(vault))
        await _asked(provider)
        user.cancel()
        await asyncio.wait({user})
        provider.go_on.set()
    assert user.cancelled()
    await bench.broker.close()
    assert await bench.token(vault) == "canary-access-1"
    assert len(provider.exchanges) == 1


async def test_what_a_client_changes_during_an_exchange_stays(bench: Bench, provider: FakeProvider) -> None:
    vault = await bench.vault()
    credential = await bench.oauth(vault, provider, lives=30)
    provider.go_on.clear()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        user = group.create_task(bench.token(vault))
        await _asked(provider)
        await bench.change(
            vault,
            credential,
            {"type": "mcp_oauth", "access_token": "canary-given", "expires_at": "2999-01-01T00:00:00Z"},
        )
        provider.go_on.set()
    assert user.result() == "canary-given" == await bench.token(vault)
    assert await bench.expiry(vault, credential) == "2999-01-01T00:00:00.000000Z"
    bearer = await bench.bearer(vault)
    assert bearer is not None
    fresh = await bench.broker.rejected(bearer)
    assert fresh is not None
    assert fresh.token == "canary-access-2", "the refresh token of the first exchange was kept"


@pytest.mark.parametrize("end", ["archive", "delete", "vault"])
async def test_a_credential_that_ends_during_an_exchange_stays_ended(
    bench: Bench, provider: FakeProvider, end: str
) -> None:
    vault = await bench.vault()
    credential = await bench.oauth(vault, provider)
    bearer = await bench.bearer(vault)
    assert bearer is not None
    provider.go_on.clear()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        user = group.create_task(bench.broker.rejected(bearer))
        await _asked(provider)
        if end == "vault":
            await bench.vaults.archive(WORKSPACE, vault)
        elif end == "archive":
            await bench.credentials.archive(WORKSPACE, vault, credential)
        else:
            await bench.credentials.delete(WORKSPACE, vault, credential)
        provider.go_on.set()
    assert user.result() is None
    kept = await bench.database.read(lambda c: c.execute(sa.select(credentials.c.sealed)).scalars().all())
    assert kept == ([] if end == "delete" else [None])


async def test_a_race_for_the_last_place_or_the_same_server_has_one_winner(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:  # Open connections are what lets the racers start together.
        full, same, *_ = [group.create_task(bench.vault()) for _ in range(10)]
    await _race(bench, full.result(), same.result())


async def _race(bench: Bench, full: str, same: str) -> None:
    for number in range(19):
        await bench.static(full, "canary", url=f"https://mcp{number}.example.com")

    async def outcome(vault: str, url: str) -> str:
        try:
            await bench.static(vault, "canary", url=url)
        except (InvalidRequest, Conflict) as error:
            return type(error).__name__
        return "made"

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        places = [group.create_task(outcome(full, f"https://late{number}.example.com")) for number in range(8)]
        servers = [group.create_task(outcome(same, URL)) for _ in range(8)]
    assert sorted(task.result() for task in places) == ["InvalidRequest"] * 7 + ["made"]
    assert sorted(task.result() for task in servers) == ["Conflict"] * 7 + ["made"]


# ----------------------------------------------------------------------------------------------------- announcements


async def test_every_change_is_announced_once(bench: Bench, heard: Heard) -> None:
    vault = await bench.vault()
    one, two = await bench.static(vault, "a"), await bench.static(vault, "b", url=URL + "/b")
    for _ in range(2):
        await bench.credentials.archive(WORKSPACE, vault, one)
    for _ in range(2):
        await bench.vaults.archive(WORKSPACE, vault)
    await bench.credentials.delete(WORKSPACE, vault, one)
    await bench.vaults.delete(WORKSPACE, vault)
    here = {"vault_id": vault}
    assert [(kind, data) for _, kind, data in heard.events] == [
        ("vault.created", {"id": vault}),
        ("vault_credential.created", {"id": one, **here}),
        ("vault_credential.created", {"id": two, **here}),
        ("vault_credential.archived", {"id": one, **here}),
        ("vault_credential.archived", {"id": two, **here}),
        ("vault.archived", {"id": vault}),
        ("vault_credential.deleted", {"id": one, **here}),
        ("vault_credential.deleted", {"id": two, **here}),
        ("vault.deleted", {"id": vault}),
    ]
