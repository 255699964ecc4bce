"""What does the engine ask of the harness, and what does it hear from it?

A *run* is one process of the harness in one sandbox, on one session's transcript. It takes prompts one after the other
and says what happens. Names of tools and shapes of their inputs are the wire's on this side of the port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from hostler.domain.events import Body, ErrorType

# ------------------------------------------------------------------------------------------------- what is asked


@dataclass(frozen=True, slots=True)
class CustomTool:
    """A tool that a client executes."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class McpServer:
    """An MCP server, under the alias that the engine gave it. `url` or `command` is set."""

    alias: str
    url: str = ""
    """Where the process reaches it, from inside its sandbox."""
    command: str = ""
    """What the process starts inside its sandbox."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a run needs to know of its agent."""

    transcript_id: str
    """UUID of the conversation in the transcript store; the same for all runs of a session."""
    resume: bool
    """True: go on with the transcript in the store. False: there is none yet."""
    model: str
    effort: str | None
    system: str | None
    tools: tuple[str, ...]
    """Built-in tools by their wire names; nothing else of the harness's own is available."""
    custom_tools: tuple[CustomTool, ...] = ()
    mcp_servers: tuple[McpServer, ...] = ()
    hidden_tools: tuple[tuple[str, str], ...] = ()
    """Tools of MCP servers that the model must not be offered: alias and tool."""
    plan_only: bool = False
    """Tell the model that it may only plan."""
    compact_at_tokens: int | None = None
    """Tokens of context from which on it is compacted."""
    compact_at_percent: float | None = None
    """The same as a part of the model's context, less what is kept free for an answer. At most one of the two; with
    neither the harness compacts shortly before the context is full."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Extra environment of the process, from the operator's configuration."""


@dataclass(frozen=True, slots=True)
class Allow:
    """Run the call now."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Never run it; the model is told why."""

    message: str


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now: the run ends, and a later run with the same transcript asks again."""


Verdict = Allow | Deny | Defer


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    content: Sequence[Body]
    is_error: bool


class Gatekeeper(Protocol):
    """Asked by the run before each tool call, and for the results of custom tools."""

    async def permit(self, call: ToolCall) -> Verdict:
        """Must return promptly. Nothing of the call has happened yet."""
        ...

    async def result(self, tool_use_id: str) -> ToolOutcome:
        """The client's result of a custom call that was permitted."""
        ...


@dataclass(frozen=True, slots=True)
class GoAhead:
    """Compact now."""

    instructions: str
    """For whoever writes the summary. Empty: nothing in particular."""


@dataclass(frozen=True, slots=True)
class NotNow:
    """Don't compact. A run that can't go on without ends with an error."""

    reason: str


class ContextKeeper(Protocol):
    """Asked by the run before its context is compacted, and for what stays besides the summary. In this order."""

    async def before(self, trigger: Literal["auto", "manual"], last_entry: str | None) -> GoAhead | NotNow:
        """Nothing is lost yet. `last_entry`: uuid of the newest entry that the transcript must have by now."""
        ...

    async def besides(self, summary: str | None) -> str | None:
        """What the context gets after the summary. `summary`: its text, or None where the harness doesn't say."""
        ...


# ------------------------------------------------------------------------------------------------- what is heard


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """A model request of the main thread has begun to answer."""


@dataclass(frozen=True, slots=True)
class TextStarted:
    """A block of text begins."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A block of text is complete."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingStarted:
    pass


@dataclass(frozen=True, slots=True)
class ThinkingBlock:
    """A block of thinking is complete. Its content stays in the transcript."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    tool_use_id: str
    name: str
    input: Mapping[str, Any]
    custom: bool
    server: str | None = None
    """The alias of the MCP server whose tool it is."""


@dataclass(frozen=True, slots=True)
class McpFailed:
    """An MCP server can't be used in this run; the run goes on without it."""

    server: str
    """Its alias."""
    failure: Literal["connection", "authentication"]
    message: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know; the run goes on. Not from the run: from what is around it."""

    kind: str
    """A stable word for programs, such as `egress_denied`."""
    message: str
    """For a person, with what to do."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More for programs, as the wire shows it."""


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The answer of a model request is complete (or broke off)."""

    usage: Body
    is_error: bool
    stop_reason: str | None = None
    stop_details: Body | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    tool_use_id: str
    content: tuple[Body, ...]
    is_error: bool


@dataclass(frozen=True, slots=True)
class Compacted:
    """The context was summarised to make room."""

    boundary: str
    """The uuid of the transcript's entry that says so."""
    before_tokens: int | None = None
    after_tokens: int | None = None
    """Of the conversation, as the harness estimates it: system prompt and tools are not counted."""


@dataclass(frozen=True, slots=True)
class CompactionFailed:
    """The context is as it was. What the run was asked to do besides goes on."""

    message: str
    """What the harness says of it."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """The upstream failed; the harness waits and asks again."""

    error: ErrorType
    message: str


@dataclass(frozen=True, slots=True)
class ReportedUse:
    """What the harness says that was used of one model. It comes from inside the sandbox."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    web_search_requests: int = 0
    cost_usd: float | None = None
    """By the harness's own prices; None: it has none."""

    def plus(self, other: ReportedUse) -> ReportedUse:
        return self._with(other, 1)

    def less(self, other: ReportedUse) -> ReportedUse:
        return self._with(other, -1)

    def _with(self, other: ReportedUse, sign: int) -> ReportedUse:
        cost = None
        if self.cost_usd is not None and other.cost_usd is not None:
            cost = self.cost_usd + sign * other.cost_usd
        return ReportedUse(
            self.input_tokens + sign * other.input_tokens,
            self.output_tokens + sign * other.output_tokens,
            self.cache_read_input_tokens + sign * other.cache_read_input_tokens,
            self.cache_write_input_tokens + sign * other.cache_write_input_tokens,
            self.web_search_requests + sign * other.web_search_requests,
            cost,
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A model request waits before it is asked again. Not from the run: it sees nothing of that."""

    error: ErrorType
    message: str


@dataclass(frozen=True, slots=True)
class GoingOn:
    """No model request waits any more. Not from the run."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run stopped working on the prompt. Nothing more comes until the next prompt."""

    how: Literal["completed", "deferred", "interrupted", "failed", "refused", "lost"]
    error: ErrorType = "unknown_error"
    message: str = ""
    details: Body | None = None
    alive: bool = True
    """False: the process is gone or useless; the next prompt needs a new run."""
    used: Mapping[str, ReportedUse] | None = None
    """By model, since the process began; None: it does not say."""
    untold: bool = False
    """True: the run was never given the prompt."""


RunEvent = (
    RequestStarted
    | TextStarted
    | TextDelta
    | TextBlock
    | ThinkingStarted
    | ThinkingBlock
    | ToolCall
    | RequestEnded
    | ToolResult
    | Compacted
    | CompactionFailed
    | McpFailed
    | Notice
    | Retrying
    | Waiting
    | GoingOn
    | Ended
)


class ProcessLost(Exception):
    """The process ended while it was being started or spoken to. Another one may do better."""


class Run(Protocol):
    """One process of the harness."""

    def events(self) -> AsyncIterator[RunEvent]:
        """Everything that happens, from now until `Ended`. Call again after the next prompt."""
        ...

    async def prompt(self, uuid: str, content: Sequence[Body]) -> None:
        """Hand over user content. The same uuid is taken once per transcript, however often it is sent.

        Raises ProcessLost.
        """
        ...

    async def compact(self, uuid: str) -> None:
        """Compact the context now; `Compacted` or `CompactionFailed` follows, then `Ended`. `uuid`: as for `prompt`.

        Raises ProcessLost.
        """
        ...

    async def interrupt(self) -> None:
        """Stop working on the prompt; `Ended` follows soon."""
        ...

    async def alive(self) -> bool:
        """Between two prompts: does the process still answer? Asks nobody but the process; may take for ever."""
        ...

    async def close(self) -> None:
        """End the process. Idempotent."""
        ...


class Harness(Protocol):
    """The Claude Agent SDK, or something that behaves like it."""

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """The whole environment that the process needs inside its sandbox."""
        ...

    async def catch_up(self, transcript_id: str, transcripts: object, at: str) -> Sequence[Mapping[str, Any]]:
        """After a loss: put into the transcript what its process had said and not written down; gives all entries.

        After that the transcript knows at least all that `Run.events` ever gave. `at`: now, as the wire says it.
        """
        ...

    def recall(self, entry: Mapping[str, Any]) -> tuple[str, Sequence[RunEvent]]:
        """What an entry of a transcript said: the model's message that it is part of, and the whole blocks in it."""
        ...

    def compactions(self, entries: Sequence[Mapping[str, Any]]) -> Sequence[Compacted]:
        """Where a transcript says that its context was compacted, in order."""
        ...

    def call_entry(self, call: ToolCall) -> dict[str, Any]:
        """What a transcript says where the model makes this call, without its place in the transcript."""
        ...

    async def prepare(self, spec: RunSpec, state: Path) -> None:
        """Fill the empty host directory `state` with what the process needs to start."""
        ...

    async def remember(self, transcript_id: str, state: Path, remembered: Sequence[str]) -> None:
        """Put into a `state` that was prepared what the process needs to go on with its transcript, before it looks.

        `remembered`: the transcript's entries, each as JSON on one line; none with a conversation that begins.
        """
        ...

    async def start(
        self,
        spec: RunSpec,
        launcher: Path,
        gatekeeper: Gatekeeper,
        transcripts: object,
        keeper: ContextKeeper | None = None,
        laid_out: Callable[[], Awaitable[None]] | None = None,
    ) -> Run:
        """Without a keeper nobody is asked. `laid_out` is called once the process runs, which looks neither at its
        memory nor at the session's files before that has returned; what it raises ends the process.

        Raises ProcessLost when the process ends before it is ready.
        """
        ...

    def call(self, tool_use_id: str, name: str, input_: Mapping[str, Any]) -> ToolCall:
        """A tool call as the model made it, in the wire's words."""
        ...

    @property
    def program(self) -> Path:
        """Host path of the binary that runs in the sandbox."""
        ...

    @property
    def version(self) -> str: ...
