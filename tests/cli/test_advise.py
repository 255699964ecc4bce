"""`hostler advise`: do the answers lead to a pattern, and does the environment that it prints exist then?"""

from __future__ import annotations

import itertools

import pytest
from cli_processes import Server, hostler

from hostler.domain.advice import QUESTIONS, advise, idle_timeout, next_question
from hostler.domain.environments import CreateEnvironment


def test_every_way_through_the_questions_ends_in_an_environment_that_can_be_made() -> None:
    patterns = set()
    for said in itertools.product((True, False), repeat=len(QUESTIONS)):
        answers: dict[str, bool] = {}
        for _ in QUESTIONS:
            question = next_question(answers)
            if question is None:
                break
            answers[question.name] = said[QUESTIONS.index(question)]
        advice = advise(answers)
        patterns.add(advice.pattern)
        CreateEnvironment.model_validate(advice.environment("x"))
    assert patterns == {"ephemeral", "hybrid", "long_running", "shared"}


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--together"], "shared"),
        (["--no-together", "--no-return"], "ephemeral"),
        (["--no-together", "--return", "--always"], "long_running"),
        (["--no-together", "--return", "--no-always"], "hybrid"),
    ],
)
def test_answers_pick_a_pattern(options: list[str], pattern: str) -> None:
    said = hostler("advise", *options, "--json").json
    assert said["pattern"] == pattern
    assert said["environment"]["config"]["hosting"]["pattern"] == pattern


def test_an_answer_that_is_missing_is_named() -> None:
    refused = hostler("advise", "--no-together")
    assert refused.code != 0
    assert "--return" in refused.err


@pytest.mark.parametrize(("reply", "idle"), [(None, 60), (3, 20), (40, 80), (70, 140), (71, 10), (86_400, 10)])
def test_who_answers_soon_finds_the_process_and_nobody_waits_for_who_does_not(reply: int | None, idle: int) -> None:
    assert idle_timeout(reply) == idle


def test_the_environment_is_made(server: Server) -> None:
    name = "advised"
    options = ["--no-together", "--return", "--no-always", "--reply-seconds", "5", "--create", name]
    made = server.hostler("advise", *options, "--json").json
    assert made["name"] == name
    assert made["config"]["hosting"] == {"pattern": "hybrid", "idle_timeout_seconds": 20}
