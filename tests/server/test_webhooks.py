"""Who is told of what, by webhook? The official client reads the deliveries."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
import standardwebhooks
from hookkit import listen, own, receiving
from housekit import House, open_house
from sqlalchemy import Connection

from hostler import compose
from hostler.config import load
from hostler.egress.webhooks import HttpWebhookSender
from hostler.engine.ports import WebhookTargetRefused
from hostler.engine.webhook_dispatcher import DispatcherSettings
from hostler.engine.webhooks import TESTS_AT_ONCE
from hostler.store.keys import create_key, create_workspace
from hostler.store.tables_webhooks import webhook_deliveries
from hostler.store.webhooks import EVERYTHING, delivery_values, emit_all

FAST = {
    "webhooks__allow_http": True,
    "webhooks__private_allowed": ["127.0.0.1"],
    "webhooks__retry_seconds": 0.01,
    "webhooks__disable_after": 2,
}


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url, **FAST) as opened:
        yield opened


def unwrapped(house: House, arrived: tuple[dict[str, str], bytes], secret: str) -> Any:
    headers, body = arrived
    return house.client.beta.webhooks.unwrap(body.decode(), headers=headers, key=secret)


async def test_a_turn_is_told_in_order_and_what_was_changed_on_the_way_is_refused(house: House) -> None:
    with receiving() as receiver:
        endpoint = await listen(house, receiver.url, "session.status_run_started", "session.status_idled")
        session = await house.session()
        await house.turn(session, "hello")
        await receiver.until(lambda got: len(got) >= 2)
    first, second = [unwrapped(house, arrived, endpoint["signing_secret"]) for arrived in receiver.got]
    assert [first.data.type, second.data.type] == ["session.status_run_started", "session.status_idled"]
    assert {first.data.id, second.data.id} == {session}
    assert first.type == "event"
    assert first.data.organization_id == "org_hostler"
    assert first.data.workspace_id == "wrkspc_default"

    headers, body = receiver.got[0]
    for changed in (
        (headers, body.replace(session.encode(), b"sesn_somebody_elses")),
        ({**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}, body),
        ({**headers, "webhook-id": receiver.got[1][0]["webhook-id"]}, body),
    ):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            unwrapped(house, changed, endpoint["signing_secret"])


async def test_a_receiver_that_fails_is_tried_three_times_under_one_id(house: House) -> None:
    with receiving(500, 503) as receiver:
        endpoint = await listen(house, receiver.url, "agent.created")
        await house.client.beta.agents.create(name="A", model="claude-opus-5-5")
        await receiver.until(lambda got: len(got) == 3)
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        assert len({body for _, body in receiver.got}) == 1
        for arrived in receiver.got:
            assert unwrapped(house, arrived, endpoint["signing_secret"]).data.type == "agent.created"
        delivery = await until_settled(house, endpoint["id"])
    assert delivery["state"] == "delivered"
    assert [attempt["status"] for attempt in delivery["attempts"]] == [500, 503, 204]


async def until_settled(house: House, endpoint_id: str) -> Any:
    """The newest delivery, once it isn't waiting any more. Its log is written after the receiver's answer."""
    while True:
        found = await own(house, "GET", f"/webhook_endpoints/{endpoint_id}/deliveries")
        if found["data"] and all(row["state"] != "pending" for row in found["data"]):
            return found["data"][0]


async def test_after_enough_failures_in_a_row_an_endpoint_is_disabled_and_can_be_enabled_again(house: House) -> None:
    with receiving(*[500] * 6) as receiver:
        endpoint = await listen(house, receiver.url, "agent.created")
        path = f"/webhook_endpoints/{endpoint['id']}"
        for name in "ab":
            await house.client.beta.agents.create(name=name, model="claude-opus-5-5")
            await until_settled(house, endpoint["id"])
        shown = await own(house, "GET", path)
        assert shown["state"] == "disabled"
        assert "2 deliveries in a row failed" in shown["disabled_reason"]
        await house.client.beta.agents.create(name="c", model="claude-opus-5-5")
        assert len(receiver.got) == 6

        newest = (await own(house, "GET", f"{path}/deliveries"))["data"][0]
        await own(house, "GET", f"{path}/deliveries?states[]=dropped")
        with pytest.raises(anthropic.BadRequestError, match="is disabled; enable it first"):
            await own(house, "POST", f"{path}/deliveries/{newest['id']}/retry")
        await own(house, "POST", path, {"state": "enabled"})
        await own(house, "POST", f"{path}/deliveries/{newest['id']}/retry")
        await receiver.until(lambda got: len(got) == 7)
        assert receiver.got[6][0]["webhook-id"] == receiver.got[5][0]["webhook-id"]


async def test_a_redirect_is_not_followed_and_disables_the_endpoint(house: House) -> None:
    with receiving(302) as receiver:
        endpoint = await listen(house, receiver.url, "agent.created")
        await house.client.beta.agents.create(name="A", model="claude-opus-5-5")
        delivery = await until_settled(house, endpoint["id"])
        assert delivery["state"] == "failed"
        assert len(receiver.got) == 1
        shown = await own(house, "GET", f"/webhook_endpoints/{endpoint['id']}")
        assert (shown["state"], "redirects are not followed" in shown["disabled_reason"]) == ("disabled", True)


async def test_what_was_on_its_way_when_the_server_ended_is_sent_again_by_the_next(house: House) -> None:
    with receiving(0) as receiver:
        endpoint = await listen(house, receiver.url, "agent.created")
        await house.client.beta.agents.create(name="A", model="claude-opus-5-5")
        await receiver.until(lambda got: len(got) == 1)
        await house.restart()
        await receiver.until(lambda got: len(got) == 2)
        delivery = await until_settled(house, endpoint["id"])
    assert delivery["state"] == "delivered"
    assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]


async def test_a_new_secret_counts_at_once_and_the_old_one_for_a_while(house: House) -> None:
    with receiving() as receiver:
        endpoint = await listen(house, receiver.url, "agent.created")
        path = f"/webhook_endpoints/{endpoint['id']}"
        renewed = await own(house, "POST", f"{path}/rotate_secret", {"grace_seconds": 60})
        await own(house, "POST", f"{path}/test", {})
        for secret in (endpoint["signing_secret"], renewed["signing_secret"]):
            unwrapped(house, receiver.got[0], secret)
        final = await own(house, "POST", f"{path}/rotate_secret", {"grace_seconds": 0})
        tried = await own(house, "POST", f"{path}/test", {})
        assert (tried["state"], tried["test"]) == ("delivered", True)
        unwrapped(house, receiver.got[1], final["signing_secret"])
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            unwrapped(house, receiver.got[1], renewed["signing_secret"])
        listed = await own(house, "GET", "/webhook_endpoints")
        assert "secret" not in str(listed["data"][0].keys() - {"old_secret_expires_at"})


@pytest.mark.one_database
async def test_addresses_that_no_stranger_may_reach_are_refused(tmp_path: Path, store_url: str) -> None:
    wrong = {
        "http://example.com/": "must begin with https://",
        "https://127.0.0.1/": "127.0.0.1",
        "https://169.254.169.254/latest": "169.254.169.254",
        "https://[::1]/": "::1",
        "https://user:pw@example.com/": "user name or password",
        "ftp://example.com/": "is not a URL",
        "https://example.com:22/": "port",
    }
    async with open_house(tmp_path, store_url) as house:
        for url, said in wrong.items():
            with pytest.raises(anthropic.BadRequestError) as caught:
                await listen(house, url, "agent.created")
            assert said in str(caught.value), url
            assert (await own(house, "GET", "/webhook_endpoints"))["data"] == [], url


async def test_a_deleted_endpoint_hears_nothing_more(house: House) -> None:
    with receiving() as receiver:
        endpoint = await listen(house, receiver.url, "*")
        await own(house, "DELETE", f"/webhook_endpoints/{endpoint['id']}")
        with pytest.raises(anthropic.NotFoundError):
            await own(house, "GET", f"/webhook_endpoints/{endpoint['id']}")
        other = await listen(house, receiver.url, "agent.created")
        await house.client.beta.agents.create(name="A", model="claude-opus-5-5")
        await until_settled(house, other["id"])
    assert len(receiver.got) == 1


async def test_two_servers_on_one_database_deliver_once(tmp_path: Path, server_cluster: Any) -> None:
    url = server_cluster.create_database("two_senders")
    shared = {**FAST, "secrets__key_file": str(tmp_path / "keys.json")}
    async with open_house(tmp_path / "a", url, **shared) as one, open_house(tmp_path / "b", url, **shared) as two:
        with receiving() as receiver:
            endpoint = await listen(one, receiver.url, "agent.created")
            for number in range(20):
                house = (one, two)[number % 2]
                await house.client.beta.agents.create(name=f"A{number}", model="claude-opus-5-5")
            await receiver.until(lambda got: len(got) >= 20)
            await until_settled(one, endpoint["id"])
        assert len(receiver.got) == len({headers["webhook-id"] for headers, _ in receiver.got}) == 20


async def test_many_silent_endpoints_of_one_workspace_keep_no_other_waiting(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, **FAST, webhooks__deadline_seconds=300) as house:
        assert house.hostler is not None
        database = house.hostler.database

        def workspace(connection: Connection) -> str:
            now = database.now(connection)
            return create_key(connection, now, create_workspace(connection, now, "victim").id, "k")[1]

        key = await database.write(workspace)
        with receiving(*[0] * 200) as silent, receiving() as receiver:
            for _ in range(10):
                await listen(house, silent.url, "agent.created")
            for number in range(8):
                await house.client.beta.agents.create(name=f"A{number}", model="claude-opus-5-5")
            await silent.until(lambda got: len(got) >= 8)
            async with anthropic.AsyncAnthropic(base_url=house.hostler.base_url, api_key=key) as victim:
                body = {"url": receiver.url, "enabled_events": ["agent.created"]}
                await victim.post("/hostler/v1/webhook_endpoints", body=body, cast_to=object)
                await victim.beta.agents.create(name="mine", model="claude-opus-5-5")
            await receiver.until(lambda got: len(got) == 1)
            assert len(silent.got) == 8


async def test_an_endpoint_for_which_too_much_waits_is_disabled(house: House) -> None:
    """A receiver that takes its time never fails, and yet the table must not grow without end."""
    assert house.hostler is not None
    database = house.hostler.database
    endpoint = await listen(house, "http://127.0.0.1:9/", "agent.created")

    def fill(connection: Connection) -> None:
        now, data = database.now(connection), {"id": "agent_x"}
        row = delivery_values(connection, now, "wrkspc_default", endpoint["id"], "whe_x", "agent.created", data)
        later = now + 3600
        rows = ({**row, "id": f"whd_{n}", "due_at": later} for n in range(DispatcherSettings().most_waiting + 1))
        connection.execute(webhook_deliveries.insert(), list(rows))

    await database.write(fill)
    await house.restart()
    deadline = time.monotonic() + 60
    while (shown := await own(house, "GET", f"/webhook_endpoints/{endpoint['id']}"))["state"] == "enabled":
        assert time.monotonic() < deadline
    assert "events waited" in shown["disabled_reason"]


class NamesThatLeadTo:
    """A resolver under the control of whoever owns the name: it answers what it likes, after the URL was checked."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return self._addresses


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("169.254.169.254",), ("::ffff:10.0.0.1",), ("93.184.216.34", "10.0.0.1")]
)
async def test_a_name_that_leads_to_a_private_address_is_refused_when_it_is_connected_to(
    addresses: tuple[str, ...],
) -> None:
    sender = HttpWebhookSender(resolver=NamesThatLeadTo(*addresses))
    sender.check("https://example.com/")
    with pytest.raises(WebhookTargetRefused):
        await sender.post("https://example.com/", {}, b"{}")


def lone(settings: dict[str, Any]) -> tuple[subprocess.Popen[str], dict[str, str]]:
    script = Path(__file__).parents[1] / "attacks" / "lone_server.py"
    command = [sys.executable, str(script), json.dumps(settings)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


async def test_what_was_on_its_way_when_the_server_was_killed_is_sent_again(tmp_path: Path, store_url: str) -> None:
    settings = {
        **FAST,
        "state_dir": str(tmp_path / "state"),
        "server__port": 0,
        "store__url": store_url,
        "model__rehearse": True,
    }
    with receiving(0) as receiver:
        process, at = await asyncio.to_thread(lone, settings)
        with process:
            async with anthropic.AsyncAnthropic(base_url=at["url"], api_key=at["key"]) as client:
                endpoint = {"url": receiver.url, "enabled_events": ["agent.created"]}
                await client.post("/hostler/v1/webhook_endpoints", body=endpoint, cast_to=object)
                await client.beta.agents.create(name="A", model="claude-opus-5-5")
            await receiver.until(lambda got: len(got) == 1)
            process.kill()
        process, _ = await asyncio.to_thread(lone, settings)
        with process:
            await receiver.until(lambda got: len(got) == 2)
    assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]


async def test_of_two_rotations_at_once_both_secrets_sign(house: House) -> None:
    with receiving() as receiver:
        endpoint = await listen(house, receiver.url, "agent.created")
        path = f"/webhook_endpoints/{endpoint['id']}"
        for _ in range(5):
            async with asyncio.TaskGroup() as tasks:
                rotations = [
                    tasks.create_task(own(house, "POST", f"{path}/rotate_secret", {"grace_seconds": 60}))
                    for _ in range(2)
                ]
            await own(house, "POST", f"{path}/test", {})
            for rotation in rotations:
                unwrapped(house, receiver.got[-1], rotation.result()["signing_secret"])


async def test_an_event_recorded_beside_the_disabling_is_not_told(tmp_path: Path, server_cluster: Any) -> None:
    async with open_house(tmp_path, server_cluster.create_database("beside_disabling"), **FAST) as house:
        assert house.hostler is not None
        database, begun = house.hostler.database, asyncio.Event()
        with receiving() as receiver:
            endpoint = await listen(house, receiver.url, "agent.created")

            def slow(connection: Connection) -> None:
                # Without the audit's entry, whose place in the order the other one would wait for.
                late = [("agent.created", {"id": "agent_late"})]
                emit_all(connection, database.now(connection), "wrkspc_default", late)
                begun.set()
                # Committed only when the endpoint is disabled, which this transaction can't see coming.
                while connection.exec_driver_sql("SELECT state FROM webhook_endpoints").scalar() == "enabled":
                    connection.exec_driver_sql("SELECT pg_sleep(0.01)")

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(database.write(slow))
                await begun.wait()
                await own(house, "POST", f"/webhook_endpoints/{endpoint['id']}", {"state": "disabled"})
            delivery = await until_settled(house, endpoint["id"])
        assert (delivery["state"], delivery["attempts"], receiver.got) == ("dropped", [], [])


@pytest.mark.parametrize("deadline", [0.5, 15.0, 300.0])
def test_a_delivery_is_leased_for_longer_than_an_attempt_takes(tmp_path: Path, deadline: float) -> None:
    settings = load({}, state_dir=str(tmp_path), webhooks__deadline_seconds=deadline)
    assert compose.webhook_lease_seconds(settings) >= deadline + 30


@pytest.mark.one_database
async def test_tests_of_a_silent_endpoint_are_refused_when_too_many_are_under_way(house: House) -> None:
    with receiving(*[0] * TESTS_AT_ONCE) as receiver:
        path = f"/webhook_endpoints/{(await listen(house, receiver.url, EVERYTHING))['id']}/test"
        client = house.client.with_options(max_retries=0)

        async def test() -> object:
            return await client.post(f"/hostler/v1{path}", body={}, cast_to=object)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(TESTS_AT_ONCE):
                tasks.create_task(test())
            await receiver.until(lambda got: len(got) == TESTS_AT_ONCE)
            with pytest.raises(anthropic.RateLimitError, match="wait until one of them has ended"):
                await test()
            receiver.silent.set()
        await test()
