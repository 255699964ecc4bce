"""How is `claude` told when to compact, asked before it does, and given what stays besides its summary?

Measured with 2.1.329. `CLAUDE_CODE_AUTO_COMPACT_WINDOW` is a number of tokens, at least 100,000 and never more than the
model's window; it compacts 33,000 tokens before that. `CLAUDE_AUTOCOMPACT_PCT_OVERRIDE` is a part of the window less
20,000, fractions allowed; the earlier of both counts. The order of hooks is PreCompact, SubagentStop with the text of
the summary and an empty agent type, SessionStart with the source `compact`. A block is obeyed; what SessionStart adds
is an entry of the transcript, so it outlives the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from claude_agent_sdk import HookMatcher

from hostler.engine.runs import ContextKeeper, GoAhead, NotNow, RunSpec

log = logging.getLogger("hostler.harness")

KEEPER_SECONDS: Final = 300.0
"""How long archiving may take before a compaction is put off."""
_HOOK_SECONDS: Final = KEEPER_SECONDS + 30.0
_RESERVE: Final = 33_000
_LEAST_WINDOW: Final = 100_000
_ANSWER: Final = 20_000


def threshold_environment(spec: RunSpec) -> dict[str, str]:
    """Variables that make `claude` compact where `spec` says. A model with a smaller window compacts before its end."""
    if spec.compact_at_percent is not None:
        return {"CLAUDE_AUTOCOMPACT_PCT_OVERRIDE": f"{spec.compact_at_percent:g}"}
    wanted = spec.compact_at_tokens
    if wanted is None:
        return {}
    window = max(_LEAST_WINDOW, wanted + _RESERVE)
    found = {"CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(window)}
    if wanted + _RESERVE < _LEAST_WINDOW:
        found["CLAUDE_AUTOCOMPACT_PCT_OVERRIDE"] = f"{100 * wanted / (_LEAST_WINDOW - _ANSWER):.4f}"
    return found


class CompactionHooks:
    """The hooks of one run. `last_entry` tells the uuid of the newest entry that the run has spoken of."""

    def __init__(self, keeper: ContextKeeper, last_entry: Callable[[], str | None]) -> None:
        self._keeper = keeper
        self._last_entry = last_entry
        self._summary: str | None = None

    def matchers(self) -> dict[str, list[HookMatcher]]:
        return {
            "PreCompact": [HookMatcher(hooks=[self._before], timeout=_HOOK_SECONDS, on_failure="block")],
            "SubagentStop": [HookMatcher(hooks=[self._summarised], timeout=_HOOK_SECONDS)],
            "SessionStart": [HookMatcher(hooks=[self._after], timeout=_HOOK_SECONDS)],
        }

    async def _before(self, hook: Any, tool_use_id: str | None, context: Any) -> Any:
        self._summary = None
        trigger = hook.get("trigger")
        verdict: GoAhead | NotNow
        try:
            async with asyncio.timeout(KEEPER_SECONDS):
                verdict = await self._keeper.before("manual" if trigger == "manual" else "auto", self._last_entry())
        except Exception as error:
            # An error of a hook is no answer to `claude`: it would go on, without an archive.
            log.exception("compaction_not_prepared")
            verdict = NotNow(f"it could not be prepared ({type(error).__name__})")
        match verdict:
            case GoAhead(instructions=""):
                return {}
            case GoAhead(instructions=text):
                return {"systemMessage": text}
            case NotNow(reason=reason):
                return {"decision": "block", "reason": reason}

    async def _summarised(self, hook: Any, tool_use_id: str | None, context: Any) -> Any:
        text = hook.get("last_assistant_message") if isinstance(hook, Mapping) else None
        if not hook.get("agent_type") and isinstance(text, str):
            self._summary = text
        return {}

    async def _after(self, hook: Any, tool_use_id: str | None, context: Any) -> Any:
        if hook.get("source") != "compact":
            return {}
        summary, self._summary = self._summary, None
        text = await self._keeper.besides(summary)
        if not text:
            return {}
        return {"hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": text}}
