"""`hostler policy`: try a list of hosts against what was recorded, and print the smallest that covers it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.problem import FAILED, WRONG, Problem
from hostler.cli.terminal import plain_line


def changed(networking: Path | None, hosts: Path | None, rules: Path | None) -> dict[str, Any] | None:
    """The `networking` of the request. None: nothing was changed. Raises Problem for a file that holds none."""
    if networking is not None:
        if hosts is not None or rules is not None:
            raise Problem(
                "--networking is the whole list; --hosts and --rules are its parts",
                next_command="hostler policy test --help",
                code=WRONG,
            )
        found = _json(networking, "--networking")
        if not isinstance(found, dict):
            raise _wrong("--networking", networking, "an object such as hostler policy suggest prints")
        return found
    if hosts is None and rules is None:
        return None
    body: dict[str, Any] = {"type": "limited"}
    if hosts is not None:
        body["allowed_hosts"] = _hosts(hosts)
    if rules is not None:
        listed = _json(rules, "--rules")
        if not isinstance(listed, list):
            raise _wrong("--rules", rules, "an array of rules")
        body["rules"] = listed
    return body


def test(
    address: Address, environment: str, networking: Mapping[str, Any] | None, *, against: str, as_json: bool
) -> int:
    """The exit code. JSON: the answer of the API."""
    body: dict[str, Any] = {"environment_id": environment, "since": against}
    if networking is not None:
        body["networking"] = networking
    answer = _post(address, "/hostler/v1/policy/test", body)
    code = FAILED if answer["would_block"] else 0
    if as_json:
        print(json.dumps(answer))
        return code
    console = terminal.out()
    for title, name in (("would be blocked", "would_block"), ("newly allowed", "newly_allowed")):
        _print(title, answer[name])
    _print("can't be told: the list looks into what was a tunnel then", answer["unknown"])
    same = answer["unchanged"]
    window = f"{answer['since'][:19]} to {answer['until'][:19]}"
    console.print(f"As before: {same['allowed']} allowed, {same['denied']} denied ({window}).", style="dim")
    if not answer["complete"]:
        console.print("Only the most frequent requests were tried; choose a shorter --against.", style="yellow")
    return code


def suggest(
    address: Address, session: str | None, environment: str | None, *, against: str | None, fold: bool, as_json: bool
) -> None:
    """JSON: the answer of the API; without `--json`, its `networking` alone."""
    if (session is None) == (environment is None):
        raise Problem(
            "name either a session or an environment",
            next_command="hostler policy suggest --session SESSION",
            code=WRONG,
        )
    asked = {"session_id": session, "environment_id": environment, "since": against, "fold": fold}
    body = {name: value for name, value in asked.items() if value is not None}
    answer = _post(address, "/hostler/v1/policy/suggest", body)
    if as_json:
        print(json.dumps(answer))
        return
    print(json.dumps(answer["networking"], indent=2))
    notes = terminal.err()
    for folded in answer["folded"]:
        names = plain_line(", ".join(folded["hosts"]), 300)
        notes.print(f"{folded['wildcard']} stands for {len(folded['hosts'])} names: {names} (--exact lists them)")
    if answer["unlisted"]:
        notes.print(f"No list can hold: {plain_line(', '.join(answer['unlisted']), 300)}", style="yellow")
    if answer["denied"]:
        names = plain_line(", ".join(sorted({use["host"] for use in answer["denied"]})), 300)
        notes.print(f"Denied then, and not in this list: {names}", style="yellow")
    if not answer["complete"]:
        notes.print("Only the most frequent requests were looked at; choose a shorter --against.", style="yellow")


def _print(title: str, uses: list[dict[str, Any]]) -> None:
    if not uses:
        return
    table = Table(box=None, pad_edge=False, header_style="dim", title=f"{title} ({len(uses)})", title_justify="left")
    for name in ("times", "sessions", "last", "what", "why"):
        table.add_column(name, no_wrap=name in ("times", "sessions", "last"), overflow="fold")
    for use in uses:
        what = plain_line(f"{use['method']} {use['host']}:{use['port']}{use['path']}", 120)
        why = plain_line(f"{use['reason']}. {use['hint']}", 300)
        table.add_row(str(use["count"]), str(use["sessions"]), use["last_at"][:19], what, why)
    terminal.out().print(table)


def _post(address: Address, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with connected(address) as client:
        answer: Any = client.post(path, cast_to=object, body=body)
    return dict(answer)


def _hosts(path: Path) -> list[str]:
    text = _read(path, "--hosts")
    if text.lstrip().startswith("["):
        found = _json(path, "--hosts", text)
        if not isinstance(found, list) or not all(isinstance(host, str) for host in found):
            raise _wrong("--hosts", path, "an array of host names")
        return found
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _json(path: Path, option: str, text: str | None = None) -> Any:
    try:
        return json.loads(_read(path, option) if text is None else text)
    except ValueError as error:
        raise _wrong(option, path, f"JSON ({error})") from error


def _read(path: Path, option: str) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(
            f"{option} {path} can't be read: {error}", next_command="hostler policy test --help", code=WRONG
        ) from error


def _wrong(option: str, path: Path, wanted: str) -> Problem:
    return Problem(f"{option} {path} must hold {wanted}", next_command="hostler policy test --help", code=WRONG)
