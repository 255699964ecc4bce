"""The rehearsal model answers the official client as its script says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from hostler.testing.rehearsal import (
    Conversation,
    RehearsalModel,
    Step,
    gate,
    prompt,
    rule,
    script,
    serve,
    stamps,
    step,
    text,
    thinking,
    tool,
)

MODEL = "claude-opus-5-5"
TOOLS: Any = [
    {"name": name, "input_schema": {"type": "object"}} for name in ("Bash", "Read", "Write", "mcp__custom__lookup")
]


@asynccontextmanager
async def _client(model: RehearsalModel, **options: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=model.url, api_key="any", max_retries=0, _strict_response_validation=True, **options
    ) as client:
        yield client


async def _ask(client: anthropic.AsyncAnthropic, messages: Any, *, stream: bool = False, **options: Any) -> Any:
    options = {"tools": TOOLS, **options}
    if not stream:
        return await client.messages.create(model=MODEL, max_tokens=1000, messages=messages, **options)
    async with client.messages.stream(model=MODEL, max_tokens=1000, messages=messages, **options) as events:
        return await events.get_final_message()


def _user(said: Any) -> dict[str, Any]:
    return {"role": "user", "content": said}


def _said(answer: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}


def _results(answer: Any, *outputs: str) -> dict[str, Any]:
    calls = [block.id for block in answer.content if block.type == "tool_use"]
    assert len(calls) == len(outputs)
    return _user(
        [
            {"type": "tool_result", "tool_use_id": call, "content": output}
            for call, output in zip(calls, outputs, strict=True)
        ]
    )


# ------------------------------------------------------------------------------------------------------ following


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_follows_its_script_to_a_polite_end(stream: bool) -> None:
    said = prompt(
        [
            step(thinking("Let me look."), text("Looking."), tool("bash", command="ls"), tool("lookup", key="é")),
            step("{{n}}: {{last_tool_result}}"),
        ]
    )
    async with RehearsalModel() as model, _client(model) as client:
        messages = [_user(said)]
        first = await _ask(client, messages, stream=stream)
        assert [block.type for block in first.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert first.content[0].signature
        assert [(block.name, block.input) for block in first.content[2:]] == [
            ("Bash", {"command": "ls"}),
            ("mcp__custom__lookup", {"key": "é"}),
        ]
        assert first.stop_reason == "tool_use"
        messages += [_said(first), _results(first, "a.txt", "found")]
        second = await _ask(client, messages, stream=stream)
        assert (second.content[0].text, second.stop_reason) == ("2: found", "end_turn")
        messages += [_said(second), _user("Anything else?")]
        third = await _ask(client, messages, stream=stream)
        assert "script is over" in third.content[0].text
        assert [request.step for request in model.message_requests] == [0, 1, 2]


async def test_the_stream_has_the_events_of_the_real_api_in_order() -> None:
    said = prompt([step(thinking("t"), text("abcdef", chunk=3), tool("bash", command="echo " + "x" * 40))])
    async with RehearsalModel() as model, httpx2.AsyncClient() as raw:
        body = {"model": MODEL, "max_tokens": 9, "stream": True, "messages": [_user(said)], "tools": TOOLS}
        answer = await raw.post(f"{model.url}/v1/messages?beta=true", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["request-id"].startswith("req_")
    events = []
    for chunk in answer.text.strip().split("\n\n"):
        name, data = chunk.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in events)
    assert [name for name, _ in events[:3]] == ["message_start", "ping", "content_block_start"]
    assert [name for name, _ in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    deltas = [(data["index"], data["delta"]["type"]) for name, data in events if name == "content_block_delta"]
    assert deltas[:4] == [(0, "thinking_delta"), (0, "signature_delta"), (1, "text_delta"), (1, "text_delta")]
    fragments = [data["delta"]["partial_json"] for _, data in events if "partial_json" in data.get("delta", {})]
    assert len(fragments) >= 3
    assert json.loads("".join(fragments)) == {"command": "echo " + "x" * 40}
    assert events[-2][1]["usage"]["output_tokens"] > 1


def test_the_synchronous_client_works_too() -> None:
    async def run() -> str:
        async with RehearsalModel(script("hi")) as model:

            def ask() -> str:
                with anthropic.Anthropic(base_url=model.url, api_key="any", max_retries=0) as client:
                    with client.messages.stream(model=MODEL, max_tokens=9, messages=[_user("x")]) as events:  # type: ignore[list-item]
                        return events.get_final_text()

            return await asyncio.to_thread(ask)

    assert asyncio.run(run()) == "hi"


async def test_what_a_harness_adds_does_not_move_the_step() -> None:
    said = prompt([step(tool("bash", command="1")), step(tool("bash", command="2")), step("end")])
    reminder = {"type": "text", "text": "<system-reminder>Be kind.</system-reminder>"}
    async with RehearsalModel() as model, _client(model) as client:
        aside = {"role": "system", "content": "# Environment"}
        messages = [_user([reminder, {"type": "text", "text": said}, reminder]), aside]
        first = await _ask(client, messages)
        assert first.content[0].input == {"command": "1"}
        messages += [_said(first), _results(first, "one"), aside]
        second = await _ask(client, messages)
        assert second.content[0].input == {"command": "2"}
        # The harness died during the second call, dropped it, and goes on.
        messages += [{"role": "assistant", "content": [{"type": "text", "text": "No response requested."}]}]
        messages += [_user([{"type": "text", "text": "Continue from where you left off."}])]
        again = await _ask(client, messages)
        assert again.content[0].input == {"command": "2"}
        assert again.content[0].id != second.content[0].id
        messages += [_said(again), _results(again, "two"), _user([reminder])]
        assert (await _ask(client, messages)).content[0].text == "end"


async def test_an_answer_that_the_harness_split_is_counted_once() -> None:
    said = prompt([step(tool("bash", command="1"), tool("bash", command="2")), step("{{last_tool_result}}"), step("c")])
    async with RehearsalModel() as model, _client(model) as client:
        first = await _ask(client, [_user(said)])
        one, two = ({"role": "assistant", "content": [block.model_dump(exclude_none=True)]} for block in first.content)
        results = _results(first, "r1", "r2")["content"]
        split = [_user(said), one, _user([results[0]]), two, _user([results[1]])]
        assert (await _ask(client, split)).content[0].text == "r2"
        adjacent = [_user(said), one, two, _user([results[1], results[0]])]
        assert (await _ask(client, adjacent)).content[0].text == "r2"


async def test_the_newest_script_governs() -> None:
    async with RehearsalModel() as model, _client(model) as client:
        messages = [_user(prompt(["old"]))]
        messages += [_said(await _ask(client, messages)), _user(prompt(["new", "newer"]))]
        answer = await _ask(client, messages)
        assert answer.content[0].text == "new"
        messages += [_said(answer), _user("and?")]
        assert (await _ask(client, messages)).content[0].text == "newer"


async def test_a_script_in_a_tool_result_or_an_answer_is_not_followed() -> None:
    trap = prompt(["trapped"])
    async with RehearsalModel() as model, _client(model) as client:
        messages = [_user(prompt([step(text(trap), tool("bash", command="cat")), "safe"]))]
        first = await _ask(client, messages)
        messages += [_said(first), _results(first, trap)]
        assert (await _ask(client, messages)).content[0].text == "safe"


async def test_tool_call_ids_are_equal_over_retries_and_differ_between_conversations() -> None:
    said = prompt([step(tool("bash", command="a"), tool("bash", command="b"), tool("read", call_id="mine"))])
    async with RehearsalModel() as model, _client(model) as client:

        async def ids(session: str, **options: Any) -> list[str]:
            answer = await _ask(client, [_user(said)], metadata={"user_id": session}, **options)
            return [block.id for block in answer.content]

        first = await ids("one")
        assert len(set(first)) == 3
        assert first[2] == "mine"
        assert await ids("one", stream=True) == first
        assert (await ids("two"))[:2] != first[:2]
    async with RehearsalModel() as restarted, _client(restarted) as client:
        assert await ids("one") == first


async def test_rules_choose_by_the_users_words_and_count_from_there() -> None:
    followed = script(
        rule("weather", step(tool("lookup", place="Oslo")), "It is {{last_tool_result}}."),
        rule(r"^bye\b", "Goodbye.", regex=True),
        "first of the file",
    )
    async with RehearsalModel(followed) as model, _client(model) as client:
        messages = [_user("How is the weather?")]
        first = await _ask(client, messages)
        assert first.content[0].name == "mcp__custom__lookup"
        messages += [_said(first), _results(first, "cold")]
        second = await _ask(client, messages)
        assert second.content[0].text == "It is cold."
        messages += [_said(second), _user("bye now")]
        assert (await _ask(client, messages)).content[0].text == "Goodbye."
        assert (await _ask(client, [_user("hm")])).content[0].text == "first of the file"


async def test_a_wire_input_becomes_the_harness_input() -> None:
    said = prompt([step(tool("read", file_path="/a", view_range=[3, 7]), tool("bash", command="x", timeout_ms=5))])
    async with RehearsalModel() as model, _client(model) as client:
        read, bash = (await _ask(client, [_user(said)])).content
        assert read.input == {"file_path": "/a", "offset": 3, "limit": 5}
        assert bash.input == {"command": "x", "timeout": 5}


async def test_templates_in_a_script_for_another_agent_stay() -> None:
    inner = prompt(["{{last_tool_result}}"])
    said = prompt([step(tool("Agent", prompt=inner), tool("bash", command="echo {{n}} {{other}}"))])
    async with RehearsalModel() as model, _client(model) as client:
        agent, bash = (await _ask(client, [_user(said)])).content
        assert agent.input == {"prompt": inner}
        assert bash.input == {"command": "echo 1 {{other}}"}


# ------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.APIStatusError, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_comes_as_often_as_it_says_then_the_content(
    status: int, error: type[anthropic.APIStatusError], kind: str, stream: bool
) -> None:
    said = prompt([step("fine", error=status, times=2, retry_after=2)])
    async with RehearsalModel() as model, _client(model) as client:
        for _ in range(2):
            with pytest.raises(error) as raised:
                await _ask(client, [_user(said)], stream=stream)
            assert raised.value.status_code == status
            assert raised.value.response.headers["retry-after"] == "2"
            assert raised.value.body["error"]["type"] == kind  # type: ignore[index]
        assert (await _ask(client, [_user(said)], stream=stream)).content[0].text == "fine"


async def test_the_clients_own_retries_get_through() -> None:
    said = prompt([step("fine", error=529, times=2)])
    async with RehearsalModel() as model, _client(model) as client:
        answer = await _ask(client.with_options(max_retries=2), [_user(said)])
        assert answer.content[0].text == "fine"
        assert [request.failure for request in model.message_requests] == ["error", "error", None]


async def test_failures_are_counted_for_each_conversation() -> None:
    said = prompt([step("fine", error=500)])
    async with RehearsalModel() as model, _client(model) as client:
        for session in ("a", "b"):
            with pytest.raises(anthropic.InternalServerError):
                await _ask(client, [_user(said)], metadata={"user_id": session})
        for session in ("a", "b"):
            assert (await _ask(client, [_user(said)], metadata={"user_id": session})).content[0].text == "fine"


async def test_without_content_a_failure_never_ends() -> None:
    async with RehearsalModel() as model, _client(model) as client:
        for _ in range(3):
            with pytest.raises(anthropic.InternalServerError, match="broken for good"):
                await _ask(client, [_user(prompt([step(error=500, message="broken for good")]))])


async def test_a_prompt_that_is_too_long_is_refused_in_the_apis_words() -> None:
    async with RehearsalModel() as model, _client(model) as client:
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 7 tokens > 6 maximum"):
            await _ask(client, [_user(prompt([step("a", prompt_too_long={"tokens": 7, "maximum": 6})]))])


@pytest.mark.parametrize("after", [0, 1, 4])
async def test_a_cut_stream_ends_after_exactly_so_many_events(after: int) -> None:
    said = prompt([step(text("abcdefghij", chunk=1), cut=after)])
    async with RehearsalModel() as model, httpx2.AsyncClient() as raw:
        body = {"model": MODEL, "max_tokens": 9, "stream": True, "messages": [_user(said)]}
        got = bytearray()

        async def read() -> None:
            async with raw.stream("POST", f"{model.url}/v1/messages", json=body) as answer:
                assert answer.status_code == 200
                async for piece in answer.aiter_raw():
                    got.extend(piece)

        with pytest.raises(httpx2.RemoteProtocolError):
            await read()
        assert got.count(b"event: ") == after
        complete = await raw.post(f"{model.url}/v1/messages", json=body)
        assert complete.text.endswith('data: {"type":"message_stop"}\n\n')


@pytest.mark.parametrize(
    ("failure", "streamed", "whole"),
    [
        ("cut", (httpx2.RemoteProtocolError,), (anthropic.APIConnectionError,)),
        ("garbage", (httpx2.RemoteProtocolError, ValueError), (ValueError, anthropic.APIError)),
        ("sse_error", (anthropic.APIStatusError,), (anthropic.APIStatusError,)),
    ],
)
async def test_a_broken_answer_breaks_once_streaming_and_not(
    failure: str, streamed: tuple[type[Exception], ...], whole: tuple[type[Exception], ...]
) -> None:
    async with RehearsalModel() as model, _client(model) as client:
        for stream, errors in ((True, streamed), (False, whole)):
            said = prompt([step(f"fine {stream}", **{failure: 3})])
            with pytest.raises(errors):
                await _ask(client, [_user(said)], stream=stream)
            assert (await _ask(client, [_user(said)], stream=stream)).content[0].text == f"fine {stream}"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hanging_answer_hangs_until_the_client_leaves(stream: bool) -> None:
    said = prompt([step("fine", hang=3)])
    async with RehearsalModel() as model, _client(model) as client:
        impatient = client.with_options(timeout=httpx2.Timeout(60, read=0.5))
        with pytest.raises((anthropic.APITimeoutError, httpx2.ReadTimeout)):
            await _ask(impatient, [_user(said)], stream=stream)
        assert (await _ask(client, [_user(said)], stream=stream)).content[0].text == "fine"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reset_connection_says_no_word(stream: bool) -> None:
    said = prompt([step("fine", reset=True)])
    async with RehearsalModel() as model, _client(model) as client:
        with pytest.raises(anthropic.APIConnectionError):
            await _ask(client, [_user(said)], stream=stream)
        assert (await _ask(client, [_user(said)], stream=stream)).content[0].text == "fine"
        assert [request.failure for request in model.message_requests] == ["reset", None]


async def test_a_failure_can_be_for_some_models_only() -> None:
    said = prompt([step("fine", error=529, times="always", for_models=["claude-opus-5-5"])])
    async with RehearsalModel() as model, _client(model) as client:
        with pytest.raises(anthropic.APIStatusError):
            await client.messages.create(model="claude-opus-5-5", max_tokens=9, messages=[_user(said)])
        other = await client.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=[_user(said)])
        assert other.content[0].text == "fine"


async def test_a_refusal_says_why() -> None:
    said = prompt([step("I", stop_details={"category": "cyber", "explanation": "no"}), step(stop_reason="max_tokens")])
    async with RehearsalModel() as model, _client(model) as client:
        first = await _ask(client, [_user(said)], stream=True)
        assert first.stop_reason == "refusal"
        assert first.stop_details.category == "cyber"
        second = await _ask(client, [_user(said), _said(first), _user("go on")], stream=True)
        assert (second.stop_reason, second.content) == ("max_tokens", [])


async def test_stop_ends_answers_that_hang() -> None:
    async with asyncio.timeout(60), RehearsalModel() as model, _client(model) as client:
        async with asyncio.TaskGroup() as tasks:

            async def ask() -> None:
                with pytest.raises((anthropic.APIConnectionError, httpx2.TransportError)):
                    await _ask(client, [_user(prompt([step("x", hang=1)]))], stream=True)

            tasks.create_task(ask())
            await model.wait_for_requests(1)
            await model.stop()


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('```rehearse\n[{"content": [{"type": "txet"}]}]\n```', r"steps\[0\].content\[0\]"),
        ("```rehearse\nnot json\n```", "not JSON: Expecting value at line 1"),
        ('```rehearse\n["open"]', "its fence is never closed"),
        ('```rehearse\n[{"when": "a", "steps": ["b"]}]\n```', "rules belong in a file"),
    ],
)
async def test_a_wrong_script_is_a_400_that_tells_what_and_where(said: str, told: str) -> None:
    async with RehearsalModel() as model, _client(model) as client:
        with pytest.raises(anthropic.BadRequestError, match=told) as raised:
            await _ask(client, [_user("earlier"), _user(said)])
        assert "in message 1" in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"model": "m", "max_tokens": 1, "messages": []}',
        b'{"model": "m", "max_tokens": 1, "messages": [{"role": "robot", "content": "x"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "m", "max_tokens": 1, "messages": [{"role": "user"}]}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_messages_request_is_a_400(body: bytes) -> None:
    async with RehearsalModel() as model, httpx2.AsyncClient() as raw:
        answer = await raw.post(f"{model.url}/v1/messages", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_other_paths_are_not_found_and_a_wrong_key_is_refused() -> None:
    async with RehearsalModel(api_key="right") as model, httpx2.AsyncClient() as raw:
        assert (await raw.get(f"{model.url}/v1/models")).status_code == 401
        for headers in ({"x-api-key": "right"}, {"authorization": "Bearer right"}):
            answer = await raw.post(f"{model.url}/v1/else", headers=headers)
            assert answer.status_code == 404
            assert answer.json()["type"] == "error"
            assert answer.headers["request-id"] == answer.json()["request_id"]


async def test_bytes_that_are_no_http_are_refused() -> None:
    async with RehearsalModel() as model:
        host, port = model.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()


# --------------------------------------------------------------------------------------------------- other duties


async def test_models_and_token_counts() -> None:
    async with RehearsalModel() as model, _client(model) as client:
        listed = [item.id async for item in await client.models.list(limit=1)]
        assert listed[0] == "claude-opus-5-5"
        assert len(listed) == len(set(listed)) > 1
        assert (await client.models.retrieve("claude-x")).id == "claude-x"
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("gpt")
        counted = await client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "x" * 4000}])
        assert 1000 <= counted.input_tokens <= 1050


async def test_a_second_request_reads_the_cache_that_the_first_wrote() -> None:
    system: Any = [{"type": "text", "text": "s" * 8000, "cache_control": {"type": "ephemeral"}}]
    async with RehearsalModel() as model, _client(model) as client:
        messages = [_user(prompt(["a", "b"]))]
        first = await _ask(client, messages, system=system)
        assert first.usage.cache_creation_input_tokens > 2000
        assert first.usage.cache_read_input_tokens == 0
        messages += [_said(first), _user("next")]
        second = await _ask(client, messages, system=system)
        assert second.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens
        assert 0 < second.usage.cache_creation_input_tokens < 200


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_is_what_the_step_says(stream: bool) -> None:
    said = prompt([step("a", usage={"input_tokens": 11, "output_tokens": 22, "cache_read_input_tokens": 33})])
    async with RehearsalModel() as model, _client(model) as client:
        usage = (await _ask(client, [_user(said)], stream=stream)).usage
        assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (11, 22, 33)


async def test_a_summary_carries_the_script_on() -> None:
    async with RehearsalModel() as model, _client(model) as client:
        messages = [_user(prompt([step(tool("bash", command="1")), "after"]))]
        first = await _ask(client, messages)
        wish = {"type": "text", "text": "Your task is to create a detailed summary of the conversation so far."}
        results = _results(first, "one")["content"]
        summary = await _ask(client, [*messages, _said(first), _user([*results, wish])])
        assert model.message_requests[-1].origin == "housekeeping"
        compacted = [_user("This session is being continued. " + summary.content[0].text)]
        assert (await _ask(client, compacted)).content[0].text == "after"


async def test_without_a_script_it_works_a_little_and_stops() -> None:
    async with RehearsalModel() as model, _client(model) as client:
        messages = [_user("Hello!")]
        calls = []
        for _ in range(10):
            answer = await _ask(client, messages, stream=True)
            found = [block for block in answer.content if block.type == "tool_use"]
            if not found:
                break
            calls += [block.name for block in found]
            messages += [_said(answer), _results(answer, *(f"output {len(calls)}" for _ in found))]
        assert calls == ["Bash", "Write", "Bash"]
        assert "output 3" in answer.content[0].text
        assert "rehearsal model" in answer.content[0].text
        echo = await _ask(client, [_user("Hello!")], tools=[])
        assert echo.content[0].text == "This is the rehearsal model. You said: Hello!"


async def test_a_wanted_schema_is_answered_with_json_that_fits() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "of": {"enum": ["a", "b"]}}}
    async with RehearsalModel() as model, _client(model) as client:
        config: Any = {"format": {"type": "json_schema", "schema": schema}}
        answer = await _ask(client, [_user("x")], tools=[], output_config=config)
        assert json.loads(answer.content[0].text) == {"n": 0, "of": "a"}


async def test_a_python_function_can_be_the_default() -> None:
    def shout(conversation: Conversation) -> Step:
        return step(conversation.last_prompt[1].upper())

    async with RehearsalModel(default=shout) as model, _client(model) as client:
        assert (await _ask(client, [_user("hello")])).content[0].text == "HELLO"


async def test_a_gate_holds_the_answer_where_it_stands() -> None:
    async with RehearsalModel() as model, _client(model) as client:
        said = prompt([step(text("before "), gate("g"), text("after"))])
        async with client.messages.stream(model=MODEL, max_tokens=9, messages=[_user(said)]) as events:  # type: ignore[list-item]
            pieces = events.text_stream
            assert await anext(pieces) == "before "
            await model.reached_gate("g")
            model.open_gate("g")
            assert [piece async for piece in pieces] == ["after"]


async def test_five_hundred_deltas_a_second_keep_their_schedule() -> None:
    """The last delta is due 998 ms after the first. Whoever only slept between two of them would be late with all of
    them every time; a machine that is busy with something else is not."""
    ends, medians = [], []
    async with RehearsalModel() as model, _client(model) as client:
        while not any(0.99 <= end <= 1.2 and median < 20 for end, median in zip(ends, medians, strict=True)):
            assert len(ends) < 10, (ends, medians)
            said = prompt([step(stamps(500, rate=500))])
            sent: list[int] = []
            async with client.messages.stream(model=MODEL, max_tokens=9, messages=[_user(said)]) as events:  # type: ignore[list-item]
                async for piece in events.text_stream:
                    sent += [int(stamp) for stamp in piece.split()]
            assert len(sent) == 500
            ends.append((sent[-1] - sent[0]) / 1e9)
            medians.append(sorted((at - sent[0]) / 1e6 - 2 * number for number, at in enumerate(sent))[250])


async def test_delay_comes_before_the_first_byte() -> None:
    async with RehearsalModel() as model, _client(model) as client:
        began = time.monotonic()
        await _ask(client, [_user(prompt([step("a", delay_ms=150)]))])
        assert time.monotonic() - began >= 0.15


async def test_requests_are_recorded_and_bounded() -> None:
    from hostler.testing.rehearsal import Recorder

    async with RehearsalModel(recorder=Recorder(limit=2)) as model, _client(model) as client:
        for number in range(3):
            await _ask(client, [_user(f"say {number}")], tools=[], extra_headers={"X-Mine": str(number)})
        assert [request.headers["x-mine"] for request in model.requests] == ["1", "2"]
        assert model.requests[-1].body["messages"][0]["content"] == "say 2"
        with pytest.raises(TimeoutError):
            await model.wait_for_requests(3, timeout=0.01)


async def test_it_serves_a_unix_socket_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "script.json").write_text('["from the file"]')
    socket = tmp_path / "s"
    ready: asyncio.Future[RehearsalModel] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        serve(script_path=tmp_path / "script.json", unix_socket=socket, ready=ready.set_result)
    )
    model = await ready
    transport = httpx2.AsyncHTTPTransport(uds=str(socket))
    async with httpx2.AsyncClient(transport=transport) as raw, _client(model, http_client=raw) as client:
        assert (await _ask(client, [_user("hi")])).content[0].text == "from the file"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_taken_port_is_an_error_at_once() -> None:
    async with RehearsalModel() as model:
        with pytest.raises(OSError):
            await RehearsalModel().start(port=int(model.url.rsplit(":", 1)[1]))
