"""Where do log lines go, and which? What they look like is `telemetry.logs`."""

from __future__ import annotations

import logging
from collections.abc import Iterable


def write_logs(level: str, *, as_json: bool, secrets: Iterable[str] = ()) -> None:
    """From now on: everything of `level` and above, to standard error. Of other libraries: warnings and above.

    secrets  what never stands in a line, whoever writes it.
    """
    from hostler.telemetry.logs import LineFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(as_json=as_json, secrets=secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("hostler").setLevel(level.upper())
    # It reports every killed process, and that is how a session's process ends. What it raises is handled elsewhere.
    logging.getLogger("claude_agent_sdk").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
