"""Which models does the rehearsal model say there are? Any `claude-…` is one; these are listed."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

_LISTED = {
    "claude-opus-5-5": ("Claude Opus 5.5 (rehearsal)", 1_000_000, 128_000),
    "claude-sonnet-5": ("Claude Sonnet 5 (rehearsal)", 1_000_000, 128_000),
    "claude-haiku-5-5": ("Claude Haiku 5.5 (rehearsal)", 200_000, 64_000),
}


def describe_model(model: str) -> dict[str, Any] | None:
    """What GET /v1/models/{id} answers; None when there is no such model."""
    if not model.startswith("claude-"):
        return None
    name, context, output = _LISTED.get(model, (f"{model} (rehearsal)", 200_000, 64_000))
    return {
        "type": "model",
        "id": model,
        "display_name": name,
        "created_at": "2026-01-01T00:00:00Z",
        "deprecated_at": None,
        "retires_at": None,
        "lifecycle": "active",
        "line": None,
        "max_input_tokens": context,
        "max_tokens": output,
        "capabilities": None,
    }


def list_models(query: str) -> dict[str, Any]:
    """What GET /v1/models answers: one page, cut by `limit` and `after_id`."""
    asked = parse_qs(query)
    names = list(_LISTED)
    after = asked.get("after_id", [""])[0]
    if after in names:
        names = names[names.index(after) + 1 :]
    limit = asked.get("limit", ["20"])[0]
    page = names[: int(limit)] if limit.isdecimal() and int(limit) else names
    return {
        "data": [describe_model(name) for name in page],
        "has_more": len(page) < len(names),
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }
