"""How does a person follow a session in a terminal? Text as it is written, tool calls as a tree that fills itself.

Every text of the agent and of its tools goes through `hostler.cli.terminal`. On a terminal the tree of calls that are
under way is redrawn in place; elsewhere each call and each result is printed once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from hostler.cli.terminal import PlainStream, plain, plain_line

Event = Mapping[str, Any]

CALLS = {"agent.tool_use", "agent.mcp_tool_use", "agent.custom_tool_use"}
RESULTS = {
    "agent.tool_result": "tool_use_id",
    "agent.mcp_tool_result": "mcp_tool_use_id",
    "user.tool_result": "tool_use_id",
    "user.custom_tool_result": "custom_tool_use_id",
}
_SHOWN_LINES = 12
_TOLD_BY = ("command", "file_path", "pattern", "url", "query")
"""Inputs that say the most about a call."""


@dataclass
class _Call:
    name: str
    told: str
    started: float
    result: str | None = None
    failed: bool = False
    seconds: float = 0.0


@dataclass
class Tally:
    """What happened, for the last line and the exit code."""

    calls: int = 0
    failed_calls: int = 0
    stop_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class Show:
    """Feed it every event of the stream, in order. `close` at the end, whatever happened."""

    def __init__(self, console: Console) -> None:
        self.tally = Tally()
        self._console = console
        self._calls: dict[str, _Call] = {}
        self._live: Live | None = None
        self._stream = PlainStream()
        self._streamed: dict[str, int] = {}
        self._mid_line = False
        self._started = monotonic()

    def prompt(self, text: str) -> None:
        line = Text("❯ ", style="bold cyan")
        line.append(plain(text), style="bold")
        self._console.print(line)
        self._console.print()

    def event(self, event: Event) -> None:
        kind = event["type"]
        if kind == "event_delta":
            self._delta(event)
        elif kind == "agent.message":
            self._message(event)
        elif kind in CALLS:
            self._call(event)
        elif kind in RESULTS:
            self._result(str(event.get(RESULTS[kind])), event)
        elif kind == "session.error":
            self._error(event["error"])
        elif kind == "session.usage":
            self.tally.usage = dict(event.get("usage") or {})
        elif kind == "session.status_idle":
            self.tally.stop_reason = event["stop_reason"]["type"]
            self.pause()
        elif kind in ("session.status_terminated", "session.deleted"):
            self.tally.stop_reason = kind.rpartition(".")[2].removeprefix("status_")
            self.pause()
        elif kind == "agent.thread_context_compacted":
            self.note("The conversation was compacted.")

    def note(self, text: str) -> None:
        self.pause()
        self._console.print(Text(plain(text), style="dim"))

    def pause(self) -> None:
        """Stop redrawing: something else is to be printed or asked."""
        self._end_line()
        if self._live is not None:
            self._live.update(self._tree(), refresh=True)
            self._live.stop()
            self._live = None
            self._calls = {key: call for key, call in self._calls.items() if call.result is None}

    close = pause

    def summary(self) -> None:
        """One line: how it ended, what it used."""
        self.pause()
        total, cached, made = tokens(self.tally.usage)
        parts = [
            self.tally.stop_reason or "no end seen",
            f"{self.tally.calls} tool call" + ("" if self.tally.calls == 1 else "s"),
            f"{total:,} tokens in ({cached:,} from the cache)",
            f"{made:,} tokens out",
            f"{monotonic() - self._started:.1f} s",
        ]
        self._console.print()
        self._console.print(Text(" · ".join(parts), style="dim"))

    # -- text

    def _delta(self, event: Event) -> None:
        text = ((event.get("delta") or {}).get("content") or {}).get("text")
        if not isinstance(text, str) or not text:
            return
        event_id = str(event["event_id"])
        self._streamed[event_id] = self._streamed.get(event_id, 0) + len(text)
        self._write(self._stream.feed(text))

    def _message(self, event: Event) -> None:
        whole = "".join(block.get("text", "") for block in event["content"] if block["type"] == "text")
        already = self._streamed.pop(str(event["id"]), 0)
        self._write(self._stream.feed(whole[already:]) + self._stream.end())
        self._end_line()

    def _write(self, text: str) -> None:
        if not text:
            return
        if self._live is not None:
            self.pause()
        self._console.print(Text(text), end="", soft_wrap=True)
        self._console.file.flush()
        self._mid_line = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._mid_line:
            self._mid_line = False
            self._console.print()

    # -- calls

    def _call(self, event: Event) -> None:
        self._end_line()
        self.tally.calls += 1
        call = _Call(plain_line(str(event["name"]), 60), _told(event.get("input") or {}), monotonic())
        self._calls[str(event["id"])] = call
        if not self._console.is_terminal:
            self._console.print(_headline(call, "●"))
            return
        if self._live is None:
            self._live = Live(self._tree(), console=self._console, refresh_per_second=10)
            self._live.start()
        self._live.update(self._tree(), refresh=True)

    def _result(self, call_id: str, event: Event) -> None:
        call = self._calls.get(call_id)
        if call is None:
            return
        call.result, call.failed = _text_of(event.get("content")), bool(event.get("is_error"))
        call.seconds = monotonic() - call.started
        self.tally.failed_calls += call.failed
        if not self._console.is_terminal:
            del self._calls[call_id]
            for line in _result_lines(call):
                self._console.print(Text("  ").append_text(line))
        elif self._live is not None:
            self._live.update(self._tree(), refresh=True)
            if all(other.result is not None for other in self._calls.values()):
                self.pause()
        else:
            self._console.print(self._tree())
            del self._calls[call_id]

    def _tree(self) -> Tree | Table:
        table = Table.grid()
        for call in self._calls.values():
            if call.result is None:
                row = Table.grid(padding=(0, 1))
                row.add_row(Spinner("dots", style="cyan"), _headline(call, ""))
                table.add_row(row)
                continue
            tree = Tree(_headline(call, "✗" if call.failed else "●"), guide_style="dim")
            for line in _result_lines(call):
                tree.add(line)
            table.add_row(tree)
        return table

    def _error(self, error: Mapping[str, Any]) -> None:
        self.pause()
        status = (error.get("retry_status") or {}).get("type")
        if isinstance(error.get("hostler"), Mapping):  # a notice: the session goes on
            self._console.print(Text(plain_line(str(error.get("message")), 600), style="yellow"))
            return
        said = f"{error.get('type')}: {error.get('message')}"
        if status == "retrying":
            self._console.print(Text(plain_line(f"{said} (trying again)", 400), style="yellow"))
            return
        self.tally.errors.append(plain_line(said, 400))
        self._console.print(Text(plain_line(said, 400), style="bold red"))


def tokens(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Tokens in altogether, those of them that came from the cache, and tokens out.

    The API's `input_tokens` are only those that the cache had no part in.
    """
    cached = usage.get("cache_read_input_tokens") or 0
    written = sum((usage.get("cache_creation") or {}).values())
    return (usage.get("input_tokens") or 0) + cached + written, cached, usage.get("output_tokens") or 0


def _headline(call: _Call, mark: str) -> Text:
    line = Text(f"{mark} " if mark else "", style="red" if call.failed else "green")
    line.append(call.name, style="bold")
    line.append(f"  {call.told}", style="default")
    if call.result is not None and call.seconds >= 1:
        line.append(f"  {call.seconds:.1f} s", style="dim")
    return line


def _result_lines(call: _Call) -> list[Text]:
    lines = [line for line in plain(call.result or "").splitlines() if line.strip()]
    style = "red" if call.failed else "dim"
    if not lines:
        return [Text("(no output)", style=style)]
    shown = [Text(line[:400], style=style) for line in lines[:_SHOWN_LINES]]
    if len(lines) > _SHOWN_LINES:
        shown.append(Text(f"… {len(lines) - _SHOWN_LINES} more lines", style=style))
    return shown


def _told(input_: Mapping[str, Any]) -> str:
    for name in _TOLD_BY:
        if isinstance(input_.get(name), str):
            return plain_line(input_[name])
    return plain_line(json.dumps(input_)) if input_ else ""


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [block.get("text") or f"[{block.get('type')}]" for block in content or () if isinstance(block, Mapping)]
    return "\n".join(parts)
