"""Is a session one trace, from the HTTP request to the model, and is nothing in it that must not be?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anthropic
import pytest
from housekit import ALLOW_ALL, ASK_FOR_BASH, allow, open_house
from test_several_servers import two_houses

from hostler.testing.otlp import OtlpReceiver, ReceivedSpan, stands_under
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import step, text, tool

CANARY = "canary-4f1e7b"
"""In a prompt, in a tool's input, in its result and in the answer."""
SENT = "POST /v1/sessions/{session_id}/events"
CALLER = ("c0ffee00c0ffee00c0ffee00c0ffee00", "beefbeefbeefbeef")


def named(spans: Sequence[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.name == name]


def above(spans: Sequence[ReceivedSpan], name: str) -> list[str]:
    return [span.name for span in stands_under(spans, named(spans, name)[0])]


async def test_a_session_is_one_tree_without_content(tmp_path: Path, store_url: str) -> None:
    async with OtlpReceiver() as collector:
        async with open_house(
            tmp_path,
            store_url,
            telemetry__traces="otlp",
            telemetry__endpoint=collector.url,
            telemetry__headers="x-team=platform",
        ) as house:
            session = await house.session(ALLOW_ALL)
            house.client = house.new_client(default_headers={"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-01"})
            say = [
                step(
                    text(f"I look for {CANARY}."),
                    tool("bash", command=f"echo {CANARY}; curl -s http://denied.example.com/"),
                ),
                step(f"Found {CANARY}."),
            ]
            await house.turn(session, say)
            await collector.until(lambda spans: bool(named(spans, "claude_code.interaction")))
            await house.turn(session, "Again.")  # in the same process, which knows nothing of a second request
            spans = await collector.until(
                lambda s: len(named(s, "claude_code.interaction")) == len(named(s, "invoke_agent Coder")) == 2
            )
            health = await house.client.get("/hostler/v1/health", cast_to=dict)
        # One tree: whatever belongs to the session stands under the request that sent the message.
        trace = [span for span in spans if span.trace_id == CALLER[0]]
        tops = {span.span_id for span in trace if span.parent_id == CALLER[1]}
        for span in trace:
            line = [span, *stands_under(trace, span)]
            assert line[-1].span_id in tops, [each.name for each in line]
        turn = ["invoke_agent Coder", SENT]
        assert above(trace, "execute_tool bash") == turn
        assert above(trace, "start claude") == turn
        assert above(trace, "wait for a worker") == [SENT]
        inside = ["claude_code.llm_request", "claude_code.interaction", *turn]
        assert above(trace, "chat claude-opus-5-5") == inside
        assert above(trace, "egress denied") == ["execute_tool bash", *turn]
        # Each turn is under its own request, although `claude` was started for the first one.
        first, second = named(trace, "claude_code.interaction")
        assert stands_under(trace, first)[0] != stands_under(trace, second)[0]
        assert len(named(trace, SENT)) == 2
        # What they say.
        chat, called = named(trace, "chat claude-opus-5-5")[0], named(trace, "execute_tool bash")[0]
        assert chat.attributes["gen_ai.response.finish_reasons"] == ["tool_use"]
        assert chat.attributes["gen_ai.usage.output_tokens"] > 0
        assert chat.attributes["gen_ai.conversation.id"] == session
        assert {chat.resource["service.name"], first.resource["service.name"]} == {"hostler", "claude-code"}
        assert str(called.attributes["gen_ai.tool.call.id"]).startswith("toolu_")
        assert first.attributes["gen_ai.conversation.id"] == session
        assert collector.headers[0]["x-team"] == "platform"
        assert health["traces"]["failed"] == health["traces"]["dropped"] == health["traces"]["refused"] == 0
        everything = b"".join(collector.bodies)
        assert CANARY.encode() not in everything
        assert house.secret.encode() not in everything


async def test_a_turn_on_another_server_goes_on_with_the_trace(tmp_path: Path, server_cluster: PostgresCluster) -> None:
    async with OtlpReceiver() as collector:
        traced = {"telemetry__traces": "otlp", "telemetry__endpoint": collector.url, "telemetry__harness": False}
        async with two_houses(tmp_path, server_cluster, **traced) as pair:
            session = await pair.working.session(ASK_FOR_BASH)
            await pair.other.say(session, [step(tool("bash", command="true")), step("Done.")])
            blocked = await pair.other.until_idle(session)
            await pair.other.answer(session, allow(next(e for e in blocked if e.type == "agent.tool_use")))
            await pair.other.until_idle(session, len(blocked))
            spans = await collector.until(
                lambda spans: len(named(spans, "invoke_agent Coder")) == 2 and len(named(spans, SENT)) == 2
            )
    sent, answered = sorted(named(spans, SENT), key=lambda span: span.start)
    asked, resumed = sorted(named(spans, "invoke_agent Coder"), key=lambda span: span.start)
    servers = {span.resource["service.instance.id"] for span in (sent, answered)}
    assert len(servers | {asked.resource["service.instance.id"]}) == 2
    assert stands_under(spans, asked) == stands_under(spans, resumed) == [sent]
    assert resumed.links == ((answered.trace_id, answered.span_id),)
    assert asked.attributes["hostler.run.ended_as"] == "deferred"
    assert above(spans, "execute_tool bash") == ["invoke_agent Coder", SENT]


@pytest.mark.one_database
async def test_a_program_in_the_sandbox_says_spans_of_its_own_session_only(tmp_path: Path, store_url: str) -> None:
    forged = "dead" * 8
    send = "curl -s -p -x http://127.0.0.1:3128 -H 'content-type: application/json' --data-binary @- "
    script = (
        'say() { date +%s%N | sed \'s/.*/{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"\'$1\'",'
        '"spanId":"00f067aa0ba902b7","name":"\'$2\'","startTimeUnixNano":"&","endTimeUnixNano":"&",'
        '"attributes":[{"key":"user_prompt","value":{"stringValue":"\'$3\'"}}]}]}]}]}/\' | '
        f"{send} http://telemetry.hostler.internal/v1/traces; }}\n"
        f"say {forged} forged.span x; say $(echo $TRACEPARENT | cut -d- -f2) own.span {CANARY}"
    )
    async with OtlpReceiver() as collector:
        traced = {"telemetry__traces": "otlp", "telemetry__endpoint": collector.url}
        async with open_house(tmp_path, store_url, **traced) as house:
            session = await house.session(ALLOW_ALL)
            events = await house.turn(session, [step(tool("bash", command=script)), step("Done.")])
            [result] = [event for event in events if event.type == "agent.tool_result"]
            assert "rejectedSpans" in result.content[0].text
            spans = await collector.until(lambda spans: bool(named(spans, "own.span")))
            health = await house.client.get("/hostler/v1/health", cast_to=dict)
            nobody = house.new_client(default_headers={"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-01"})
            with pytest.raises(anthropic.AuthenticationError):
                await nobody.with_options(api_key="hk-wrong").beta.sessions.retrieve(session)
        assert health["traces"]["refused"] == 1
        assert named(spans, "own.span")[0].trace_id == named(spans, SENT)[0].trace_id
        assert not any(span.trace_id in (forged, CALLER[0]) for span in collector.spans)
        assert not named(spans, "forged.span")
        assert CANARY.encode() not in b"".join(collector.bodies)
