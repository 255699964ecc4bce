"""Variables of sessions: placeholders that stay, secrets that are read anew for each request, scopes that hold."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from brokerkit import WORKSPACE, Bench

from hostler.domain.errors import InvalidRequest, NotFound, SecretUnreadable
from hostler.domain.values import parse
from hostler.domain.variables import steers
from hostler.domain.vaults import CreateCredential
from hostler.engine.egress_port import EgressRules, HostRule, VariableUse
from hostler.engine.placeholders import PLACEHOLDER
from hostler.engine.ports import Sealer
from hostler.engine.trust import VARIABLES
from hostler.engine.variables import BrokeredVariables, VariableBroker, is_for
from hostler.harness.claude import ClaudeHarness
from hostler.store import variables as rows
from hostler.store.sessions import SessionRow, delete_session
from hostler.store.tables_vaults import credential_uses, credentials, session_placeholders

PUBLIC = EgressRules("public")
GITHUB: Any = {"type": "limited", "allowed_hosts": ["api.github.com", "*.example.com", "192.0.2.1"]}


async def of(bench: Bench, session: SessionRow, rules: EgressRules = PUBLIC) -> BrokeredVariables:
    found = await bench.variables.of(session, rules)
    assert found is not None
    return found


async def values(variables: BrokeredVariables, host: str = "a.example.com") -> dict[str, str | None]:
    return {variable.name: variable.value for variable in await variables.open(host)}


async def test_a_placeholder_is_drawn_once_for_each_session_and_credential(bench: Bench) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault, value="canary-one")
    session, other = await bench.session(vault), await bench.session(vault)
    first = (await of(bench, session)).placeholders
    assert PLACEHOLDER.fullmatch(first["TOKEN"].encode())
    assert "canary" not in first["TOKEN"]
    assert (await of(bench, session)).placeholders == first, "a process that is started again finds the same"
    assert (await of(bench, other)).placeholders["TOKEN"] != first["TOKEN"]
    await bench.change(vault, credential, {"type": "environment_variable", "secret_value": "canary-two"})
    assert (await of(bench, session)).placeholders == first, "and so it does after a rotation"
    assert await values(await of(bench, session)) == {"TOKEN": "canary-two"}


async def test_a_session_without_vaults_has_no_variables(bench: Bench) -> None:
    assert await bench.variables.of(await bench.session(), PUBLIC) is None
    assert (await of(bench, await bench.session(await bench.vault()))).placeholders == {}


async def test_the_first_vault_with_a_name_wins(bench: Bench) -> None:
    one, two = await bench.vault(), await bench.vault()
    await bench.variable(two, "B", "canary-two-b")
    await bench.variable(two, "A", "canary-two-a")
    await bench.variable(one, "A", "canary-one-a")
    assert await values(await of(bench, await bench.session(one, two))) == {"A": "canary-one-a", "B": "canary-two-b"}
    assert await values(await of(bench, await bench.session(two, one))) == {"A": "canary-two-a", "B": "canary-two-b"}


async def test_only_hosts_of_the_credential_get_its_secret(bench: Bench) -> None:
    vault = await bench.vault()
    await bench.variable(vault, networking=GITHUB)
    variables = await of(bench, await bench.session(vault))
    for host in ("api.github.com", "a.example.com", "a.b.example.com", "192.0.2.1"):
        assert variables.concerns(host)
        assert await values(variables, host) == {"TOKEN": "canary-value"}
    for host in (
        "github.com",
        "xapi.github.com",
        "api.github.com.evil.tld",
        "example.com",
        "evilexample.com",
        ".example.com",
    ):
        assert not variables.concerns(host)
        assert await values(variables, host) == {"TOKEN": None}
    assert not is_for({"type": "limited", "allowed_hosts": []}, "a.example.com"), "the empty list means nothing"


@pytest.mark.parametrize("how", ["archive", "delete", "vault"])
async def test_what_is_taken_away_is_gone_for_sessions_that_run(bench: Bench, how: str) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault)
    session = await bench.session(vault)
    variables = await of(bench, session)
    assert await values(variables) == {"TOKEN": "canary-value"}
    match how:
        case "archive":
            await bench.credentials.archive(WORKSPACE, vault, credential)
        case "delete":
            await bench.credentials.delete(WORKSPACE, vault, credential)
        case _:
            await bench.vaults.archive(WORKSPACE, vault)
    assert await values(variables) == {}
    assert (await of(bench, session)).placeholders == {}


async def test_changed_hosts_and_new_variables_count_at_once_or_with_the_next_process(bench: Bench) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault, networking=GITHUB)
    session = await bench.session(vault)
    running = await of(bench, session)
    elsewhere = {"type": "limited", "allowed_hosts": ["new.example.org"]}
    await bench.change(vault, credential, {"type": "environment_variable", "networking": elsewhere})
    assert await values(running, "api.github.com") == {"TOKEN": None}
    assert running.concerns("new.example.org"), "it has read so on the way"
    assert await values(running, "new.example.org") == {"TOKEN": "canary-value"}
    await bench.variable(vault, "OTHER")
    assert await values(running) == {"TOKEN": None}, "what has no placeholder yet can't be asked for"
    newer = await of(bench, session)
    assert set(newer.placeholders) == {"TOKEN", "OTHER"}
    assert newer.placeholders["TOKEN"] == running.placeholders["TOKEN"]
    running.follow(newer)
    assert running.concerns("anything.example.net")


async def test_a_scope_keeps_other_sessions_out(bench: Bench) -> None:
    vault, agent = await bench.vault(), await bench.agent()
    session, other = await bench.session(vault, agent=agent), await bench.session(vault)
    for name, scope in {
        "ALL": {"type": "workspace"},
        "AGENT": {"type": "agent", "agent_ids": ["agent_x", agent], "access": "read"},
        "SESSION": {"type": "session", "session_ids": [session.id]},
    }.items():
        await bench.variable(vault, name, scope=scope)
    assert set((await of(bench, session)).placeholders) == {"ALL", "AGENT", "SESSION"}
    assert set((await of(bench, other)).placeholders) == {"ALL"}
    reading = {variable.name: variable.read_only for variable in await (await of(bench, session)).open("a.example.com")}
    assert reading == {"ALL": False, "AGENT": True, "SESSION": False}


async def test_narrowing_a_scope_takes_the_variable_from_a_running_session(bench: Bench) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault)
    variables = await of(bench, await bench.session(vault))
    scope = {"type": "session", "session_ids": ["sesn_other"]}
    await bench.change(vault, credential, {"type": "environment_variable", "scope": scope})
    assert await values(variables) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"networking": {"type": "limited", "allowed_hosts": ["evil.example.com"]}},
        {"networking": {"type": "unrestricted"}},
        {"scope": {"type": "workspace", "access": "read_write"}},
        {"injection_location": {"header": True, "body": True}},
        {"secret_name": "OTHER"},
    ],
)
async def test_who_writes_to_the_database_can_not_send_a_secret_elsewhere(bench: Bench, change: Any) -> None:
    vault = await bench.vault()
    narrow = {"networking": GITHUB, "injection_location": {"header": True}}
    credential = await bench.variable(vault, **narrow, scope={"type": "workspace", "access": "read"})
    variables = await of(bench, await bench.session(vault))
    auth = (await bench.credentials.retrieve(WORKSPACE, vault, credential))["auth"]
    row = credentials.update().where(credentials.c.id == credential).values(auth=json.dumps({**auth, **change}))
    await bench.database.write(lambda conn: conn.execute(row))
    with pytest.raises(SecretUnreadable):
        await variables.open("evil.example.com" if "networking" in change else "api.github.com")


async def test_a_name_that_was_stored_and_steers_programs_is_not_set(bench: Bench) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault)
    auth = (await bench.credentials.retrieve(WORKSPACE, vault, credential))["auth"]
    row = credentials.update().where(credentials.c.id == credential)
    text = json.dumps({**auth, "secret_name": "LD_PRELOAD"})
    await bench.database.write(lambda conn: conn.execute(row.values(auth=text)))
    assert (await of(bench, await bench.session(vault))).placeholders == {}


def test_what_hostler_itself_sets_is_never_a_variable() -> None:
    class Spec:
        settings: dict[str, str] = {}  # noqa: RUF012
        compact_at_percent = None
        compact_at_tokens = 50_000

    own = [*ClaudeHarness().environment(Spec()), *(variable.name for variable in VARIABLES)]  # type: ignore[arg-type]
    assert [name for name in own if not steers(name)] == []
    for name in ("GITHUB_TOKEN", "NODE_AUTH_TOKEN", "GIT_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "TOKEN"):
        assert not steers(name)


def test_half_a_surrogate_is_no_secret() -> None:
    auth = {"type": "environment_variable", "secret_name": "A", "networking": {"type": "unrestricted"}}
    with pytest.raises(InvalidRequest, match=r"auth\.secret_value"):
        parse(CreateCredential, {"auth": {**auth, "secret_value": "canary\ud800"}})


@pytest.mark.parametrize(
    ("rules", "out"),
    [
        (PUBLIC, []),
        (EgressRules("listed", ("api.github.com", "*.example.com")), ["192.0.2.1"]),
        (EgressRules("listed", ("a.example.com",), rules=(HostRule("api.github.com"),)), ["192.0.2.1"]),
        (EgressRules("listed", ("*.github.com",)), ["*.example.com", "192.0.2.1"]),
        (EgressRules("listed", ("example.com", "evilexample.com")), ["api.github.com", "*.example.com", "192.0.2.1"]),
    ],
)
async def test_hosts_that_the_environment_forbids_are_told_once(
    bench: Bench, rules: EgressRules, out: list[str]
) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault, networking=GITHUB)
    session = await bench.session(vault)
    told = (await of(bench, session, rules)).unreachable
    assert [one.credential_id for one in told] == ([credential] if out else [])
    assert all(", ".join(out) in one.message for one in told)
    assert (await of(bench, session, rules)).unreachable == ()


async def test_uses_are_kept_when_session_and_credential_are_gone(bench: Bench) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault)
    session = await bench.session(vault)
    variables = await of(bench, session)
    use = VariableUse(vault, credential, "GET\x00", "a.example.com", 443, "header", "substituted")
    await variables.used([use])
    variables.note(VariableUse(vault, credential, "POST", "a.example.com", 443, "body", "substituted"))
    await bench.variables.close()
    page = await bench.database.read(lambda conn: rows.page_of_uses(conn, WORKSPACE, session.id, limit=9))
    assert sorted((row.method, row.place) for row in page.rows) == [("GET\ufffd", "header"), ("POST", "body")]
    with pytest.raises(NotFound):
        await bench.database.read(lambda conn: rows.page_of_uses(conn, "wrkspc_other", session.id, limit=9))
    await bench.database.write(lambda conn: delete_session(conn, WORKSPACE, session.id))
    await bench.vaults.delete(WORKSPACE, vault)

    def counts(conn: sa.Connection) -> tuple[int, int]:
        uses = conn.execute(sa.select(sa.func.count()).select_from(credential_uses)).scalar_one()
        return uses, conn.execute(sa.select(sa.func.count()).select_from(session_placeholders)).scalar_one()

    assert await bench.database.read(counts) == (2, 0)


@dataclass
class Counting:
    """Implements `Sealer`, and counts what it opens."""

    sealer: Sealer
    opened: int = 0

    def seal(self, context: str, secret: bytes) -> str:
        return self.sealer.seal(context, secret)

    def open(self, context: str, sealed: str) -> bytes:
        self.opened += 1
        return self.sealer.open(context, sealed)


async def test_requests_at_once_share_a_reading_and_a_rotation_counts_for_whoever_asks_after_it(bench: Bench) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault, value="canary-0")
    counting = Counting(bench.sealer)
    broker = VariableBroker(bench.database, counting)
    variables = await broker.of(await bench.session(vault), PUBLIC)
    assert variables is not None
    async with asyncio.TaskGroup() as group:
        at_once = [group.create_task(values(variables)) for _ in range(20)]
    assert [task.result() for task in at_once] == [{"TOKEN": "canary-0"}] * 20
    assert counting.opened < 5
    for number in range(1, 6):
        async with asyncio.TaskGroup() as group:
            before = [group.create_task(values(variables)) for _ in range(20)]
            await bench.change(vault, credential, {"type": "environment_variable", "secret_value": f"canary-{number}"})
            assert await values(variables) == {"TOKEN": f"canary-{number}"}
        assert {task.result()["TOKEN"] for task in before} <= {f"canary-{number - 1}", f"canary-{number}"}
    await broker.close()


async def test_a_secret_that_can_not_be_opened_keeps_no_other_session_waiting(bench: Bench) -> None:
    broken, whole = await bench.vault(), await bench.vault()
    credential = await bench.variable(broken)
    await bench.variable(whole)
    first, second = await of(bench, await bench.session(broken)), await of(bench, await bench.session(whole))
    auth = (await bench.credentials.retrieve(WORKSPACE, broken, credential))["auth"]
    changed = json.dumps({**auth, "scope": {"type": "workspace", "access": "read"}})
    row = credentials.update().where(credentials.c.id == credential).values(auth=changed)
    await bench.database.write(lambda conn: conn.execute(row))

    async def refused() -> None:
        with pytest.raises(SecretUnreadable):
            await first.open("a.example.com")

    async with asyncio.TaskGroup() as group:
        group.create_task(refused())
        fine = group.create_task(values(second))
    assert fine.result() == {"TOKEN": "canary-value"}


async def test_every_use_of_twenty_at_once_is_written_down(bench: Bench) -> None:
    vault = await bench.vault()
    credential = await bench.variable(vault)
    session = await bench.session(vault)
    variables = await of(bench, session)
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            use = VariableUse(vault, credential, "GET", f"h{number}.example.com", 443, "header", "substituted")
            group.create_task(variables.used([use]))
    page = await bench.database.read(lambda conn: rows.page_of_uses(conn, WORKSPACE, session.id, limit=30))
    assert [row.host for row in page.rows] == [f"h{number}.example.com" for number in reversed(range(20))]
