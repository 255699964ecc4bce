"""Which events can stand in the log? Writes the table of docs/reference/logs.md from the code; `--check`: says if it is
stale.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.generated import keep_up, with_table
from hostler.telemetry.logs import SPELLED

SOURCE: Final = Path(__file__).parents[1]
PAGE: Final = SOURCE.parents[1] / "docs" / "reference" / "logs.md"
BEGIN: Final = "<!-- begin: events of the log, generated -->"
END: Final = "<!-- end -->"
_LEVELS: Final = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
_LOGGERS: Final = ("log", "_log")


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """One place in the code that writes a line."""

    event: str
    level: str
    fields: tuple[str, ...]
    module: str


class NotConstant(Exception):
    """A line whose event isn't a constant name, or whose fields aren't."""


def lines() -> list[Line]:
    """All of them. Raises NotConstant."""
    found: list[Line] = []
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found += (_line(call, module) for call in _calls(ast.parse(path.read_text("utf-8"))))
    return sorted(set(found))


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=level)):
                if name in _LOGGERS and level in _LEVELS:
                    yield node


def _line(call: ast.Call, module: str) -> Line:
    assert isinstance(call.func, ast.Attribute)
    match call.args:
        case [ast.Constant(value=str() as event)] if event.replace(".", "_").isidentifier():
            pass
        case _:
            raise NotConstant(f"{module}, line {call.lineno}: the first argument is one constant name")
    fields: list[str] = []
    for given in (word.value for word in call.keywords if word.arg == "extra"):
        keys = given.keys if isinstance(given, ast.Dict) else []
        fields += (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    return Line(event, _LEVELS[call.func.attr], tuple(SPELLED.get(name, name) for name in fields), module)


def table() -> str:
    rows = ["| event | level | fields | where |", "| --- | --- | --- | --- |"]
    for line in lines():
        fields = ", ".join(f"`{name}`" for name in line.fields)
        rows.append(f"| `{line.event}` | {line.level} | {fields} | `{line.module}` |")
    return "\n".join(rows)


def page(text: str) -> str:
    """`text` with the table as it is now. Raises ValueError for a page without a place for it."""
    return with_table(text, BEGIN, END, table())


if __name__ == "__main__":
    sys.exit(keep_up(PAGE, page))
