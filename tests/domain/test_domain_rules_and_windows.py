"""Rules of a limited network, windows of time, and the smallest list."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.domain.environments import CloudConfigRequest, changed_config, new_config
from hostler.domain.errors import InvalidRequest
from hostler.domain.policies import SuggestPolicy, TryPolicy, since
from hostler.domain.values import parse
from hostler.egress.trial import PolicyTrials
from hostler.engine.policy_port import Asked
from hostler.engine.profile import egress_rules
from hostler.engine.suggestions import Used, suggest


def limited(**networking: Any) -> Any:
    return new_config(parse(CloudConfigRequest, {"type": "cloud", "networking": {"type": "limited", **networking}}))


def test_rules_are_kept_in_one_form_and_shown_without_what_they_leave_open() -> None:
    rule = {"host": "API.example.com", "ports": [8443, 443, 443], "methods": ["get", "GET"], "paths": ["/v1/files"]}
    shown = limited(rules=[rule, {"host": "*.example.org"}, {"host": "*.example.org"}]).wire()["networking"]
    assert shown["rules"] == [
        {"host": "api.example.com", "ports": [8443, 443], "methods": ["GET"], "paths": ["/v1/files"]},
        {"host": "*.example.org"},
    ]
    assert "rules" not in limited().wire()["networking"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "host: is required"),
        ({"host": "10.0.0.1"}, "address"),
        ({"host": "a.example.com:443"}, "port"),
        ({"host": "a.example.com", "ports": [0]}, "at least 1"),
        ({"host": "a.example.com", "ports": [65_536]}, "at most 65535"),
        ({"host": "a.example.com", "ports": ["443"]}, "integer"),
        ({"host": "a.example.com", "methods": ["CONNECT"]}, "tunnel"),
        ({"host": "a.example.com", "methods": ["GET /"]}, "not a method"),
        ({"host": "a.example.com", "paths": ["v1"]}, "begins with /"),
        ({"host": "a.example.com", "paths": ["/a/../b"]}, "plain beginning"),
        ({"host": "a.example.com", "paths": ["/a//b"]}, "plain beginning"),
        ({"host": "a.example.com", "paths": ["/%2e%2e"]}, "plain beginning"),
        ({"host": "a.example.com", "paths": ["/a?x=1"]}, "plain beginning"),
        ({"host": "a.example.com", "paths": ["/a*"]}, "plain beginning"),
        ({"host": "a.example.com", "user": "x"}, "not a field"),
    ],
)
def test_a_rule_that_could_be_read_in_two_ways_is_refused(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        limited(rules=[rule])


@given(st.text(alphabet="/ab.%;*?-_~\\", max_size=12).map(lambda rest: "/" + rest))
def test_every_path_that_is_taken_is_one_that_the_proxy_takes(path: str) -> None:
    try:
        config = limited(rules=[{"host": "a.example.com", "paths": [path]}])
    except InvalidRequest:
        return
    PolicyTrials().of(egress_rules(config.networking.model_dump(mode="json")))


def test_an_update_keeps_the_rules_that_it_does_not_name_and_null_takes_them_away() -> None:
    stored = limited(allowed_hosts=["a.example.com"], rules=[{"host": "b.example.com", "ports": [8443]}])

    def changed(networking: dict[str, Any]) -> Any:
        request = parse(CloudConfigRequest, {"type": "cloud", "networking": {"type": "limited", **networking}})
        return changed_config(stored, request).wire()["networking"]

    assert changed({"allowed_hosts": []})["rules"] == [{"host": "b.example.com", "ports": [8443]}]
    assert "rules" not in changed({"rules": None})
    assert changed({"rules": []})["allowed_hosts"] == ["a.example.com"]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"isolation": {"technology": "chroot"}}, "isolation.technology: must be 'bubblewrap'"),
        ({"preset": "staging"}, "preset: must be 'development' or 'production'"),
        ({"limits": {"disk_mb": 1}}, "limits.disk_mb: must be at least 64"),
        ({"limits": {"open_files": 1}}, "limits.open_files: must be at least 256"),
        ({"hosting": {"cli_version": "latest"}}, "hosting.cli_version: is not a version"),
    ],
)
def test_what_an_environment_can_not_mean_is_refused(part: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        parse(CloudConfigRequest, {"type": "cloud", **part})


def test_a_window_is_a_length_or_a_moment() -> None:
    now = 1_800_000_000.0
    assert since("last-7d", now) == since("7d", now) == since("last-1w", now) == "2027-01-08T08:00:00.000000Z"
    assert since("last-90m", now) == "2027-01-15T06:30:00.000000Z"
    whole = parse(TryPolicy, {"environment_id": "env_1", "since": "2026-01-02T03:04:05+01:00"})
    assert since(whole.since, now) == "2026-01-02T02:04:05.000000Z"
    assert parse(SuggestPolicy, {"session_id": "sesn_1"}).since is None


NAMES = st.sampled_from(["a", "b", "img1", "img2", "img3", "img4", "img5", "x.y"])
PARENTS = st.sampled_from(["example.com", "cdn.example.net", "github.io", "co.uk", "example.org"])
USES = st.builds(
    Used,
    st.one_of(st.builds(lambda name, parent: f"{name}.{parent}", NAMES, PARENTS), st.just("10.0.0.1")),
    st.sampled_from([80, 443, 8443]),
    st.sampled_from(["public_host", "allowed_host", "allowed_rule"]),
)


@given(st.lists(USES, max_size=30), st.booleans())
def test_the_suggestion_covers_all_that_was_used_and_names_the_rest(used: list[Used], fold: bool) -> None:
    made = suggest(used, fold=fold)
    judge = PolicyTrials().of(
        egress_rules(
            limited(**{k: v for k, v in made.networking.items() if k != "type"}).networking.model_dump(mode="json")
        )
    )
    for use in used:
        assert judge(Asked("CONNECT", use.host, use.port)).allowed is (use.host not in made.unlisted)
    names = {use.host for use in used}
    for wildcard, hosts in made.folded:
        assert len(hosts) >= 5
        assert set(hosts) <= names
        assert wildcard not in ("*.github.io", "*.co.uk", "*.com")
    if not fold:
        assert set(made.networking["allowed_hosts"]) <= names
