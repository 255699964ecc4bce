"""How is a conversation shortened when it gets long? An agent's policy, which is our extension of an agent."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from hostler.domain.schedules import parse_schedule
from hostler.domain.values import Items, Text, Value, problem

Strategy = Literal["archive_everything", "smart_retention", "hybrid"]

LEAST_THRESHOLD: Final = 20_000
"""Below that, the system prompt, the tools and one summary could fill the context again and again."""
MOST_INSTRUCTIONS: Final = 8_000
"""Characters of the instructions of one request."""
_MOST_FACTS: Final = 20_000
"""Characters of all facts together."""


def _tag(text: str) -> str:
    name = text.removeprefix("#")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise problem("is no tag; use letters, digits, - and _ (at most 64), such as keep")
    return name


def _fact(text: str) -> str:
    if not text.strip():
        raise problem("is blank; write the fact down, or leave it out")
    return text


def _schedule(text: str) -> str:
    try:
        parse_schedule(text)
    except ValueError as error:
        raise problem(str(error)) from None
    return text


Instructions = Annotated[Text, Field(max_length=MOST_INSTRUCTIONS)]


class Compaction(Value):
    """When a session's context is compacted, and what stays word for word. Everything before is archived first."""

    strategy: Strategy = "archive_everything"
    """archive_everything: the last `keep_days` stay, the rest is in the archive · smart_retention: tagged messages and
    facts stay · hybrid: a summary of a certain size that names the archive."""
    threshold_tokens: Annotated[int, Field(ge=LEAST_THRESHOLD, le=2_000_000)] | None = None
    """Tokens of context from which on it is compacted. With neither threshold: shortly before the context is full."""
    threshold_percent: Annotated[float, Field(ge=5, le=95)] | None = None
    """The same in percent of the model's context, less the 20,000 tokens that are kept free for an answer."""
    keep_days: Annotated[int, Field(ge=0, le=365)] | None = None
    """Messages of so many last days stay word for word, the newest first, as far as there is room. Default: 3 with
    archive_everything, otherwise 0."""
    keep_tags: Annotated[Items[Annotated[Text, AfterValidator(_tag)]], Field(max_length=20)] | None = None
    """User messages that hold one of these as `#tag` stay word for word. Default: `keep` with smart_retention."""
    facts: Annotated[Items[Annotated[Text, Field(max_length=2_000), AfterValidator(_fact)]], Field(max_length=50)] = ()
    """They stand word for word in what the model is left with."""
    summary_tokens: Annotated[int, Field(ge=200, le=50_000)] | None = None
    """How long the summary should be. Default: 2,000 with hybrid, otherwise as long as the model finds right."""
    schedule: Annotated[Text, Field(max_length=100), AfterValidator(_schedule)] | None = None
    """When a session is compacted even if it isn't long: `monthly`, or cron's five fields, in UTC."""

    @model_validator(mode="after")
    def _fits(self) -> Compaction:
        if self.threshold_tokens is not None and self.threshold_percent is not None:
            raise problem("has both threshold_tokens and threshold_percent; give one of them")
        if sum(map(len, self.facts)) > _MOST_FACTS:
            raise problem(f"has facts of more than {_MOST_FACTS} characters together; keep them shorter")
        return self

    @property
    def days_kept(self) -> int:
        if self.keep_days is not None:
            return self.keep_days
        return 3 if self.strategy == "archive_everything" else 0

    @property
    def tags_kept(self) -> tuple[str, ...]:
        if self.keep_tags is not None:
            return self.keep_tags
        return ("keep",) if self.strategy == "smart_retention" else ()

    @property
    def summary_target(self) -> int | None:
        if self.summary_tokens is not None:
            return self.summary_tokens
        return 2_000 if self.strategy == "hybrid" else None


class RequestCompaction(Value):
    """The body of `POST /hostler/v1/sessions/{id}/compact`."""

    instructions: Instructions | None = None
    """What the summary is to look at, besides what the agent's policy says."""
