"""Which rung a session gets, and what is said where a promise can't be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostler.domain.environments import CloudConfigRequest, SelfHostedConfig, new_config
from hostler.domain.errors import InvalidRequest
from hostler.domain.isolation import Technology
from hostler.domain.values import parse
from hostler.engine.placement import Needs, NothingVerified, PresetTerms, Programs, Survey, needs_of
from hostler.engine.sandbox_port import IsolationLabel

BWRAP = IsolationLabel("bubblewrap", "per_sandbox", "cgroup_v2", disk_by="volume")
DOCKER = IsolationLabel("docker", "engine", "engine", disk_by="volume")
GVISOR = IsolationLabel("gvisor", "engine", "cgroup_v2", kernel="user_space", disk_by="volume")
MICROVM = IsolationLabel("microvm", "shared", "machine", kernel="own", disk_by="volume")
EVERYTHING: Mapping[Technology, IsolationLabel | str] = {
    "microvm": MICROVM,
    "gvisor": GVISOR,
    "docker": DOCKER,
    "podman": "podman is not installed: apt-get install podman.",
    "bubblewrap": BWRAP,
}
PROGRAMS = Programs("2.1.300", {"2.1.300": Path("/a"), "2.1.290": Path("/b")})


class Corpus:
    """Knows of these failures; of other technologies, that nothing failed."""

    def __init__(self, **failures: Sequence[str] | None) -> None:
        self._failures = failures

    def critical_failures(self, technology: Technology, label: IsolationLabel) -> Sequence[str] | None:
        assert label.technology == technology
        return self._failures.get(technology, ())


def survey(given: Mapping[Technology, IsolationLabel | str] = EVERYTHING, verified: Any = None, **terms: Any) -> Survey:
    return Survey(given, PresetTerms(**terms), PROGRAMS, verified or Corpus())


def without(*names: str) -> dict[Technology, IsolationLabel | str]:
    return {name: found for name, found in EVERYTHING.items() if name not in names}


def config(**parts: Any) -> Any:
    limited = {"type": "limited", "allowed_hosts": ["api.example.com"]}
    return new_config(parse(CloudConfigRequest, {"type": "cloud", "networking": limited, **parts}))


def refusal(on: Survey, checked: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        on.check(checked)
    return caught.value.message, caught.value.code


def test_without_a_wish_it_is_the_strongest_that_the_host_gives() -> None:
    assert survey().choose(Needs()).technology == "microvm"
    assert survey(without("microvm")).choose(Needs()).technology == "gvisor"
    assert survey(without("microvm", "gvisor")).choose(Needs()).technology == "docker"
    assert survey({"bubblewrap": BWRAP}).choose(Needs()).technology == "bubblewrap"


def test_the_operators_choice_counts_where_an_environment_names_none_and_nothing_stands_in_for_it() -> None:
    assert survey(preferred="bubblewrap").choose(Needs()).technology == "bubblewrap"
    assert survey(preferred="bubblewrap").choose(Needs(technology="gvisor")).technology == "gvisor"
    message, code = refusal(survey(preferred="podman"), config())
    assert "apt-get install podman" in message
    assert code == "isolation_unavailable"
    # It is too weak for production, which takes the strongest then.
    assert survey(preferred="bubblewrap").choose(Needs("production")).technology == "microvm"


def test_a_technology_that_is_not_there_is_named_with_the_reason_and_where_to_look() -> None:
    message, code = refusal(survey(), config(isolation={"technology": "podman"}))
    assert message == (
        "config.isolation.technology: podman is not available on this host: podman is not installed: "
        "apt-get install podman (see `hostler doctor`)"
    )
    assert code == "isolation_unavailable"
    assert "not configured" in refusal(survey(without("docker")), config(isolation={"technology": "docker"}))[0]


@pytest.mark.parametrize(
    ("label", "limit"),
    [
        (replace(BWRAP, limits_by="none"), "memory_mb"),
        (replace(BWRAP, limits_by="none"), "cpus"),
        (replace(BWRAP, limits_by="none"), "pids"),
        (replace(BWRAP, disk_by="none"), "disk_mb"),
        (replace(BWRAP, unlimited=("pids",)), "pids"),
        (replace(BWRAP, unlimited=("open_files",)), "open_files"),
    ],
)
def test_a_limit_that_is_not_enforced_is_refused_where_it_is_named(label: IsolationLabel, limit: str) -> None:
    limits = {limit: 1024}
    on = survey({"bubblewrap": label})
    named = config(isolation={"technology": "bubblewrap"}, limits=limits)
    message, code = refusal(on, named)
    assert message.startswith(f"config.limits.{limit}: bubblewrap can't limit ")
    assert code == "limit_not_enforced"
    assert limit in label.unenforced
    on.check(config(isolation={"technology": "bubblewrap"}))  # who names no limit is told by the label
    survey().check(named)
    # Without a wish it is the strongest rung that keeps all of it.
    weak = {**without("microvm", "docker"), "gvisor": replace(label, technology="gvisor")}
    assert survey(weak).choose(Needs(limits=frozenset({limit}))).technology == "bubblewrap"


def test_production_takes_nothing_below_its_minimum() -> None:
    assert survey().choose(Needs("production")).technology == "microvm"
    message, code = refusal(survey(), config(preset="production", isolation={"technology": "docker"}))
    assert "docker is weaker than gvisor" in message
    assert code == "preset_conflict"
    survey(minimum="docker").check(config(preset="production", isolation={"technology": "docker"}))
    message, code = refusal(survey({"bubblewrap": BWRAP, "docker": DOCKER}), config(preset="production"))
    assert "production (gvisor or stronger)" in message
    assert message.count("(see `hostler doctor`)") == 1
    assert code == "isolation_unavailable"


def test_production_needs_a_list_of_hosts() -> None:
    for networking in ({"type": "unrestricted"}, None):
        message, code = refusal(survey(), config(preset="production", networking=networking))
        assert message.startswith("config.networking: is unrestricted")
        assert code == "preset_conflict"
    assert "default of this server" in refusal(survey(default="production"), new_config(None))[0]
    survey().check(new_config(None))
    survey(default="production").check(config(preset="development", networking={"type": "unrestricted"}))


def test_production_needs_every_limit_enforced_unless_the_operator_says_otherwise() -> None:
    loose = replace(GVISOR, disk_by="none", missing=("No volume can be made here.",))
    given: dict[Technology, IsolationLabel | str] = {"gvisor": loose}
    message, code = refusal(survey(given), config(preset="production", isolation={"technology": "gvisor"}))
    assert "can't limit disk" in message
    assert "No volume can be made here." in message
    assert code == "preset_conflict"
    survey(given, limits="any").check(config(preset="production"))
    # One that it names itself counts all the same.
    assert refusal(survey(given, limits="any"), config(preset="production", limits={"disk_mb": 64}))


def test_production_takes_no_host_user_that_all_sandboxes_share_on_one_kernel() -> None:
    shared: dict[Technology, IsolationLabel | str] = {"bubblewrap": replace(BWRAP, host_user="shared")}
    message, _ = refusal(survey(shared, minimum="bubblewrap"), config(preset="production"))
    assert "same host user" in message
    survey({"microvm": MICROVM}).check(config(preset="production"))


def test_production_starts_only_where_no_critical_attack_succeeded() -> None:
    failing = Corpus(gvisor=["C3, the socket of the engine: it answered."])
    message, _code = refusal(survey({"gvisor": GVISOR}, failing), config(preset="production"))
    assert "C3, the socket of the engine" in message
    assert "hostler doctor --attack" in message
    survey({"gvisor": GVISOR}, failing).check(config())
    survey({"gvisor": GVISOR}, failing, attacks="any").check(config(preset="production"))
    assert survey(verified=Corpus(microvm=["x"])).choose(Needs("production")).technology == "gvisor"
    message, _ = refusal(survey({"gvisor": GVISOR}, NothingVerified()), config(preset="production"))
    assert "has not been run against gvisor" in message


def test_a_self_hosted_environment_has_the_servers_preset() -> None:
    survey({"bubblewrap": BWRAP}).check(SelfHostedConfig())
    with pytest.raises(InvalidRequest, match="gvisor or stronger"):
        survey({"bubblewrap": BWRAP}, default="production").check(SelfHostedConfig())


def test_a_version_of_claude_that_is_not_there_is_refused_with_those_that_are() -> None:
    message, code = refusal(survey(), config(hosting={"cli_version": "1.0.0"}))
    assert message.startswith("config.hosting.cli_version: this server has no claude 1.0.0; it has 2.1.290 or 2.1.300")
    assert code == "cli_version_unknown"
    survey().check(config(hosting={"cli_version": "2.1.290"}))


def test_rooms_are_made_where_they_can_be_and_refused_elsewhere() -> None:
    rooms = {"hosting": {"pattern": "shared"}}
    message, code = refusal(survey(), config(**rooms))
    assert code == "isolation_unavailable"
    given: dict[Technology, IsolationLabel | str] = {**EVERYTHING, "bubblewrap": replace(BWRAP, no_rooms="")}
    assert survey(given).choose(needs_of(config(**rooms), PresetTerms())).technology == "bubblewrap"
    message, code = refusal(survey(given), config(**rooms, isolation={"technology": "gvisor"}))
    assert code == "rooms_unavailable"
    assert message.startswith("config.hosting.pattern: shared is not available with gvisor on this host")
    _, code = refusal(survey(given, minimum="gvisor"), config(**rooms, preset="production"))
    assert code == "isolation_unavailable"
