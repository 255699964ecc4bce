"""What does the server write to its standard error? One line for each event: time, level, constant name, fields.

    2026-01-02T03:04:05.678901Z warning lease_lost session=sesn_… reason="…"

With `as_json` each line is an object with `time`, `level`, `event`, `logger` and the fields. A traceback is the field
`traceback`, on the same line, so that a line is always a whole event.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from hostler.domain.clock import rfc3339_of

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
_MEANT = ("time", "level", "event", "logger")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {
        (f"{name}_" if name in _MEANT else name): value
        for name, value in record.__dict__.items()
        if name not in _STANDARD
    }


class LineFormatter(logging.Formatter):
    """See the module."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        time, level, event = rfc3339_of(record.created), record.levelname.lower(), record.getMessage()
        if record.name.partition(".")[0] != "hostler":
            # Other libraries put data into the message.
            event, fields = "library_message", {"library": record.name, "message": event, **fields}
        if self._as_json:
            whole = {"time": time, "level": level, "event": event, "logger": record.name, **fields}
            return json.dumps(whole, ensure_ascii=True, default=str)
        return " ".join([time, level, event, *(f"{name}={_value(value)}" for name, value in fields.items())])


def _value(value: object) -> str:
    # Quoted like JSON when there is anything that could break the line or command a terminal.
    text = str(value)
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else json.dumps(text)


def write_logs(level: str, *, as_json: bool) -> None:
    """From now on: everything of `level` and above, to standard error. Of other libraries: warnings and above."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("hostler").setLevel(level.upper())
    # It reports every killed process, and that is how a session's process ends. What it raises is handled elsewhere.
    logging.getLogger("claude_agent_sdk").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
