"""The model catalogue through the official client."""

from __future__ import annotations

import anthropic
import pytest


@pytest.mark.endpoint("models.list", "models.retrieve")
def test_every_listed_model_can_be_retrieved(client: anthropic.Anthropic) -> None:
    models = list(client.beta.models.list())
    assert "claude-opus-5-5" in [model.id for model in models]
    assert all(model.lifecycle == "active" and model.type == "model" for model in models)
    for model in models:
        assert client.beta.models.retrieve(model.id).to_dict() == model.to_dict()
    assert [model.id for model in client.models.list()] == [model.id for model in models]


@pytest.mark.endpoint("models.retrieve")
def test_aliases_name_the_dated_model(client: anthropic.Anthropic) -> None:
    assert client.beta.models.retrieve("claude-haiku-4-5").id == "claude-haiku-4-5-20251001"
    with pytest.raises(anthropic.NotFoundError):
        client.beta.models.retrieve("gpt-x")


@pytest.mark.endpoint("models.list")
def test_pages_go_both_ways_by_id(client: anthropic.Anthropic) -> None:
    everything = [model.id for model in client.beta.models.list(limit=1000)]
    assert [model.id for model in client.beta.models.list(limit=4)] == everything
    page = client.beta.models.list(limit=2, before_id=everything[4])
    assert ([model.id for model in page.data], page.has_more) == (everything[2:4], True)
    assert (page.first_id, page.last_id) == (everything[2], everything[3])
    assert client.beta.models.list(limit=2, before_id=everything[1]).has_more is False
    with pytest.raises(anthropic.BadRequestError, match="after_id"):
        client.beta.models.list(after_id="nobody")


@pytest.mark.endpoint("models.list")
def test_lifecycle_filters(client: anthropic.Anthropic) -> None:
    assert client.beta.models.list(lifecycle=["retired"]).data == []
    assert len(client.beta.models.list(lifecycle=["active", "retired"]).data) > 0
    with pytest.raises(anthropic.BadRequestError, match="lifecycle"):
        client.beta.models.list(lifecycle=["dead"])  # type: ignore[list-item]
