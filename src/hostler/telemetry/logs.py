"""What does the server write to its standard error? One line for each event: time, level, constant name, fields.

    2026-01-02T03:04:05.678901Z warning lease_lost session_id=sesn_… trace_id=… reason="…"

As JSON each line is an object with `time`, `level`, `event`, `logger` and the fields. A traceback is the field
`traceback`, on the same line, so that a line is always a whole event. Which request, session, workspace and trace it is
about is said by every line that knows it, under the same names; docs/reference/logs.md lists them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import Any, Final

from hostler.domain.clock import rfc3339_of
from hostler.engine.about import about
from hostler.engine.redaction import REDACTED, forms_of

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
_MEANT = ("time", "level", "event", "logger")
_ABOUT: Final = ("session_id", "workspace_id", "request_id", "trace_id", "span_id")
SPELLED: Final = {"session": "session_id", "workspace": "workspace_id"}
"""Names of fields in the code, and what every reader of logs knows them by."""
_KEYS: Final = re.compile(
    r"\b(sk-ant-[A-Za-z0-9_]{2,8}-|(?:hk|hek|hst|hpv)-(?=[A-Za-z0-9_-]{40})|whsec_|[Bb]earer )[^\s\"'\\,;)\]}]+"
)
"""What looks like somebody's key, whoever's it is."""


class Scrubber:
    """Takes secrets out of what is about to be written."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """`secrets`: those that this server has in its configuration."""
        self._forms = sorted({form for secret in secrets for form in forms_of(secret)}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, REDACTED)
        return _KEYS.sub(lambda found: found[1] + REDACTED, text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = {
        SPELLED.get(name, f"{name}_" if name in _MEANT else name): value
        for name, value in record.__dict__.items()
        if name not in _STANDARD
    }
    now = about()
    for name in _ABOUT:
        if name not in found and (known := getattr(now, name)):
            found[name] = known
    return found


class LineFormatter(logging.Formatter):
    """See the module."""

    def __init__(self, *, as_json: bool, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._as_json = as_json
        self._scrub = Scrubber(secrets)

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        time, level, event = rfc3339_of(record.created), record.levelname.lower(), record.getMessage()
        if record.name.partition(".")[0] != "hostler":
            # Other libraries put data into the message.
            event, fields = "library_message", {"library": record.name, "message": event, **fields}
        fields = {name: self._shown(value) for name, value in fields.items()}
        if self._as_json:
            whole = {"time": time, "level": level, "event": event, "logger": record.name, **fields}
            return json.dumps(whole, ensure_ascii=True)
        return " ".join([time, level, event, *(f"{name}={_value(value)}" for name, value in fields.items())])

    def _shown(self, value: Any) -> Any:
        match value:
            case str():
                return self._scrub(value)
            case dict():
                return {str(key): self._shown(item) for key, item in value.items()}
            case list() | tuple():
                return [self._shown(item) for item in value]
            case int() | float() | None:
                return value
            case _:
                return self._text(value)

    def _text(self, value: object) -> str:
        return self._scrub(str(value))


def _value(value: object) -> str:
    # Quoted like JSON when there is anything that could break the line or command a terminal.
    text = str(value)
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else json.dumps(text)
