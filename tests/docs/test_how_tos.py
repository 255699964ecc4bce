"""What the how-to pages tell people to write: it runs, and does what they say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from docpages import DOCS, blocks
from hookkit import receiving
from housekit import ASK_FOR_BASH, DEADLINE, custom
from narrow import NARROW
from standardwebhooks import WebhookVerificationError
from test_tutorial import run_blocks

from hostler import compose, config
from hostler.domain.environments import CloudConfigRequest
from hostler.domain.retention import HARMLESS
from hostler.domain.routing import OperatorRouting
from hostler.domain.values import parse
from hostler.domain.webhooks import EVENT_TYPES
from hostler.store import ledger
from hostler.testing.rehearsal import prompt, step, tool

HOW_TO = DOCS / "how-to"
PAGES = sorted(HOW_TO.glob("*.md"))


class Running:
    """A server, and its client as the pages use it: without asyncio."""

    def __init__(self, hostler: compose.Hostler, client: anthropic.Anthropic) -> None:
        self.hostler = hostler
        self.client = client

    async def does(self, page: str) -> dict[str, Any]:
        """Run the Python of a page. Returns what it defined."""
        names: dict[str, Any] = {"__name__": page, "client": self.client}
        await self.call(run_blocks, blocks((HOW_TO / page).read_text("utf-8")), names)
        return names

    async def call(self, function: Any, *args: Any) -> Any:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.to_thread(function, *args)

    async def session(self, environment: str, tools: list[Any], said: str) -> str:
        beta = self.client.beta
        agent = await self.call(lambda: beta.agents.create(name="A", model="claude-opus-5-5", tools=tools))
        message: Any = {"type": "user.message", "content": [{"type": "text", "text": said}]}
        made = await self.call(
            lambda: beta.sessions.create(agent=agent.id, environment_id=environment, initial_events=[message])
        )
        return str(made.id)

    async def environment(self) -> str:
        closed: Any = {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
        return str((await self.call(lambda: self.client.beta.environments.create(name="closed", config=closed))).id)

    async def events(self, session: str) -> list[Any]:
        return list(await self.call(lambda: list(self.client.beta.sessions.events.list(session, limit=1000))))


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    settings = config.load({"HOME": str(tmp_path), **NARROW}, state_dir=str(tmp_path / "state"), server__port=0)
    async with compose.running(settings) as hostler:
        _, secret = await compose.create_key(hostler.database, "how-to")
        with anthropic.Anthropic(base_url=hostler.base_url, api_key=secret) as client:
            yield Running(hostler, client)


async def test_page_of_one_world_puts_agents_there(server: Running) -> None:
    page = await server.does("put-agents-in-one-world.md")
    assert [each["live"] for each in page["rooms"][0]["sessions"]] == [False, False]


async def test_page_of_approvals_answers_what_waits(server: Running) -> None:
    page = await server.does("answer-approvals.md")
    steps = [
        step(tool("bash", command="ls"), tool("bash", command="touch ran"), tool("customer", q="x")),
        step("Heard {{last_tool_result}}"),
    ]
    session = await server.session(await server.environment(), [*ASK_FOR_BASH, custom("customer")], prompt(steps))
    assert await server.call(page["follow"], server.client, session, page["decide"]) == "end_turn"
    log = await server.events(session)
    confirmed = [event.result for event in log if event.type == "user.tool_confirmation"]
    assert confirmed == ["allow", "deny"]
    assert await server.call(page["waiting_calls"], server.client, session) == []
    assert "No such customer." in log[-5].content[0].text
    workspace = server.hostler.settings.state_dir / "sessions" / session / "workspace"
    assert not (workspace / "ran").exists()


async def test_page_of_approvals_gives_up(server: Running) -> None:
    page = await server.does("answer-approvals.md")
    asks = prompt([step(tool("bash", command="touch ran")), step("Never.")])
    session = await server.session(await server.environment(), ASK_FOR_BASH, asks)

    def look() -> list[Any]:
        with server.client.beta.sessions.events.stream(session) as stream:
            if calls := page["waiting_calls"](server.client, session):
                return list(calls)
            next(event for event in stream if event.type == "session.status_idle")
        return list(page["waiting_calls"](server.client, session))

    assert [call.name for call in await server.call(look)] == ["bash"]
    await server.call(page["never_mind"], server.client, session, prompt([step("Something else.")]))
    assert await server.call(page["follow"], server.client, session, page["decide"]) == "end_turn"
    said = [event.content[0].text for event in await server.events(session) if event.type == "agent.message"]
    assert said == ["Something else."]


async def test_page_of_sharing_makes_keys_sets_quotas_and_shows_what_waits(server: Running) -> None:
    page = await server.does("share-one-server.md")
    key = await server.call(lambda: page["make_key"](server.client, "r", ["read"], expires_in_seconds=60))
    with anthropic.Anthropic(base_url=server.hostler.base_url, api_key=key["secret"], max_retries=0) as reader:
        assert await server.call(lambda: list(reader.beta.agents.list())) == []
        with pytest.raises(anthropic.PermissionDeniedError):
            await server.call(lambda: reader.beta.agents.create(name="n", model="claude-opus-5-5"))
    default = key["workspace_id"]
    limits = await server.call(lambda: page["set_quotas"](server.client, default, live_sessions=9, storage_bytes=None))
    assert limits["overrides"] == {"live_sessions": 9}
    assert await server.call(lambda: list(page["waiting"](server.client))) == []
    asks = prompt([step(tool("bash", command="ls")), step("Never.")])
    session = await server.session(await server.environment(), ASK_FOR_BASH, asks)
    approvals = await server.does("answer-approvals.md")

    def look() -> None:
        with server.client.beta.sessions.events.stream(session) as stream:
            if not approvals["waiting_calls"](server.client, session):
                next(event for event in stream if event.type == "session.status_idle")

    await server.call(look)
    (row,) = await server.call(lambda: list(page["waiting"](server.client)))
    assert (row["session_id"], row["tool_name"], row["input"]) == (session, "bash", {"command": "ls"})


async def test_page_of_what_is_kept_tries_and_removes(server: Running) -> None:
    page = await server.does("limit-what-is-kept.md")
    for dry_run in (True, False):
        run = await server.call(lambda dry=dry_run: page["run_retention"](server.client, dry))
        assert (run["state"], run["dry_run"]) == ("completed", dry_run)
    text = (HOW_TO / "limit-what-is-kept.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \|.*\| (.*?) \|$", text, re.MULTILINE)
    named = {name: days for names, days in rows for name in re.findall(r"`(\w+)`", names)}
    told = {name: f"{days} day{'s' if days > 1 else ''}" if days else "never" for name, days in HARMLESS.items()}
    assert named == told


async def test_page_of_packages_names_what_is_taken(server: Running) -> None:
    made = (await server.does("install-packages.md"))["environment"]
    assert made.config.packages.npm == ["typescript@5.6.3"]
    text = (HOW_TO / "install-packages.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 6
    packages: Any = {name: re.findall(r"`([^`@][^`]*|@\w+/[^`]*)`", entries) for name, entries in rows}
    config: Any = {"type": "cloud", "packages": packages}
    shown = await server.call(lambda: server.client.beta.environments.create(name="all", config=config))
    assert {name: getattr(shown.config.packages, name) for name in packages} == packages


async def test_page_of_limits(server: Running) -> None:
    made = (await server.does("choose-limits.md"))["environment"]
    assert made.config.to_dict()["hosting"] == {"idle_timeout_seconds": 0}


async def test_page_of_rules_makes_an_agent_and_a_file(server: Running) -> None:
    agent = (await server.does("choose-models-by-rule.md"))["agent"]
    assert [rule["id"] for rule in agent.to_dict()["routing"]["rules"]] == ["helpers", "summaries", "batch-at-night"]
    text = (HOW_TO / "choose-models-by-rule.md").read_text("utf-8")
    parse(OperatorRouting, json.loads(next(block.body for block in blocks(text) if block.name == "json")))


async def test_page_of_spares(server: Running) -> None:
    made = (await server.does("keep-warm-spares.md"))["environment"]
    assert made.config.to_dict()["hosting"] == {"spares": 2}
    health = await server.call(lambda: server.client.get("/hostler/v1/health", cast_to=dict[str, Any]))
    page = (HOW_TO / "keep-warm-spares.md").read_text("utf-8")
    assert all(f"| `{name}` |" in page for name in health["spares"])


async def test_page_of_hosts_shows_the_denial_and_its_record(server: Running) -> None:
    made = (await server.does("let-an-agent-reach-a-host.md"))["environment"]
    tools: list[Any] = [{"type": "agent_toolset_20260401"}]
    asks = prompt(
        [step(tool("bash", command="curl -sS -i http://example.com/; curl -sS https://example.com/")), step(".")]
    )
    session = await server.session(made.id, tools, asks)
    page = await server.does("answer-approvals.md")
    await server.call(page["follow"], server.client, session, page["decide"])
    outcome = next(event for event in await server.events(session) if event.type == "agent.tool_result")
    text = (HOW_TO / "let-an-agent-reach-a-host.md").read_text("utf-8")
    shown = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    for line in (*(line for line in shown if "Hostler denied" in line or "x-hostler" in line), "response 403"):
        assert line in outcome.content[0].text
    statement = next(block.body for block in blocks(text) if block.name == "sql").replace(":session", f"'{session}'")
    rows = await server.hostler.database.read(lambda c: c.exec_driver_sql(statement).all())
    hint = 'To allow it, add "example.com" to the allowed hosts of the environment.'
    assert [tuple(row)[1:] for row in rows] == [
        ("GET", "example.com", 80, "/", 0, "host_not_allowed", hint),
        ("CONNECT", "example.com", 443, "", 0, "host_not_allowed", hint),
    ]
    kept = await server.hostler.database.read(lambda c: ledger.list_egress(c, session))
    assert len(kept) == len(rows)


async def test_page_of_skills_teaches_one(server: Running, tmp_path: Path) -> None:
    page = await server.does("teach-an-agent-a-skill.md")
    follow = (await server.does("answer-approvals.md"))["follow"]
    environment, beta = await server.environment(), server.client.beta

    async def says(command: str) -> str:
        said = prompt([step(tool("bash", command=command)), step("Done.")])
        message: Any = {"type": "user.message", "content": [{"type": "text", "text": said}]}
        agent = page["agent"].id
        session = await server.call(
            lambda: beta.sessions.create(agent=agent, environment_id=environment, initial_events=[message])
        )
        await server.call(follow, server.client, session.id, None)
        result = next(event for event in await server.events(session.id) if event.type == "agent.tool_result")
        return str(result.content[0].text)

    command = "/mnt/skills/invoice-numbers/bin/invoice-number 2026 7"
    assert await says(command) == "INV-2026-00007"
    folder = tmp_path / "invoice-numbers"
    (folder / "bin").mkdir(parents=True)
    (folder / "SKILL.md").write_text(page["SKILL"])
    (folder / "bin" / "invoice-number").write_text("#!/bin/sh\necho $2/$1\n")
    version = await server.call(page["new_version"], folder)
    assert await says(command) == "INV-2026-00007"
    assert (await server.call(page["use_newest"], page["agent"].id)).skills[0].version == version.id
    assert await says(command) == "7/2026"


async def test_page_of_memory_remembers(server: Running) -> None:
    page = await server.does("remember-across-sessions.md")
    await server.call(page["append"], "/drinks.md", "Tea is fine.")
    tools: list[Any] = [{"type": "agent_toolset_20260401"}]
    agent = await server.call(lambda: server.client.beta.agents.create(name="A", model="claude-opus-5-5", tools=tools))
    follow = (await server.does("answer-approvals.md"))["follow"]
    environment = await server.environment()
    where = "/mnt/memory/user-preferences/drinks.md"
    first = f"cat {where}; echo Water >> {where}"
    for command, heard in ((first, "No coffee after noon.\nTea is fine."), (f"tail -1 {where}", "Water")):
        session = (await server.call(page["new_session"], agent.id, environment)).id
        said = prompt([step(tool("bash", command=command)), step("Done.")])
        message: Any = {"type": "user.message", "content": [{"type": "text", "text": said}]}
        await server.call(lambda s=session, m=message: server.client.beta.sessions.events.send(s, events=[m]))
        await server.call(follow, server.client, session, None)
        result = next(event for event in await server.events(session) if event.type == "agent.tool_result")
        assert result.content[0].text == heard
        async with asyncio.timeout(DEADLINE):
            while len(found := await server.call(page["history"], "/drinks.md")) < 3:  # noqa: ASYNC110 - not announced
                await asyncio.sleep(0.02)
    assert [(operation, author) for operation, author, _ in found] == [
        ("modified", "session_actor"), ("modified", "api_actor"), ("created", "api_actor"),
    ]  # fmt: skip


async def test_page_of_own_machines_runs_the_tools_there(server: Running, tmp_path: Path) -> None:
    page = await server.does("run-tools-on-your-own-machines.md")
    made: Any = await server.call(
        lambda: server.client.post(
            f"/hostler/v1/environments/{page['environment'].id}/keys", body={"name": "w"}, cast_to=dict[str, Any]
        )
    )
    workdir = tmp_path / "build"
    workdir.mkdir()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(
            page["serve"](server.hostler.base_url, page["environment"].id, made["secret"], str(workdir))
        )
        said = prompt([step(tool("bash", command="echo built > artefact")), step("{{last_tool_result}}Done.")])
        session = await server.call(page["ask"], said)
        serving.cancel()
    assert (workdir / "artefact").read_text() == "built\n"
    assert [event.type for event in await server.events(session)].count("user.tool_result") == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configuration_in_the_page_is_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page.read_text("utf-8"))):
        if block.name == "toml":
            file = tmp_path / f"{number}.toml"
            file.write_text(block.body)
            config.load({"HOME": "/nonexistent"}, file)


def test_defaults_in_the_page_of_limits_are_the_defaults(tmp_path: Path) -> None:
    written = next(b.body for b in blocks((HOW_TO / "choose-limits.md").read_text("utf-8")) if b.name == "toml")
    file = tmp_path / "hostler.toml"
    file.write_text(written)
    assert config.load({"HOME": "/nonexistent"}, file) == config.load({"HOME": "/nonexistent"})


async def test_pages_of_mcp_servers_and_permissions(server: Running) -> None:
    page = await server.does("connect-an-mcp-server.md")
    configs = {config.name: config for config in page["agent"].tools[0].configs}
    assert configs["search"].permission_policy.type == "always_allow"
    assert not configs["delete_book"].enabled
    assert page["agent"].tools[0].default_config.permission_policy.type == "always_ask"
    assert page["environment"].config.networking.allow_mcp_servers
    assert page["local"].to_dict()["local_mcp_servers"][0]["command"] == "python3"
    page = await server.does("choose-permissions.md")
    bash = next(config for config in page["agent"].tools[0].configs if config.name == "bash")
    assert bash.permission_policy.to_dict() == {"type": "auto", "verdict": "deny"}
    assert page["planner"].to_dict()["permission_mode"] == "plan"


async def test_page_of_webhooks_makes_tries_and_rotates(tmp_path: Path) -> None:
    with receiving() as receiver:
        loopback = {"webhooks__allow_http": True, "webhooks__private_allowed": ["127.0.0.1"]}
        settings = config.load(
            {"HOME": str(tmp_path), **NARROW}, state_dir=str(tmp_path / "state"), server__port=0, **loopback
        )
        async with compose.running(settings) as hostler:
            _, secret = await compose.create_key(hostler.database, "how-to")
            with anthropic.Anthropic(base_url=hostler.base_url, api_key=secret) as client:
                server = Running(hostler, client)
                page = await server.does("receive-webhooks.md")
                made = await server.call(page["make_endpoint"], client, receiver.url, ["agent.created"])
                sent = await server.call(page["try_out"], client, made["id"])
                assert [delivery["state"] for delivery in sent] == ["delivered"]
                headers, body = receiver.got[0]
                told = page["receive"](client, body.decode(), headers, made["signing_secret"])
                assert told == (sent[0]["event_id"], "agent.created", "agent_test")
                following = await server.call(page["rotate"], client, made["id"], 0)
                await server.call(page["try_out"], client, made["id"])
                headers, body = receiver.got[1]
                assert page["receive"](client, body.decode(), headers, following)[1] == "agent.created"
                with pytest.raises(WebhookVerificationError):
                    page["receive"](client, body.decode(), headers, made["signing_secret"])


def test_page_of_webhooks_names_every_event_type() -> None:
    table = (HOW_TO / "receive-webhooks.md").read_text("utf-8").split("## Event types")[1]
    assert set(re.findall(r"`([a-z_]+\.[a-z_]+)`", table)) == set(EVENT_TYPES)


async def test_page_of_vaults(server: Running) -> None:
    page = await server.does("keep-secrets-in-vaults.md")
    assert page["session"].vault_ids == [page["vault"].id]
    assert page["verdict"].status == "unknown", "nobody is there"
    listed = server.client.beta.vaults.credentials.list
    rows = await server.call(lambda: list(listed(page["vault"].id, include_archived=True)))
    active = {page["linear"].id: False, page["notion"].id: True, page["github"].id: True}
    assert {row.id: row.archived_at is None for row in rows} == active
    assert page["github"].auth.scope["agent_ids"] == [page["agent"].id]


async def test_page_of_isolation_shows_a_label(server: Running) -> None:
    page = await server.does("choose-an-isolation.md")
    assert page["label"]["earlier"] == []


async def test_production_is_what_its_page_says(server: Running) -> None:
    text = (HOW_TO / "go-to-production.md").read_text("utf-8")
    shown = next(json.loads(block.body) for block in blocks(text) if block.name == "json")
    parsed = parse(CloudConfigRequest, shown)
    assert parsed.preset == "production"
    loosened = [block.body for block in blocks(text) if block.name == "toml"][-1]
    assert {line.partition(" ")[0] for line in loosened.splitlines()[1:]} == {
        name for name in config.Presets.model_fields if name.startswith("production_")
    }


async def test_page_of_policies_tries_and_suggests(server: Running, tmp_path: Path) -> None:
    environment = await server.environment()
    session = await server.session(environment, [], "Hello.")
    database = server.hostler.database
    for host in ("cdn.example.com", "api.example.com"):
        await database.write(
            lambda c, host=host: ledger.record_egress(  # type: ignore[misc]
                c,
                database.now(c),
                session_id=session,
                method="CONNECT",
                host=host,
                port=443,
                allowed=True,
                reason="public_host",
            )
        )

    class Id:
        def __init__(self, id_: str) -> None:
            self.id = id_

    names = {"__name__": "page", "client": server.client, "environment": Id(environment), "session": Id(session)}
    await server.call(run_blocks, blocks((HOW_TO / "try-a-network-policy.md").read_text("utf-8")), names)


async def test_page_of_long_conversations_compacts_and_finds(server: Running) -> None:
    page = await server.does("keep-long-conversations.md")
    agent = await server.call(page["assistant"], server.client)
    assert agent.to_dict()["compaction"]["schedule"] == "monthly"
    session = await server.session(await server.environment(), [], prompt([step("Plum pudding it is.")]))
    await _until_idle(server, session, 1)
    assert await server.call(page["latest"], server.client, session) is None
    asked = await server.call(page["compact"], server.client, session, "Mind the pudding.")
    await _until_idle(server, session, 2)
    row = await server.call(page["latest"], server.client, session)
    assert (row["id"], row["state"]) == (asked["id"], "completed")
    found = await server.call(page["find"], server.client, session, "PLUM pudding")
    assert "Plum pudding it is." in [entry["text"] for entry in found]


async def _until_idle(server: Running, session: str, times: int) -> None:
    """Until it has gone idle so often."""

    def look() -> None:
        events = server.client.beta.sessions.events
        with events.stream(session) as stream:
            seen = [event.type for event in events.list(session, limit=1000)].count("session.status_idle")
            while seen < times:
                next(event for event in stream if event.type == "session.status_idle")
                seen += 1

    await server.call(look)
