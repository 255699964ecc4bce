"""What somebody hands an auditor who has no database to change, but can write any file: it is never intact, it says so
in words, and it costs no more memory than a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from auditkit import Log, check, found

from hostler.cli import audit as command
from hostler.cli.problem import Problem
from hostler.domain.auditing import Link, canonical, chained, genesis

WS = "wrkspc_forged"


def head(workspace: str = WS, **start: object) -> bytes:
    begin = {"seq": 0, "hash": genesis(WS).hex(), **start}
    return json.dumps({"hostler_audit": 1, "workspace": workspace, "start": begin}).encode()


def entries(
    count: int, kind: str = "administration", details: str = "{}", act: str = "key.create"
) -> tuple[list[bytes], bytes]:
    """A chain whose every hash is right, since nobody needs a key for that, and the line that ends its export."""
    before, lines = genesis(WS), []
    for n in range(1, count + 1):
        link = Link(WS, n, "", n, f"audit_{n}", "2026-01-01T00:00:00.000000Z", kind, act, "server", "s", "", "", "", "")
        text = canonical(link._replace(details=details)).encode()
        before = chained(before, text)
        lines.append(b'{"hash":"%b","entry":%b}' % (before.hex().encode(), text))
    return lines, json.dumps({"end": {"seq": count, "hash": before.hex()}}).encode()


CHAIN, END = entries(3)
FORGERIES: dict[str, tuple[list[bytes], str]] = {
    "computed anew, without any checkpoint": ([head(), *CHAIN, END], "unsigned"),
    "an end that is another's": ([head(), *CHAIN[:2], END], "tail_cut"),
    "more behind the end": ([head(), *CHAIN, END, CHAIN[0]], "form"),
    "a head without a bottom": ([b'{"hostler_audit":' + b"[" * 100_000], "form"),
    "a row without a bottom": ([head(), *entries(1, "egress")[0], b'{"row":' + b"[" * 100_000], "form"),
    "details without a bottom": ([head(), *entries(1, "egress", "[" * 100_000)[0]], "form"),
    "details that are a list": ([head(), *entries(1, "egress", "[]")[0], b'{"row":[1]}'], "form"),
    "a place of many digits": ([head(), CHAIN[0].replace(b'"seq":1', b'"seq":' + b"9" * 5_000)], "form"),
    "a retention up to nowhere": ([head(), *entries(1, details='{"through":"x"}', act="audit.prune")[0]], "form"),
    "a key with white space": ([head(), b'{"signer":{"id":"a","public_key":"aa bb","created_at":""}}'], "signer"),
    "half of a surrogate pair": ([head("\ud800"), *CHAIN], "form"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_file_that_somebody_made_up_is_never_intact(name: str) -> None:
    lines, what = FORGERIES[name]
    for trusted in ((), ["00" * 32]):
        report = check(lines, trusted=trusted)
        assert what in found(report), report.findings


def test_what_is_found_is_short_however_long_the_lines_are() -> None:
    link = Link("w" * 1_000_000, 1, "s" * 1_000_000, 9, "a", "", "tool", "x", "server", "s", "", "", "", "{}")
    report = check([head(), b'{"hash":"%b","entry":%b}' % (b"0" * 64, canonical(link).encode())])
    assert sum(len(finding.message) for finding in report.findings) < 2_000


async def test_nothing_stands_beside_a_row_that_another_reader_could_show(log: Log) -> None:
    lines = await log.export()
    place = next(n for n, line in enumerate(lines) if line.startswith(b'{"row":'))
    for forged in (lines[place][:-1] + b',"row":[]}', b'{"row":["forged"],"row":' + lines[place][7:]):
        assert "form" in found(check([*lines[:place], forged, *lines[place + 1 :]]))


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, packed: bool) -> None:
    bomb = bytes(40 << 20)
    file = tmp_path / "export"
    file.write_bytes(zstandard.compress(bomb) if packed else bomb)
    with pytest.raises(Problem, match="line without end"):
        command.verify(file, None, None, anchors=(), public_keys=(), as_json=True)


def test_what_a_forged_file_says_of_itself_does_not_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = "\x1b]0;title\x07\x1b[2Kwrkspc"
    file = tmp_path / "export"
    end = json.dumps({"end": {"seq": 0, "hash": genesis(workspace).hex()}}).encode()
    file.write_bytes(b"\n".join((head(workspace), end)) + b"\n")
    command.verify(file, None, None, anchors=(), public_keys=(), as_json=False)
    assert "wrkspc" in (shown := capsys.readouterr().out)
    assert "\x1b" not in shown
