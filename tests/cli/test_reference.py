"""The generated pages are fresh, and say something about everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_processes import Server, environment

from hostler.cli.reference import SHAPES, main, pages

ROOT = Path(__file__).parents[2]


def test_generated_pages_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["--check"]) == 0


def test_stale_page_is_noticed_and_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "docs/reference/cli.md").write_text("old")
    assert main(["--check"]) == 1


def test_every_command_has_help_json_and_a_shape() -> None:
    page = pages()["cli.md"]
    commands = re.findall(r"^## (hostler .*)$", page, re.M)
    assert set(commands) == set(SHAPES)
    for section in page.split("\n## ")[1:]:
        assert "`--json`" in section
        assert not re.search(r"^\| `[^|]*\|\s*\|", section, re.M), section  # an option without help


def test_every_setting_is_described() -> None:
    page = pages()["configuration.md"]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) >= 20
    assert all(row.split(" | ")[-1].strip(" |") for row in rows)


def test_program_of_the_readme_runs(server: Server, tmp_path: Path) -> None:
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert program is not None
    text = program.group(1).replace("http://127.0.0.1:8420", server.url)
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment(HOSTLER_API_KEY=server.api_key),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "agent.tool_use" in done.stdout
    assert done.stdout.rstrip().endswith("session.status_idle")


def test_links_of_the_top_documents_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/README.md"):
        page = ROOT / name
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert os.path.exists(page.parent / target), f"{name}: {target}"
