"""What do the clouds call the models?

For upstreams whose settings don't say. Names as Anthropic's documentation and its own clients have them; a model that
isn't here needs a line in the settings.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAMES: Mapping[str, tuple[str, str]] = {
    "claude-haiku-5-5": ("anthropic.claude-haiku-5-5", "claude-haiku-5-5"),
    "claude-fable-5-2": ("anthropic.claude-fable-5-2", "claude-fable-5-2"),
    "claude-sonnet-5-5": ("anthropic.claude-sonnet-5-5", "claude-sonnet-5-5"),
    "claude-opus-5-5": ("anthropic.claude-opus-5-5", "claude-opus-5-5"),
    "claude-fable-5-1": ("anthropic.claude-fable-5-1", "claude-fable-5-1"),
    "claude-opus-5": ("anthropic.claude-opus-5", "claude-opus-5"),
    "claude-sonnet-5": ("anthropic.claude-sonnet-5", "claude-sonnet-5"),
    "claude-fable-5": ("anthropic.claude-fable-5", "claude-fable-5"),
    "claude-opus-4-8": ("anthropic.claude-opus-4-8", "claude-opus-4-8"),
    "claude-opus-4-7": ("anthropic.claude-opus-4-7", "claude-opus-4-7"),
    "claude-sonnet-4-6": ("anthropic.claude-sonnet-4-6", "claude-sonnet-4-6"),
    "claude-opus-4-6": ("anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
    "claude-opus-4-5-20251101": ("anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5@20251101"),
    "claude-opus-4-5": ("anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5@20251101"),
    "claude-haiku-4-5-20251001": ("anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5@20251001"),
    "claude-haiku-4-5": ("anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5@20251001"),
    "claude-sonnet-4-5-20250929": ("anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5@20250929"),
    "claude-sonnet-4-5": ("anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5@20250929"),
}
"""Ours -> Bedrock's, Vertex's."""


def on_bedrock(profiles: str) -> Mapping[str, str]:
    """`profiles`: prefix of the inference profiles, such as `eu` or `global`."""
    return {ours: f"{profiles}.{bedrock}" for ours, (bedrock, _) in _NAMES.items()}


def on_vertex() -> Mapping[str, str]:
    return {ours: vertex for ours, (_, vertex) in _NAMES.items()}
