"""Where in its script is this request?

The answer is computed from the request alone, so a retry, a resumed session or another process gets the same answer.
The newest user text with a script fence governs; the step is the number of answers of the model since then. Texts that
a harness adds (reminders, "Continue from where you left off.") change nothing, and tool-call ids of ours, which name
their step, correct the count where a harness split or dropped answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from hostler.testing.rehearsal.steps import FENCE, Script, ScriptError, Step, fingerprint

_FENCE = re.compile(rf"^[ \t]*```{FENCE}[ \t]*\r?\n(?P<body>.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_OPENED = re.compile(rf"^[ \t]*```{FENCE}[ \t]*$", re.MULTILINE)
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_ADDED_BY_HARNESS = ("continue from where you left off", "[request interrupted")
_PUT_INTO_MOUTH = "No response requested."
"""What a harness makes the model say when it goes on with a turn that was cut off before an answer."""
_DEFERRED = re.compile(r"^(mcp__[A-Za-z0-9_-]+|WebFetch|WebSearch)$", re.MULTILINE)
_QUEUED = re.compile(r"\buser (sent|sends)\b", re.IGNORECASE)
_BILLING = "x-anthropic-billing-header"
_ID_PREFIX = "toolu_01"

Message = Mapping[str, Any]


class BadRequest(Exception):
    """No Messages request, or one whose script can't be followed: HTTP 400 with this text."""


@dataclass(frozen=True)
class Position:
    """The place of a request in a script."""

    steps: tuple[Step, ...]
    index: int
    """Index of the step to give now; `len(steps)` or more when the script is over."""
    script_id: str
    """Names the steps, and which of their occurrences in the conversation this is. 16 hexadecimal digits."""
    origin: Literal["conversation", "rule", "file"]

    @property
    def step(self) -> Step | None:
        """The step to give now; None when the script is over."""
        return self.steps[self.index] if self.index < len(self.steps) else None


@dataclass(frozen=True)
class Conversation:
    """One Messages request, read. Raises BadRequest from `read` when it isn't one."""

    body: Mapping[str, Any]
    messages: Sequence[Message]
    model: str
    session: str
    """What the client calls this conversation: a header or `metadata.user_id`; empty when it doesn't say."""

    @classmethod
    def read(cls, body: object, headers: Mapping[str, str], *, counting: bool = False) -> Conversation:
        """Checks what the real API would refuse. `counting`: a count_tokens request, which has no `max_tokens`."""
        if not isinstance(body, Mapping):
            raise BadRequest("the body is not a JSON object")
        model, messages, limit = body.get("model"), body.get("messages"), body.get("max_tokens")
        if not isinstance(model, str) or not model:
            raise BadRequest("model: Field required")
        if not counting and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise BadRequest("max_tokens: Field required, an integer of 0 or more")
        if not isinstance(messages, list) or not messages:
            raise BadRequest("messages: at least one message is required")
        for at, message in enumerate(messages):
            if not isinstance(message, Mapping) or message.get("role") not in ("user", "assistant", "system"):
                raise BadRequest(f"messages.{at}.role: expected 'user', 'assistant' or 'system'")
            if not isinstance(message.get("content"), str | list):
                raise BadRequest(f"messages.{at}.content: expected a string or a list of blocks")
        if messages[0]["role"] == "assistant":
            raise BadRequest("messages: first message must use the 'user' role")
        return cls(body=body, messages=messages, model=model, session=_session_of(body, headers))

    @property
    def streaming(self) -> bool:
        return self.body.get("stream") is True

    @cached_property
    def system(self) -> str:
        """The system prompt as text, without the line that the CLI changes with every request."""
        return "\n".join(part for part in _texts(self.body.get("system")) if not part.startswith(_BILLING))

    @cached_property
    def asides(self) -> str:
        """What the harness says in the conversation with the role `system`: surroundings, more tools."""
        asides = (message for message in self.messages if message["role"] == "system")
        return "\n".join(text for message in asides for text in _texts(message["content"]))

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """Names of the tools that are offered, then of those that the harness only names and loads when called."""
        offered = self.body.get("tools")
        if not isinstance(offered, list):
            return ()
        names = [str(item["name"]) for item in offered if isinstance(item, Mapping) and "name" in item]
        return tuple(dict.fromkeys(names + _DEFERRED.findall(self.asides)))

    @cached_property
    def tool_types(self) -> tuple[str, ...]:
        """Types of the tools that the model's side executes, such as `web_search_20250305`."""
        offered = self.body.get("tools")
        if not isinstance(offered, list):
            return ()
        return tuple(str(item["type"]) for item in offered if isinstance(item, Mapping) and "type" in item)

    @cached_property
    def prefix_id(self) -> str:
        """Names the part of the request that a prompt cache would share: system prompt and first user message."""
        first = next((said for _, said in self._spoken()), "")
        return _digest(self.session, self.system, first)

    @cached_property
    def key(self) -> str:
        """Names the conversation over its requests: what the client calls it, else its first user message."""
        return self.session or self.prefix_id

    @cached_property
    def last_text(self) -> str:
        """The newest text block of a user, whatever it is; empty when there is none."""
        texts = [text for _, text in self._user_texts()]
        return texts[-1] if texts else ""

    @cached_property
    def thread(self) -> str:
        """Names the line of work: sub-agents of a session share its `key`, but not their system prompt."""
        return _digest(self.key, self.system)

    @property
    def script_is_in_last_text(self) -> bool:
        return carries_script(self.last_text)

    @cached_property
    def last_prompt(self) -> tuple[int, str]:
        """Index of the newest message in which the user says something, and what; (0, "") when there is none.

        Tool results, reminders and the harness's own phrases are not the user.
        """
        spoken = list(self._spoken())
        at = spoken[-1][0] if spoken else 0
        return at, "\n".join(said for where, said in spoken if where == at)

    @cached_property
    def turn(self) -> int:
        """How many times the user said something, from 1."""
        return max(len({at for at, _ in self._spoken()}), 1)

    @cached_property
    def tool_results(self) -> tuple[tuple[str, bool], ...]:
        """Text and `is_error` of every tool result, oldest first.

        Results of parallel calls are in the order of the calls: harnesses send them as they come.
        """
        results: list[tuple[str, bool]] = []
        called: list[str] = []
        for message in self.messages:
            if message["role"] == "assistant":
                called += _tool_use_ids(message)
            elif message["role"] == "user" and isinstance(message["content"], list):
                order = {name: at for at, name in enumerate(called)}
                found = [
                    (order.get(str(block.get("tool_use_id")), len(order)), block)
                    for block in message["content"]
                    if isinstance(block, Mapping) and block.get("type") == "tool_result"
                ]
                found.sort(key=lambda item: item[0])
                results += (
                    ("\n".join(_texts(block.get("content"))), block.get("is_error") is True) for _, block in found
                )
        return tuple(results)

    def answers_since(self, at: int) -> int:
        """Answers of the model after message `at`; answers with nothing of the user between them are one."""
        count, before = 0, ""
        for message in self.messages[at + 1 :]:
            role = message["role"]
            if _is_put_into_mouth(message):
                continue
            if role == "assistant" and before != "assistant":
                count += 1
            if role != "system":
                before = role
        return count

    def position(self, default: Script | None) -> Position | None:
        """The place in the script that governs this request; None when there is none. Raises BadRequest."""
        return self.position_in_text() or (self._position_in(default) if default else None)

    def position_in_text(self) -> Position | None:
        """The place in the newest script in the user's messages; None when there is none. Raises BadRequest."""
        fences = [(at, body) for at, text in self._user_texts(queued=True) for body in _fences(text, at)]
        if not fences:
            return None
        at, body = fences[-1]
        try:
            script = Script.from_json(body)
        except ScriptError as error:
            raise BadRequest(f"the rehearsal script in message {at} can't be followed: {error}") from None
        if script.rules:
            raise BadRequest(f"the rehearsal script in message {at} can't be followed: rules belong in a file")
        earlier = sum(1 for _, other in fences[:-1] if other == body)
        return self._place(script.steps, at, script.start, earlier, "conversation")

    def _position_in(self, script: Script) -> Position | None:
        at, said = self.last_prompt
        for rule in script.rules:
            if rule.matches(said):
                return self._place(rule.steps, at, 0, self.turn, "rule")
        return self._place(script.steps, -1, script.start, 0, "file") if script.steps else None

    def _place(
        self,
        steps: tuple[Step, ...],
        at: int,
        start: int,
        occurrence: int,
        origin: Literal["conversation", "rule", "file"],
    ) -> Position:
        script_id = _digest(fingerprint(steps), str(occurrence))[:16]
        known = _given_ids(steps)
        index, before = start, ""
        for message in self.messages[at + 1 :]:
            role = message["role"]
            if _is_put_into_mouth(message):
                continue
            if role == "assistant":
                seen = [known.get(name, _step_of_id(name, script_id)) for name in _tool_use_ids(message)]
                exact = [number for number in seen if number is not None]
                if exact:
                    index = max(exact) + 1
                elif before != "assistant":
                    index += 1
            if role != "system":
                before = role
        return Position(steps=steps, index=index, script_id=script_id, origin=origin)

    def tool_use_id(self, position: str, step: int, block: int) -> str:
        """The id of a tool call: equal for retries of the same request, another one after anything was said since.

        `position` is a script id. 30 characters, of which the step can be read again.
        """
        said: list[str] = []
        length = 0
        for message in self.messages:
            length += message["role"] != "system"
            if message["role"] == "assistant":
                said.clear()
            elif message["role"] == "user":
                said.extend(_REMINDER.sub("", text).strip() for text in _texts(message["content"]))
        place = _digest(self.key, str(length), *filter(None, said))
        return f"{_ID_PREFIX}{position[:5]}{step & 0xFFF:03x}{block & 0xFF:02x}{place[:12]}"

    def _spoken(self) -> Iterator[tuple[int, str]]:
        for at, text in self._user_texts():
            said = _REMINDER.sub("", text).strip()
            if said and not said.lower().startswith(_ADDED_BY_HARNESS):
                yield at, said

    def _user_texts(self, *, queued: bool = False) -> Iterator[tuple[int, str]]:
        """Texts of the user; `queued`: also those that a harness passes on in a system message, in mid-turn."""
        for at, message in enumerate(self.messages):
            role = message["role"]
            if role == "user" or (queued and role == "system"):
                for text in _texts(message["content"]):
                    if role == "user" or _QUEUED.search(text):
                        yield at, text


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in content:
            if isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str):
                yield block["text"]


def _is_put_into_mouth(message: Message) -> bool:
    return message["role"] == "assistant" and "".join(_texts(message["content"])).strip() == _PUT_INTO_MOUTH


def carries_script(text: str) -> bool:
    """Whether a text contains a whole script fence."""
    return FENCE in text and _FENCE.search(text) is not None


def _fences(text: str, at: int) -> list[str]:
    if FENCE not in text:
        return []
    bodies = [match["body"] for match in _FENCE.finditer(text)]
    if len(_OPENED.findall(text)) > len(bodies):
        raise BadRequest(f"the rehearsal script in message {at} can't be followed: its fence is never closed by ```")
    return bodies


def _session_of(body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    named = headers.get("x-claude-code-session-id")
    if named:
        return named
    metadata = body.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    if not isinstance(user, str):
        return ""
    try:
        parts = json.loads(user)
    except ValueError:
        return user
    return str(parts["session_id"]) if isinstance(parts, dict) and parts.get("session_id") else user


def _tool_use_ids(message: Message) -> list[str]:
    content = message["content"]
    if not isinstance(content, list):
        return []
    return [str(block.get("id")) for block in content if isinstance(block, Mapping) and block.get("type") == "tool_use"]


def _step_of_id(name: str, script_id: str) -> int | None:
    start = _ID_PREFIX + script_id[:5]
    if len(name) != 30 or not name.startswith(start):
        return None
    try:
        return int(name[len(start) : len(start) + 3], 16)
    except ValueError:
        return None


def _given_ids(steps: tuple[Step, ...]) -> dict[str, int]:
    # An id that several steps give says nothing about where we are.
    found: dict[str, int | None] = {}
    for index, step in enumerate(steps):
        for block in step.content:
            if block.type == "tool_use" and block.id is not None:
                found[block.id] = None if block.id in found and found[block.id] != index else index
    return {name: index for name, index in found.items() if index is not None}
