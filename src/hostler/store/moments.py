"""How does a second of the database's clock read on the wire?"""

from __future__ import annotations

from datetime import UTC, datetime

from hostler.domain.clock import rfc3339


def moment(now: float) -> str:
    """RFC 3339 text in UTC with microseconds, of seconds since 1970. Text order is time order."""
    return rfc3339(datetime.fromtimestamp(now, UTC))
