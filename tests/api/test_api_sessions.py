"""What the HTTP layer does with sessions: parsing, pages, whole-or-nothing requests."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from apikit_sessions import message

MODEL = "claude-opus-5-5"


@pytest.fixture
def ids(client: anthropic.Anthropic) -> dict[str, str]:
    """An agent and an environment, as arguments of create."""
    agent = client.beta.agents.create(name="n", model=MODEL, system="s", tools=[{"type": "agent_toolset_20260401"}])
    return {"agent": agent.id, "environment_id": client.beta.environments.create(name="e").id}


def test_agent_can_be_named_in_three_ways(client: anthropic.Anthropic, ids: dict[str, str]) -> None:
    client.beta.agents.update(ids["agent"], name="later")

    def create(agent: Any) -> Any:
        return client.beta.sessions.create(agent=agent, environment_id=ids["environment_id"]).agent

    assert (create(ids["agent"]).version, create(ids["agent"]).name) == (2, "later")
    assert create({"type": "agent", "id": ids["agent"], "version": 1}).name == "n"
    replaced = create(
        {
            "type": "agent_with_overrides",
            "id": ids["agent"],
            "model": {"id": "claude-sonnet-5-5", "effort": "max"},
            "system": None,
            "tools": [],
        }
    )
    assert (replaced.version, replaced.system, replaced.tools) == (2, None, [])
    assert (replaced.model.id, replaced.model.effort.type) == ("claude-sonnet-5-5", "high")
    inherited = create({"type": "agent_with_overrides", "id": ids["agent"]})
    assert (inherited.system, len(inherited.tools), inherited.model.id) == ("s", 1, MODEL)


@pytest.mark.parametrize(
    ("fields", "text", "code"),
    [
        (
            {"agent": {"type": "agent_with_overrides", "model": None}},
            "agent.model: can't be cleared",
            "agent_model_required",
        ),
        ({"agent": {"type": "agent", "version": 0}}, "agent.version: must be at least 1", None),
        ({"agent": {"type": "agents"}}, "agent: has type 'agents'", None),
        ({"agent": ""}, "agent.*is not an identifier", None),
        ({"environment_id": None}, "environment_id: must be a string", None),
        ({"vault_ids": ["vlt_1", "vlt_1"]}, "vault_ids: names a vault twice", None),
        ({"resources": [{"type": "bucket"}]}, "resources", None),
        ({"budget": {"type": "limit"}}, "budget.max_list_cost: is required", None),
        ({"title": "x" * 501}, "title: must have at most 500", None),
        ({"initial_events": [message("a"), {"type": "user.interrupt"}]}, r"initial_events\[1\].type: is user", None),
        ({"initial_events": [message("a"), message(" ")]}, r"initial_events\[1\].content\[0\]: has empty", None),
        ({"initial_events": [message("a")] * 51}, "initial_events: has 51 events", None),
        ({"initial_events": "hello"}, "initial_events: must be an array", None),
    ],
)  # fmt: skip
def test_one_bad_field_and_nothing_is_created(
    client: anthropic.Anthropic, ids: dict[str, str], fields: dict[str, Any], text: str, code: str | None
) -> None:
    if isinstance(fields.get("agent"), dict):
        fields = {"agent": fields["agent"] | {"id": ids["agent"]}}
    with pytest.raises(anthropic.BadRequestError, match=text) as caught:
        client.beta.sessions.create(**ids, extra_body=fields)
    details = caught.value.body["error"].get("details")  # type: ignore[index]
    assert details == (None if code is None else {"error_code": code})
    assert client.beta.sessions.list().data == []


def test_pages_lead_forth_and_back(client: anthropic.Anthropic, ids: dict[str, str]) -> None:
    made = [client.beta.sessions.create(**ids).id for _ in range(5)][::-1]
    first = client.beta.sessions.list(limit=2)
    assert ([row.id for row in first.data], first.prev_page) == (made[:2], None)
    second = client.beta.sessions.list(limit=2, page=first.next_page or "")
    assert [row.id for row in second.data] == made[2:4]
    back = client.beta.sessions.list(limit=2, page=second.prev_page or "")
    assert [row.id for row in back.data] == made[:2]
    third = client.beta.sessions.list(limit=2, page=second.next_page or "")
    assert ([row.id for row in third.data], third.next_page) == (made[4:], None)
    assert [row.id for row in client.beta.sessions.list(limit=2)] == made
    assert [row.id for row in client.beta.sessions.list(limit=2, order="asc")] == made[::-1]
    with pytest.raises(anthropic.BadRequestError, match="another order"):
        client.beta.sessions.list(page=first.next_page or "", order="asc")


def test_filters_of_things_that_do_not_exist_match_nothing(client: anthropic.Anthropic, ids: dict[str, str]) -> None:
    made = client.beta.sessions.create(**ids)
    assert client.beta.sessions.list(deployment_id="depl_1").data == []
    assert client.beta.sessions.list(memory_store_id="memstore_1").data == []
    assert client.beta.sessions.list(agent_id="agent_other").data == []
    assert [row.id for row in client.beta.sessions.list(agent_id=ids["agent"], statuses=["idle"])] == [made.id]
    with pytest.raises(anthropic.BadRequestError, match="agent_version: needs agent_id"):
        client.beta.sessions.list(agent_version=1)


def test_update_tells_left_out_from_null(client: anthropic.Anthropic, ids: dict[str, str]) -> None:
    made = client.beta.sessions.create(**ids, title="t", metadata={"a": "1"})
    changed = client.beta.sessions.update(made.id, metadata={"b": "2"})
    assert (changed.title, changed.metadata) == ("t", {"a": "1", "b": "2"})
    assert client.beta.sessions.update(made.id, title=None).title is None
    assert client.beta.sessions.update(made.id, agent={"tools": []}).agent.tools == []
    for fields, text in (
        ({"vault_ids": []}, "vault_ids: is fixed"),
        ({"agent": {"system": "x"}}, "agent.system: is not a field"),
        ({"agent": {"mcp_servers": [{"type": "url"}]}}, r"agent.mcp_servers\[0\].name: is required"),
        ({"budget": {"type": "limit"}}, "budget.max_list_cost: is required"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=text):
            client.beta.sessions.update(made.id, extra_body=fields)


def test_events_are_paged_filtered_and_ordered(client: anthropic.Anthropic, ids: dict[str, str]) -> None:
    session = client.beta.sessions.create(**ids, initial_events=[message("0")])
    for number in range(1, 5):
        sent = client.beta.sessions.events.send(session.id, events=[message(str(number)), {"type": "user.interrupt"}])
        assert [event.type for event in sent.data or []] == ["user.message", "user.interrupt"]
    events = list(client.beta.sessions.events.list(session.id, limit=2))
    assert len(events) == len({event.id for event in events}) == 9
    texts = [event.content[0].text for event in events if event.type == "user.message"]  # type: ignore[union-attr]
    assert texts == ["0", "1", "2", "3", "4"]
    backwards = list(client.beta.sessions.events.list(session.id, limit=4, order="desc"))
    assert [event.id for event in backwards] == [event.id for event in events][::-1]
    interrupts = client.beta.sessions.events.list(session.id, types=["user.interrupt"], limit=1000)
    assert len(interrupts.data) == 4
    thread = next(iter(client.beta.sessions.threads.list(session.id)))
    same = client.beta.sessions.threads.events.list(thread.id, session_id=session.id, limit=3)
    assert [event.id for event in same] == [event.id for event in events]
    for refused in ({"types": ["session.deleted"]}, {"limit": 1001}, {"page": "x"}):
        with pytest.raises(anthropic.BadRequestError):
            client.beta.sessions.events.list(session.id, **refused)  # type: ignore[arg-type]


def test_bad_event_takes_the_whole_request_down(client: anthropic.Anthropic, ids: dict[str, str]) -> None:
    session = client.beta.sessions.create(**ids)
    with pytest.raises(anthropic.BadRequestError, match=r"events\[1\].content\[0\].text: is required"):
        client.beta.sessions.events.send(
            session.id, events=[message("a"), {"type": "user.message", "content": [{"type": "text"}]}]  # type: ignore[list-item,typeddict-item]
        )  # fmt: skip
    assert client.beta.sessions.events.list(session.id).data == []


def test_thread_endpoints_know_the_primary_thread_only(client: anthropic.Anthropic, ids: dict[str, str]) -> None:
    session = client.beta.sessions.create(**ids)
    (thread,) = client.beta.sessions.threads.list(session.id)
    assert client.beta.sessions.threads.retrieve(thread.id, session_id=session.id).to_dict() == thread.to_dict()
    assert thread.parent_thread_id is None
    assert client.beta.sessions.threads.list(session.id, statuses=["running"]).data == []
    assert len(client.beta.sessions.threads.list(session.id, statuses=["running", "idle"]).data) == 1
    with pytest.raises(anthropic.BadRequestError, match="primary thread"):
        client.beta.sessions.threads.archive(thread.id, session_id=session.id)
    with pytest.raises(anthropic.NotFoundError):
        client.beta.sessions.threads.retrieve("sthr_other", session_id=session.id)


def test_archive_and_delete_answer_in_the_shape_of_the_contract(
    client: anthropic.Anthropic, ids: dict[str, str]
) -> None:
    session = client.beta.sessions.create(**ids)
    assert client.beta.sessions.archive(session.id).status == "terminated"
    assert client.beta.sessions.archive(session.id).archived_at is not None
    assert client.beta.sessions.delete(session.id).to_dict() == {"id": session.id, "type": "session_deleted"}
    with pytest.raises(anthropic.NotFoundError):
        client.beta.sessions.retrieve(session.id)
