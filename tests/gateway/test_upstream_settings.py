"""What operators set about upstreams: what follows from it, and what is refused at the start."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
from clouds_kit import cloudy, no_aws, said
from gateway_fakes import FakeUpstream, answers_sse, sse_message

import hostler.gateway
from hostler.cli.upstreams import look_at
from hostler.compose.gateway import open_desk
from hostler.compose.upstreams import entry_of, key_of, open_channel, reaches_clouds, upstream_keys
from hostler.config import Settings, load
from hostler.domain.errors import InvalidRequest

TEXT = sse_message([{"type": "text", "text": "hello"}])
BEDROCK: dict[str, Any] = {"name": "aws", "kind": "bedrock", "region": "eu-central-1", "inference_profiles": "eu"}
VERTEX: dict[str, Any] = {"name": "google", "kind": "vertex", "project": "p-1", "region": "europe-west1"}
CLAUDE: dict[str, Any] = {"name": "claude", "kind": "anthropic", "api_key": "sk-1"}


def settings_with(*upstreams: dict[str, Any], **more: Any) -> Settings:
    return load({}, state_dir="/nonexistent", upstreams=list(upstreams), **more)


def test_the_tables_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hostler.toml"
    file.write_text(
        '[[upstreams]]\nname = "bedrock-eu"\nkind = "bedrock"\norder = 1\nweight = 2\nregion = "eu-central-1"\n'
        'models = {"claude-opus-5-5" = "eu.anthropic.claude-opus-5-5-v1:0"}\n\n'
        '[[upstreams]]\nname = "own"\nkind = "anthropic"\nbase_url = "http://models.internal:8000/v"\nauth = "bearer"\n'
    )
    bedrock, own = (entry_of(upstream) for upstream in load({}, file).upstreams)
    assert (bedrock.name, bedrock.order, bedrock.weight) == ("bedrock-eu", 1, 2)
    assert bedrock.models == {"claude-opus-5-5": "eu.anthropic.claude-opus-5-5-v1:0"}
    assert (own.name, own.order, own.weight, own.models) == ("own", 0, 1, None)


def test_the_same_in_the_environment() -> None:
    text = '[{"name": "own", "kind": "anthropic", "base_url": "http://m:1"}]'
    assert [upstream.name for upstream in load({"HOSTLER_UPSTREAMS": text}).upstreams] == ["own"]
    assert load({"HOSTLER_UPSTREAMS": ""}).upstreams == ()


def test_usual_names_of_models_are_known() -> None:
    bedrock, vertex = (entry_of(upstream).models for upstream in settings_with(BEDROCK, VERTEX).upstreams)
    assert bedrock is not None
    assert vertex is not None
    assert bedrock["claude-haiku-4-5"] == "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
    assert bedrock["claude-opus-5-5"] == "eu.anthropic.claude-opus-5-5"
    assert vertex["claude-haiku-4-5"] == "claude-haiku-4-5@20251001"
    assert vertex["claude-opus-5-5"] == "claude-opus-5-5"


async def test_without_upstreams_the_model_is_the_only_one() -> None:
    async with contextlib.AsyncExitStack() as stack:
        desk = await open_desk(load({"ANTHROPIC_API_KEY": "sk"}), stack)
        assert set(desk.channels) == {"model"}
        await desk.close()
        desk = await open_desk(settings_with(CLAUDE, model__rehearse=True), stack)
        assert set(desk.channels) == {"model"}
        await desk.close()


@pytest.mark.parametrize(
    ("upstreams", "said"),
    [
        ([{**BEDROCK, "region": ""}], "upstreams.0.bedrock.region"),
        ([{"name": "aws", "kind": "bedrock", "region": "us-east-1"}], "say what the models are called there"),
        ([{**BEDROCK, "models": {"a": "b"}}], "say what the models are called there"),
        ([{**BEDROCK, "project": "p"}], "upstreams.0.bedrock.project"),
        ([{**BEDROCK, "profile": "p", "api_key": "k"}], "not both"),
        ([{**VERTEX, "project": None}], "upstreams.0.vertex.project: "),
        ([{**VERTEX, "api_key": "k"}], "upstreams.0.vertex.api_key"),
        ([{**VERTEX, "models": {}}], "at least one model"),
        ([{**VERTEX, "models": {"a": "../b"}}], "no name of a model"),
        ([{**VERTEX, "base_url": "ftp://x"}], "write http://host"),
        ([{**VERTEX, "name": "Has Space"}], "upstreams.0.vertex.name"),
        ([{**VERTEX, "weight": 0}], "upstreams.0.vertex.weight"),
        ([{**CLAUDE, "kind": "azure"}], "upstreams.0: has kind 'azure'; use one of 'anthropic', 'bedrock', 'vertex'"),
        ([{"name": "x"}], "upstreams.0: needs a kind"),
        ([{**CLAUDE, "colour": "red"}], "upstreams.0.anthropic.colour: there is no such option"),
        ([{**CLAUDE, "api_key_file": "/x"}], "give one of"),
        ([CLAUDE, CLAUDE], "option upstreams: two upstreams are called claude"),
        ("[{", "JSON list"),
        ("{}", "upstreams"),
    ],
)
def test_what_makes_no_sense_is_refused(upstreams: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^option upstreams") as refused:
        load({}, upstreams=upstreams)
    assert said in refused.value.message


def test_an_address_of_the_model_beside_upstreams_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"model\.base_url"):
        settings_with(CLAUDE, model__base_url="http://m:1")


def test_keys_come_from_one_of_three_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-file\nmore\n")
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv("MY_KEY", "sk-env")
    base = {"name": "x", "kind": "anthropic"}

    def key(**more: Any) -> str:
        settings = settings_with({**base, **more}, model__api_key="sk-default")
        return key_of(settings.upstreams[0], settings)

    assert key(api_key="sk-own") == "sk-own"
    assert key(api_key_file=str(tmp_path / "key")) == "sk-file"
    assert key(api_key_env="MY_KEY") == "sk-env"
    assert key() == "sk-default"
    assert key(base_url="http://m:1") == ""
    for wrong in (
        {"api_key_file": str(tmp_path / "none")},
        {"api_key_file": str(tmp_path / "empty")},
        {"api_key_env": "NOT_SET"},
        {"api_key": "ü"},
    ):
        with pytest.raises(InvalidRequest, match=r"^upstream x: "):
            key(**wrong)
    with pytest.raises(InvalidRequest, match="ANTHROPIC_API_KEY"):
        key_of(settings_with(base).upstreams[0], settings_with(base))


def test_no_key_of_an_upstream_leaves_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    no_aws(monkeypatch)
    keyed = {**BEDROCK, "name": "b", "api_key": "bedrock-key"}
    settings = settings_with(CLAUDE, keyed, VERTEX)
    assert upstream_keys(settings) == ["sk-1", "bedrock-key"]
    assert "sk-1" not in repr(settings)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "from-env")
    assert upstream_keys(settings_with(BEDROCK)) == ["from-env"]
    assert upstream_keys(settings_with({**BEDROCK, "profile": "p"})) == []


def test_the_harness_asks_for_what_all_upstreams_take() -> None:
    picky = {**CLAUDE, "betas": []}
    listed: list[tuple[dict[str, Any], ...]] = [(), (CLAUDE,), (CLAUDE, VERTEX), (picky,)]
    assert [reaches_clouds(settings_with(*some)) for some in listed] == [False, False, True, True]


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hostler.gateway, "bedrock", raising=False)
    monkeypatch.delattr(hostler.gateway, "aws", raising=False)
    for module in ("hostler.gateway.bedrock", "hostler.gateway.aws"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    settings = settings_with(BEDROCK)
    with pytest.raises(InvalidRequest, match=r"pip install 'hostler\[bedrock\]'"):
        open_channel(settings.upstreams[0], settings)


def test_doctor_says_what_was_found_without_asking_anybody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_aws(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)

    def found(upstream: dict[str, Any]) -> tuple[str, str]:
        settings = settings_with(upstream)
        verdict, said, _ = look_at(settings.upstreams[0], settings, probe=False)
        return verdict, said

    assert found(CLAUDE) == ("ok", "https://api.anthropic.com, any model, with a key")
    assert found({**CLAUDE, "api_key": ""})[0] == "fail"
    assert found(BEDROCK)[0] == "warn"
    assert found(VERTEX)[0] == "warn"
    assert found({**BEDROCK, "profile": "nobody"})[0] == "fail"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    verdict, said = found(BEDROCK)
    assert (verdict, said.endswith("credentials: env")) == ("ok", True)
    assert "s3cret" not in said
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing"))
    assert found(VERTEX)[0] == "fail"


async def test_each_model_is_asked_of_who_has_it_and_betas_pass_where_they_may(tmp_path: Path) -> None:
    async with FakeUpstream(answers_sse(TEXT)).running() as first, FakeUpstream(answers_sse(TEXT)).running() as second:
        ours = {"name": "a", "kind": "anthropic", "base_url": f"http://127.0.0.1:{first.port}/x", "betas": ["known"]}
        theirs = {"name": "b", "kind": "anthropic", "order": 1, "base_url": f"http://127.0.0.1:{second.port}"}
        async with cloudy(tmp_path, theirs, {**ours, "models": {"claude-x": "their-x"}}, once=False) as road:
            await road.ask(said(model="claude-x"), headers="Anthropic-Beta: unknown, known,other\r\n")
            await road.ask(said(model="claude-y"), headers="Anthropic-Beta: unknown\r\n")
            [seen] = first.seen
            assert (seen.json["model"], seen.headers["anthropic-beta"]) == ("their-x", "known")
            assert seen.line.startswith("POST /x/v1/messages")
            [seen] = second.seen
            assert (seen.json["model"], seen.headers["anthropic-beta"]) == ("claude-y", "unknown")
            assert [(record.upstream, record.model) for record in road.listener.records] == [
                ("a", "claude-x"),
                ("b", "claude-y"),
            ]


def test_doctor_asks_when_told_to() -> None:
    settings = settings_with({**CLAUDE, "base_url": "http://127.0.0.1:9"})
    verdict, said, _ = look_at(settings.upstreams[0], settings, probe=True)
    assert (verdict, "can't be reached" in said) == ("fail", True)
