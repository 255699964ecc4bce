"""The catalogue of models that an operator wrote, through the official client on the whole server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from housekit import open_house

from hostler.domain.errors import InvalidRequest
from hostler.engine.models import read_catalogue

pytestmark = pytest.mark.one_database

MODELS: list[dict[str, Any]] = [
    {"id": "model-e", "display_name": "E", "line": "opus", "created_at": "2026-05-01T00:00:00Z", "aliases": ["newest"]},
    {"id": "model-d", "display_name": "D", "line": "opus", "lifecycle": "deprecated",
     "deprecated_at": "2026-04-01T00:00:00Z", "retires_at": "2027-04-01T00:00:00Z"},
    {"id": "model-c", "display_name": "C", "line": "opus", "lifecycle": "retired"},
    {"id": "model-b", "display_name": "B", "line": "haiku", "max_tokens": 1000, "max_input_tokens": 2000},
    {"id": "model-a", "display_name": "A"},
]  # fmt: skip


@pytest.mark.endpoint("models.list", "models.retrieve")
async def test_catalogue_of_a_file_is_listed_filtered_and_paged(tmp_path: Path, store_url: str) -> None:
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"models": MODELS}))
    async with open_house(tmp_path, store_url, models__file=str(file)) as house:
        models = house.client.beta.models

        async def ids(**filters: Any) -> list[str]:
            return [model.id async for model in models.list(**filters)]

        assert await ids() == ["model-e", "model-d", "model-b", "model-a"]
        assert await ids(limit=1) == await ids()
        assert await ids(lifecycle=["retired"]) == ["model-c"]
        assert await ids(lifecycle=["active", "retired"]) == ["model-e", "model-c", "model-b", "model-a"]
        assert await ids(lifecycle=["deprecated"], limit=1) == ["model-d"]

        first = await models.list(limit=2)
        assert (first.first_id, first.last_id, first.has_more) == ("model-e", "model-d", True)
        after = await models.list(limit=2, after_id=first.last_id or "")
        assert ([m.id for m in after.data], after.has_more) == (["model-b", "model-a"], False)
        before = await models.list(limit=1, before_id="model-b")
        assert ([m.id for m in before.data], before.has_more) == (["model-d"], True)
        for wrong in ({"after_id": "nobody"}, {"after_id": "model-e", "before_id": "model-a"}):
            with pytest.raises(anthropic.BadRequestError):
                await models.list(**wrong)

        assert (await models.retrieve("newest")).id == "model-e"
        assert (await models.retrieve("model-a")).line is None
        old = await models.retrieve("model-d")
        assert (old.lifecycle, old.deprecated_at and old.deprecated_at.year) == ("deprecated", 2026)
        assert (await models.retrieve("model-b")).max_input_tokens == 2000
        with pytest.raises(anthropic.NotFoundError):
            await models.retrieve("claude-opus-5-5")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "models.json"),
        ('{"models": []}', "models: must have at least 1"),
        ('{"models": [{"id": "a"}]}', r"models\[0\].display_name: is required"),
        ('{"models": [{"id": "a b", "display_name": "A", "line": "opus"}]}', r"models\[0\].id: is not a model id"),
        ('{"models": [{"id": "a", "display_name": "A", "line": "big"}]}', r"models\[0\].line: must be"),
        ('{"models": [{"id": "a", "display_name": "A", "line": "opus", "created_at": "then"}]}', "must be a moment"),
        ('{"models": [{"id": "a", "display_name": "A", "line": "opus", "aliases": ["a"]}]}', "a is there twice"),
    ],
)
def test_a_file_that_is_no_catalogue_says_why(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "models.json"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        read_catalogue(file)
