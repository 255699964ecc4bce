"""How is a run of the real Claude Agent SDK started and spoken to?

The SDK's parent side lives here, in the worker; the `claude` process lives in the sandbox, joined by its standard
streams. So permission hooks, custom tools and the transcript mirror are outside the agent's reach.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import claude_agent_sdk
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    HookMatcher,
    ResultMessage,
    SdkMcpTool,
    create_sdk_mcp_server,
)
from claude_agent_sdk._cli_version import __cli_version__
from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport

from hostler.domain.events import NOT_JUDGED, Body, text_block, to_text
from hostler.engine.runs import (
    Allow,
    Compacted,
    ContextKeeper,
    CustomTool,
    Defer,
    Deny,
    Ended,
    Gatekeeper,
    ProcessLost,
    ReportedUse,
    Run,
    RunEvent,
    RunSpec,
    ToolCall,
    ToolOutcome,
)
from hostler.engine.threads import in_thread
from hostler.harness import spending
from hostler.harness.compaction import CompactionHooks, threshold_environment
from hostler.harness.journal import PROJECT_KEY, Journal, call_entry, recall
from hostler.harness.tools import CUSTOM_SERVER, to_harness_name
from hostler.harness.translate import Translator, compacted, tool_call

log = logging.getLogger("hostler.harness")

LINE_LIMIT = 64 << 20
"""Largest line that `claude` may write, in bytes: twice the largest request, as much as the store takes at once. A
session that writes a longer one costs the worker so much memory and no more."""

HOOK_TIMEOUT_SECONDS = 120.0
START_TIMEOUT_SECONDS = 60.0
CLOSE_TIMEOUT_SECONDS = 2.0
MCP_START_SECONDS = 15
"""How long an MCP server may take before the session begins without it."""
MCP_CALL_SECONDS = 600
"""How long one call of an MCP tool may take."""

_SETTINGS = json.dumps({"skipWebFetchPreflight": True})
"""Without this the harness asks claude.ai about every host before it fetches from it. The egress road decides here."""

_MARK = '"last-prompt"'
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SYSTEM_PROMPT = "system-prompt.txt"
_INSIDE_STATE = "/home/agent/.claude"


class ClaudeHarness:
    """Runs the `claude` binary that the pinned Agent SDK brings along."""

    def __init__(self, program: Path | None = None, *, only_what_clouds_take: bool = False) -> None:
        """only_what_clouds_take: requests have nothing in them that only the Claude API itself understands."""
        self._begun_with: dict[str, dict[str, ReportedUse]] = {}
        """What the next process of a conversation counts on from, by transcript."""
        self._program = program or Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
        self._betas = {"CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1"} if only_what_clouds_take else {}

    @property
    def program(self) -> Path:
        return self._program

    @property
    def version(self) -> str:
        return __cli_version__

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        proxy = "http://127.0.0.1:3128"
        local = "localhost,127.0.0.1,::1"
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            "HOME": "/home/agent",
            "USER": "agent",
            "LOGNAME": "agent",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "TMPDIR": "/tmp",
            "CLAUDE_CONFIG_DIR": _INSIDE_STATE,
            "ANTHROPIC_UNIX_SOCKET": "/run/hostler/model.sock",
            "ANTHROPIC_BASE_URL": "http://localhost",
            "ANTHROPIC_API_KEY": "the-gateway-holds-the-key",
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "http_proxy": proxy,
            "https_proxy": proxy,
            "NO_PROXY": local,
            "no_proxy": local,
            "NODE_USE_ENV_PROXY": "1",
            "IS_SANDBOX": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_DISABLE_CRON": "1",
            # The first model request, or a call that was waited for, comes after all servers are there or have failed.
            "MCP_CONNECTION_NONBLOCKING": "0",
            "MCP_TIMEOUT": str(MCP_START_SECONDS * 1000),
            "MCP_TOOL_TIMEOUT": str(MCP_CALL_SECONDS * 1000),
            "ENABLE_TOOL_SEARCH": "false",  # every tool is offered, or none: a search would be a tool nobody allowed
            "CLAUDE_CODE_DISABLE_MCP_TASKS": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
            "CLAUDE_AGENT_SDK_VERSION": claude_agent_sdk.__version__,
            "CLAUDE_CODE_SDK_READS_SESSION_STATE": "1",
            # Requests say what they are for: without it, only which sub-agent makes them.
            "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
            "PWD": "/workspace",
            **self._betas,
            **threshold_environment(spec),
            **spec.settings,
        }

    def call(self, tool_use_id: str, name: str, input_: Mapping[str, Any]) -> ToolCall:
        return tool_call(tool_use_id, name, input_)

    async def catch_up(self, transcript_id: str, transcripts: Any, at: str) -> Sequence[Mapping[str, Any]]:
        return await Journal(transcript_id, transcripts).restore(self.version, at)

    def recall(self, entry: Mapping[str, Any]) -> tuple[str, Sequence[RunEvent]]:
        return recall(entry)

    def call_entry(self, call: ToolCall) -> dict[str, Any]:
        return call_entry(call)

    async def prepare(self, spec: RunSpec, state: Path) -> None:
        def write() -> None:
            if spec.system:
                (state / _SYSTEM_PROMPT).write_text(spec.system, "utf-8", errors="surrogateescape")
            if spec.resume:
                (state / "projects" / PROJECT_KEY).mkdir(parents=True)

        await in_thread(write)

    async def remember(self, transcript_id: str, state: Path, remembered: Sequence[str]) -> None:
        def write() -> None:
            self._begun_with[transcript_id] = spending.begun_with(remembered)
            if remembered:
                _write_transcript(state, f"{transcript_id}.jsonl", with_true_leaf(remembered))

        await in_thread(write)

    def compactions(self, entries: Sequence[Mapping[str, Any]]) -> Sequence[Compacted]:
        return [
            compacted(entry.get("uuid"), entry.get("compactMetadata"))
            for entry in entries
            if entry.get("type") == "system" and entry.get("subtype") == "compact_boundary"
        ]

    async def start(
        self,
        spec: RunSpec,
        launcher: Path,
        gatekeeper: Gatekeeper,
        transcripts: Any,
        keeper: ContextKeeper | None = None,
        laid_out: Callable[[], Awaitable[None]] | None = None,
    ) -> Run:
        loop = asyncio.get_running_loop()

        async def before_it_looks() -> Mapping[str, ReportedUse]:
            if laid_out is not None:
                patience.reschedule(None)
                await laid_out()
                patience.reschedule(loop.time() + START_TIMEOUT_SECONDS)
            return self._begun_with.pop(spec.transcript_id, {})

        run = ClaudeRun(spec, launcher, gatekeeper, transcripts, dict(self.environment(spec)), keeper, before_it_looks)
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS) as patience:
                await run.connect()
        except (claude_agent_sdk.ProcessError, claude_agent_sdk.CLIConnectionError) as error:
            await run.close()
            raise ProcessLost(run.describe(error)) from error
        except BaseException:
            await run.close()
            raise
        return run


class _HeldBack(SubprocessCLITransport):
    """Lets a process that was started with `--await-initialize` wait before it is initialized.

    Until then it reads neither transcript nor working directory nor the file of its system prompt.
    """

    def __init__(self, options: ClaudeAgentOptions, until: Callable[[], Awaitable[None]]) -> None:
        super().__init__(prompt=_nothing(), options=options)
        self._until = until
        self.initialized = False

    async def connect(self) -> None:
        await super().connect()
        await self._until()

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        async with aclosing(cast("AsyncGenerator[dict[str, Any], None]", super().read_messages())) as messages:
            async for message in messages:
                yield message
        if not self.initialized:  # The SDK goes on waiting for its answer when a process ends well.
            raise claude_agent_sdk.CLIConnectionError("the process ended before it was initialized")


async def _nothing() -> AsyncIterator[dict[str, Any]]:
    return
    yield {}


class ClaudeRun:
    """One `claude` process. All methods from one task, except `interrupt` and `close`."""

    def __init__(
        self,
        spec: RunSpec,
        launcher: Path,
        gatekeeper: Gatekeeper,
        transcripts: Any,
        environment: dict[str, str],
        keeper: ContextKeeper | None,
        before_it_looks: Callable[[], Awaitable[Mapping[str, ReportedUse]]],
    ) -> None:
        """before_it_looks: called once the process was started, which looks at its files after that; gives what its
        conversation has spent already."""
        self._begun_with: Mapping[str, ReportedUse] = {}
        self._gatekeeper = gatekeeper
        self._permitted: defaultdict[str, deque[str]] = defaultdict(deque)
        self._translator = Translator()
        self._asked: str | None = None
        """The uuid of the last prompt. `claude` names it at the end of its answer."""
        self._journal = Journal(spec.transcript_id, transcripts)
        self.last_words: deque[str] = deque(maxlen=20)
        """The last lines of the process's standard error, for the message when it dies."""
        conversation = {"resume": spec.transcript_id} if spec.resume else {}
        around = {} if keeper is None else CompactionHooks(keeper, lambda: self._journal.newest).matchers()
        options = ClaudeAgentOptions(
            cli_path=launcher,
            env=environment,
            session_id=None if spec.resume else spec.transcript_id,
            extra_args={"await-initialize": None, **conversation},
            model=spec.model,
            effort=spec.effort,  # type: ignore[arg-type]
            system_prompt={"type": "file", "path": f"{_INSIDE_STATE}/{_SYSTEM_PROMPT}"} if spec.system else None,
            tools=[to_harness_name(name) for name in spec.tools],
            mcp_servers=self._servers(spec),
            disallowed_tools=[to_harness_name(tool, server=alias) for alias, tool in spec.hidden_tools],
            strict_mcp_config=True,
            setting_sources=[],
            settings=_SETTINGS,
            # Never a mode that opens anything: the hook below decides, and this is what holds if it fails.
            permission_mode="plan" if spec.plan_only else "default",
            verbatim_prompts=False,  # `prompt` says it of each message: `/compact` must be taken for a command
            include_partial_messages=True,
            max_buffer_size=LINE_LIMIT,
            session_store=transcripts.gapless(),
            session_store_flush="eager",
            stderr=self.last_words.append,
            hooks={
                "PreToolUse": [
                    HookMatcher(hooks=[self._before_tool], timeout=HOOK_TIMEOUT_SECONDS, on_failure="block")
                ],
                **around,  # type: ignore[dict-item]
            },
        )

        async def begun() -> None:
            self._begun_with = await before_it_looks()

        self._transport = _HeldBack(options, begun)
        self._client = ClaudeSDKClient(options, self._transport)
        self._messages: AsyncIterator[Any] | None = None
        self._farewell: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self._client.connect()
        self._transport.initialized = True
        self._messages = self._client.receive_messages()

    async def events(self) -> AsyncIterator[RunEvent]:
        assert self._messages is not None, "connect() comes first"
        try:
            async for message in self._messages:
                if not isinstance(message, ResultMessage):
                    await self._journal.keep(message)
                events = self._translator.feed(message)
                if isinstance(message, ResultMessage):
                    if self._is_of_another(message, events):
                        events = events[:-1]
                    else:
                        self._journal.settle()  # the SDK has mirrored everything before it hands this over
                for event in events:
                    if isinstance(event, Ended) and event.used is not None:
                        event = replace(event, used=spending.less(event.used, self._begun_with))
                    yield event
                    if isinstance(event, Ended):
                        return
        except claude_agent_sdk.ClaudeSDKError as error:
            yield Ended("lost", message=self.describe(error), alive=False)
            return
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # The process runs beside the agent's own commands, so what it says can be anything.
            yield Ended("lost", message=self.describe(error), alive=False)
            return
        yield Ended("lost", message=self.describe(None), alive=False)

    def _is_of_another(self, message: ResultMessage, events: Sequence[RunEvent]) -> bool:
        """Whether this is the peaceful end of something that nobody asked for: the prompt is still to be worked on.

        `claude` takes up by itself a call that its transcript shows as waiting, before any prompt. A sandbox can write
        such a call into its own transcript: every answer after it would be taken for that of the prompt behind it.
        """
        if self._asked is None or not any(isinstance(event, Ended) and event.how == "completed" for event in events):
            return False
        return self._asked not in (message.user_message_uuid, *(message.user_message_uuids or ()))

    async def prompt(self, uuid: str, content: Sequence[Body]) -> None:
        blocks = [_without_nulls(block) for block in content]
        self._journal.begin(uuid, blocks)

        # Written by a client: never a command of the harness, never a file to be read in.
        await self._send(uuid, {"message": {"role": "user", "content": blocks}, "client_composed": True})

    async def compact(self, uuid: str) -> None:
        # What the summary is to look at is said by the hook, so nothing that anybody wrote is part of the command.
        await self._send(uuid, {"message": {"role": "user", "content": "/compact"}})

    async def _send(self, uuid: str, message: Mapping[str, Any]) -> None:
        self._asked = uuid

        async def one() -> AsyncIterator[dict[str, Any]]:
            yield {"type": "user", "parent_tool_use_id": None, "uuid": uuid, **message}

        try:
            await self._client.query(one())
        except claude_agent_sdk.CLIConnectionError as error:
            raise ProcessLost(self.describe(error)) from error

    async def interrupt(self) -> None:
        await self._client.interrupt()

    async def alive(self) -> bool:
        try:
            await self._client.get_mcp_status()
        except Exception:  # of whatever kind: what can't answer this is of no use for a prompt either
            return False
        return True

    async def close(self) -> None:
        # One farewell, never cut off in the middle: cut off, the SDK would leave its streams and its child open. If the
        # process takes too long, the caller destroys the sandbox and closes again: then this farewell ends.
        if self._farewell is None:
            self._farewell = asyncio.create_task(self._leave())
        await asyncio.wait({self._farewell}, timeout=CLOSE_TIMEOUT_SECONDS)
        if self._farewell.done() and not self._farewell.cancelled():
            self._farewell.exception()  # whatever it was, nothing of the process can stay once the sandbox is gone

    async def _leave(self) -> None:
        await self._client.disconnect()
        await self._transport.close()  # the client ends it only if it was initialized; does nothing a second time

    def describe(self, error: Exception | None) -> str:
        words = " | ".join(line for line in self.last_words if line.strip())[-1500:]
        return f"The agent's process ended unexpectedly ({error or 'end of output'}). {words}".strip()

    async def _before_tool(self, hook: Any, tool_use_id: str | None, context: Any) -> Any:
        call = tool_call(tool_use_id or str(hook.get("tool_use_id", "")), str(hook["tool_name"]), hook["tool_input"])
        try:
            verdict = await self._gatekeeper.permit(call)
        except Exception:  # whatever isn't known to be allowed is refused, and not by words of the CLI's about hooks
            log.exception("call_not_judged", extra={"tool_use_id": call.tool_use_id})
            verdict = Deny(NOT_JUDGED)
        out: dict[str, Any] = {"hookEventName": "PreToolUse"}
        match verdict:
            case Allow():
                if call.custom:
                    self._permitted[call.name].append(call.tool_use_id)
                out["permissionDecision"] = "allow"
            case Deny(message=message):
                out |= {"permissionDecision": "deny", "permissionDecisionReason": message}
            case Defer():
                out["permissionDecision"] = "defer"
        return {"hookSpecificOutput": out}

    def _servers(self, spec: RunSpec) -> dict[str, Any]:
        servers: dict[str, Any] = {}
        for server in spec.mcp_servers:
            if server.url:
                servers[server.alias] = {"type": "http", "url": server.url}
            else:
                started = {"command": server.command, "args": list(server.args), "env": dict(server.env)}
                servers[server.alias] = {"type": "stdio", **started}
        return servers | ({CUSTOM_SERVER: self._custom_server(spec.custom_tools)} if spec.custom_tools else {})

    def _custom_server(self, tools: Sequence[CustomTool]) -> Any:
        return create_sdk_mcp_server(CUSTOM_SERVER, tools=[self._custom_tool(tool) for tool in tools])

    def _custom_tool(self, tool: CustomTool) -> SdkMcpTool[Any]:
        async def answer(_input: Any) -> dict[str, Any]:
            # The protocol carries no tool_use_id. Calls that wait for a client run one at a time, right after their
            # permission, so the oldest permitted call of this name is the one.
            waiting = self._permitted[tool.name]
            if not waiting:
                return {"content": [text_block("This call was not permitted.")], "is_error": True}
            return _mcp_result(await self._gatekeeper.result(waiting.popleft()))

        schema = {"type": "object", "properties": {}, **tool.input_schema}
        return SdkMcpTool(name=tool.name, description=tool.description, input_schema=schema, handler=answer)


def with_true_leaf(texts: Sequence[str]) -> list[str]:
    """The entries of a transcript, as JSON, with one `last-prompt`, which names its last entry.

    `claude` goes on from the entry that the newest `last-prompt` names, and writes one only at a peaceful end. After a
    kill the newest one is of an earlier life: `claude` would go on from there and forget everything since. Only what
    has to be looked at is parsed: a long conversation has megabytes.
    """
    marks: list[dict[str, Any]] = []
    rest = []
    for text in texts:
        entry = json.loads(text) if _MARK in text else {}
        if entry.get("type") == "last-prompt":
            marks.append(entry)
        else:
            rest.append(text)
    leaf = next(
        (
            entry["uuid"]
            for entry in map(json.loads, reversed(rest))
            if entry.get("uuid") and not entry.get("isSidechain")
        ),
        None,
    )
    return [*rest, to_text({**marks[-1], "leafUuid": leaf})] if marks and leaf else rest


def _write_transcript(state: Path, name: str, texts: Sequence[str]) -> None:
    """As a new file of whoever has the folder, which may be shown to a sandbox: no link is followed."""
    here = os.open(state, _FOLDER)
    try:
        for folder in ("projects", PROJECT_KEY):
            above, here = here, os.open(folder, _FOLDER, dir_fd=here)
            os.close(above)
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=here)
        with open(made, "w", encoding="utf-8") as file:
            owner = os.fstat(here)
            if owner.st_uid != os.geteuid():
                os.fchown(made, owner.st_uid, owner.st_gid)
            file.writelines(text + "\n" for text in texts)
    finally:
        os.close(here)


def _mcp_result(outcome: ToolOutcome) -> dict[str, Any]:
    content: list[Body] = []
    for block in outcome.content:
        match block:
            case {"type": "text"}:
                content.append(text_block(block["text"]))
            case {"type": "image", "source": {"type": "base64", "data": data, "media_type": media}}:
                content.append({"type": "image", "data": data, "mimeType": media})
            case {"type": "document", "source": {"type": "text", "data": data}}:
                content.append(text_block(_titled(block, data)))
            case {"type": "document", "source": {"type": "base64", "media_type": media, "data": data}}:
                # The harness takes text and images from a tool and drops everything else without a word.
                size = len(data) * 3 // 4
                said = f"[The tool returned a document ({media}, {size} bytes) that can't be shown here.]"
                content.append(text_block(_titled(block, said)))
            case {"type": "search_result", "title": str() as title, "source": str() as source, "content": list() as of}:
                words = "\n".join(str(part.get("text", "")) for part in of)
                content.append(text_block(f"{title}\n{source}\n\n{words}"))
            case _:
                content.append(text_block(json.dumps(block, ensure_ascii=False)))
    return {"content": content or [text_block("(no content)")], "is_error": outcome.is_error}


def _titled(document: Mapping[str, Any], text: str) -> str:
    return "\n\n".join(part for part in (document.get("title"), document.get("context"), text) if part)


def _without_nulls(block: Mapping[str, Any]) -> Body:
    return {key: value for key, value in block.items() if value is not None}
