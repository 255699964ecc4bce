"""What stays word for word when a conversation is compacted, and what is its summary told to be?

Pure. Facts and tagged messages are to be quoted by the summary; whether they are is checked, and what is missing is put
behind it. Messages of recent days are always put behind it: that is exact, and costs no tokens of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hostler.domain.compaction import Compaction

MOST_ROOM: Final = 40_000
"""Characters of messages that stay; about 10,000 tokens. Facts are bounded by the policy."""
_BYTES_OF_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the conversation."""

    at: str
    """RFC 3339 text."""
    who: str
    """`user` or `agent`."""
    text: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What is to stay."""

    facts: tuple[str, ...] = ()
    tagged: tuple[Said, ...] = ()
    recent: tuple[Said, ...] = ()
    """Oldest first, like `tagged`. None is in both."""
    left_out: int = 0
    """Messages that there was no room for. They are in the archive."""


def said(event: Mapping[str, Any]) -> Said | None:
    """A `user.message` or `agent.message` of the log. None: it has no text."""
    texts = [
        block["text"] if block.get("type") == "text" else f"[{block.get('type')}]"
        for block in event.get("content") or ()
        if isinstance(block, Mapping) and (block.get("type") != "text" or str(block.get("text", "")).strip())
    ]
    if not texts:
        return None
    who = "user" if str(event.get("type", "")).startswith("user.") else "agent"
    return Said(str(event.get("processed_at") or ""), who, "\n".join(map(str, texts)))


def is_tagged(message: Said, tags: Sequence[str]) -> bool:
    """Whether a user's message holds one of the tags as `#tag`, not as a part of a longer word."""
    return message.who == "user" and any(
        re.search(rf"(?<![\w#])#{re.escape(tag)}(?![\w-])", message.text) for tag in tags
    )


def to_keep(policy: Compaction, tagged: Sequence[Said], recent: Sequence[Said]) -> Kept:
    """What there is room for: tagged messages first, the newest first. Both are given newest first."""
    room = MOST_ROOM if policy.threshold_tokens is None else min(MOST_ROOM, policy.threshold_tokens)
    stay: list[list[Said]] = [[], []]
    left_out = 0
    for kept, messages in zip(stay, (tagged, recent), strict=True):
        for at, message in enumerate(messages):
            if message in stay[0]:
                continue
            if len(message.text) > room:  # an older and shorter one in its place would leave a hole
                left_out += len(messages) - at
                break
            room -= len(message.text)
            kept.append(message)
    return Kept(policy.facts, tuple(reversed(stay[0])), tuple(reversed(stay[1])), left_out)


def instructions(policy: Compaction, kept: Kept, archive_id: str, asked: str | None) -> str:
    """For whoever writes the summary. `asked`: what the person says who wants this compaction."""
    parts = [
        f"Everything up to now has been archived word for word as {archive_id}, outside of your reach. "
        f"Name that archive in your summary: what the summary leaves out is there."
    ]
    if kept.facts:
        listed = "\n".join(f"- {fact}" for fact in kept.facts)
        parts.append(f"Your summary must hold each of these facts, word for word:\n{listed}")
    if kept.tagged:
        names = " or ".join(f"#{tag}" for tag in policy.tags_kept)
        parts.append(
            f"Quote word for word every user message that is marked with {names} ({len(kept.tagged)} of them)."
        )
    if kept.recent:
        parts.append(
            f"The {len(kept.recent)} messages since {kept.recent[0].at} will be put behind your summary word for word. "
            "Don't repeat them; summarise what was before, and what was done by tools."
        )
    if policy.summary_target is not None:
        words = policy.summary_target * 3 // 4
        parts.append(f"Write at most about {policy.summary_target} tokens, which is about {words} words.")
    if asked:
        parts.append(asked)
    return "\n\n".join(parts)


def note(kept: Kept, archive_id: str, summary: str | None) -> tuple[str | None, dict[str, int]]:
    """What is put behind the summary, and what stays in numbers. `summary` None: nobody knows what it holds."""
    written = _plain(summary or "")
    facts = [fact for fact in kept.facts if _plain(fact) not in written]
    tagged = [message for message in kept.tagged if _plain(message.text) not in written]
    parts = []
    if facts:
        parts.append("Facts that hold, word for word:\n" + "\n".join(f"- {fact}" for fact in facts))
    if tagged:
        parts.append("Messages that are marked to be kept, word for word:\n\n" + _quoted(tagged))
    if kept.recent:
        parts.append("The latest messages, word for word, the oldest first:\n\n" + _quoted(kept.recent))
    if kept.left_out:
        parts.append(f"There was no room for {kept.left_out} older messages of these; they are in the archive.")
    if parts or archive_id not in (summary or ""):
        parts.insert(0, f"What was said before is archived word for word as {archive_id}, outside of your reach.")
    counts = {
        "facts": len(kept.facts),
        "facts_added": len(facts),
        "tagged": len(kept.tagged),
        "tagged_added": len(tagged),
        "recent": len(kept.recent),
        "left_out": kept.left_out,
    }
    return "\n\n".join(parts) or None, counts


def tokens_of(text: str) -> int:
    """An estimate: four bytes are a token."""
    return len(text.encode("utf-8", "surrogatepass")) // _BYTES_OF_TOKEN


def _quoted(messages: Sequence[Said]) -> str:
    return "\n\n".join(f"[{message.at} {message.who}]\n{message.text}" for message in messages)


def _plain(text: str) -> str:
    """Without the line breaks and quotation marks that a quotation adds."""
    return " ".join(re.sub(r"^\s*>+ ?", "", text, flags=re.MULTILINE).split())
