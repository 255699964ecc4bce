"""What Prometheus reads: names by one rule, all there from the start; rules and panels ask for what there is."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hostler.api.app import own_endpoints, served_methods
from hostler.compose.metrics import open_metrics
from hostler.engine.guards import Guards, GuardTerms
from hostler.engine.model_port import Asked, Caller, Ended, Target, Trouble, UpstreamHealth
from hostler.store.sessions import Usage
from hostler.telemetry.metrics import NO_ENDPOINT, OUTCOMES, STATUS_CLASSES, Metrics

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "hostler.json"
NAME = re.compile(r"hostler_[a-z0-9]+(_[a-z0-9]+)*\Z")
OURS = re.compile(r"\bhostler_[a-z0-9_]+")


def made() -> Metrics:
    metrics = open_metrics(["first", "second"])
    metrics.show_guards(Guards(GuardTerms(), lambda: 5, lambda: None))
    metrics.show("hostler_sessions_live", "Live.", lambda: 0)
    metrics.show_all("hostler_spares", "Spares.", "state", {"waiting": lambda: 0.0})
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_names_follow_the_rule() -> None:
    text = generate_latest(made().registry).decode()
    assert "_created" not in text
    for family in text_string_to_metric_families(text):
        assert NAME.match(family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(ms|milliseconds|kb|mb|mib|minutes|hours)\b", family.name), family.name
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total"), sample.name


def test_every_combination_is_there_at_zero() -> None:
    found = samples(made())
    for endpoint in (*served_methods(), *(f"hostler.{name}" for name in own_endpoints()), NO_ENDPOINT):
        for status in STATUS_CLASSES:
            assert found[("hostler_http_requests_total", (("endpoint", endpoint), ("status_class", status)))] == 0
    for upstream in ("first", "second"):
        for outcome in OUTCOMES:
            assert found[("hostler_model_attempts_total", (("outcome", outcome), ("upstream", upstream)))] == 0
    assert found[("hostler_turns_stopped_total", (("reason", "budget_reached"),))] == 0


@pytest.mark.parametrize(
    ("status", "failure", "outcome"),
    [
        (200, "", "answered"),
        (200, "The connection broke.", "broken"),
        (0, "Refused.", "broken"),
        (400, "status 400", "refused"),
        (429, "status 429", "throttled"),
        (529, "status 529", "overloaded"),
        (500, "status 500", "failed"),
    ],
)
def test_an_attempt_counts_by_how_it_ended(status: int, failure: str, outcome: str) -> None:
    metrics = made()
    asked = Asked("mreq_1", Caller("sesn_1"), "m", {}, 10, stream=True)
    target = Target("first", "m", "m")
    metrics.ended(asked, Ended(target, 1, status, failure, None, False, 2.0, 1.5), Usage())
    found = samples(metrics)
    counted = {key: value for key, value in found.items() if key[0] == "hostler_model_attempts_total" and value}
    assert counted == {("hostler_model_attempts_total", (("outcome", outcome), ("upstream", "first"))): 1}
    assert found[("hostler_model_attempt_duration_seconds_sum", (("upstream", "first"),))] == 1.5


def test_what_is_used_becomes_tokens_and_dollars() -> None:
    metrics = made()
    metrics.recorded(Usage(input_tokens=3, output_tokens=4, list_cost_nanos=2_500_000_000, unpriced_requests=1))
    found = samples(metrics)
    assert found[("hostler_cost_usd_total", ())] == 2.5
    assert found[("hostler_model_tokens_total", (("kind", "output"),))] == 4
    assert found[("hostler_model_unpriced_requests_total", ())] == 1


@pytest.mark.parametrize("state", ["open", "half_open"])
def test_an_open_breaker_shows_until_it_is_closed(state: Any) -> None:
    metrics = made()
    trouble, rests = Trouble("m", state, "status 529", 5, 1.0, None), Trouble("m", "resting", "status 429", 1, 1.0, 9.0)
    metrics.upstreams([UpstreamHealth("first", 0, 1, (trouble,)), UpstreamHealth("second", 1, 1, (rests,))])
    assert samples(metrics)[("hostler_upstream_open", (("upstream", "first"),))] == 1
    assert samples(metrics)[("hostler_upstream_open", (("upstream", "second"),))] == 0
    metrics.upstreams([UpstreamHealth("first", 0, 1)])
    assert samples(metrics)[("hostler_upstream_open", (("upstream", "first"),))] == 0


def _expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["expr"]] if isinstance(value.get("expr"), str) else []
        return own + [found for each in value.values() for found in _expressions(each)]
    return [found for each in value for found in _expressions(each)] if isinstance(value, list) else []


@pytest.mark.parametrize("file", [ALERTS, DASHBOARD], ids=["alerts", "dashboard"])
def test_rules_and_panels_ask_for_what_there_is(file: Path) -> None:
    there = {name for name, _ in samples(made())}
    asked = _expressions(yaml.safe_load(file.read_text()))
    assert len(asked) > 10
    for expression in asked:
        for name in OURS.findall(expression):
            assert name in there, f"{name} in {expression}"


@pytest.mark.slow
def test_prometheus_takes_the_rules_and_each_fires_on_what_it_is_for(tmp_path: Path) -> None:
    promtool = str(ROOT / "scripts" / "promtool")
    subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True)
    subprocess.run([promtool, "test", "rules", "alerts_test.yml"], cwd=ALERTS.parent, check=True)
    tested = (ALERTS.parent / "alerts_test.yml").read_text()
    for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]:
        assert f"alertname: {rule['alert']}\n" in tested, "no test shows that it fires"
    # The panels' expressions, as rules: with the dashboard's variable for the servers filled in.
    panels = [
        {"record": f"panel:{number}", "expr": expression.replace("$instance", ".*")}
        for number, expression in enumerate(_expressions(json.loads(DASHBOARD.read_text())))
    ]
    rules = tmp_path / "panels.yml"
    rules.write_text(json.dumps({"groups": [{"name": "panels", "rules": panels}]}))
    subprocess.run([promtool, "check", "rules", str(rules)], check=True)
