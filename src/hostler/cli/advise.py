"""`hostler advise`: three questions, and the environment that follows from the answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.problem import WRONG, Problem
from hostler.domain.advice import Advice, advise, next_question


def ask(answers: dict[str, bool], reply_seconds: int | None) -> Advice:
    """The answers that are not given yet are asked for at the terminal. Raises Problem when there is none."""
    while (question := next_question(answers)) is not None:
        if not sys.stdin.isatty():
            raise Problem(
                f"an answer is missing: {question.text}",
                next_command=f"hostler advise … --{question.name}   (or --no-{question.name})",
                code=WRONG,
            )
        console = terminal.out()
        console.print(question.text)
        console.print(f"  Yes, for example: {question.yes}.", style="dim")
        answers[question.name] = _yes_or_no(console.input)
    return advise(answers, reply_seconds)


def _yes_or_no(read: Callable[[str], str]) -> bool:
    while True:
        said = read("yes or no? ").strip().lower()
        if said in ("y", "yes"):
            return True
        if said in ("n", "no"):
            return False


def show(advice: Advice, name: str, *, as_json: bool) -> None:
    """JSON: `pattern`, `why`, and `environment`, the body of a request that makes it."""
    environment = advice.environment(name)
    if as_json:
        print(json.dumps({"pattern": advice.pattern, "why": advice.why, "environment": environment}))
        return
    terminal.out().print(f"{advice.pattern}: {advice.why}")
    print(json.dumps(environment, indent=2))


def create(address: Address, advice: Advice, name: str, *, as_json: bool) -> None:
    """JSON: the new environment as the API shows it."""
    with connected(address) as client:
        made = client.beta.environments.create(
            name=name,
            config={"type": "cloud"},
            extra_body={"config": advice.environment(name)["config"]},
        )
        body = made.model_dump(mode="json")
    if as_json:
        print(json.dumps(body))
        return
    terminal.out().print(f"{advice.pattern}: {advice.why}")
    terminal.out().print(f"Made {made.id} ({name}).")
