"""How many bytes has a session moved, and when is it too many?"""

from __future__ import annotations

from collections.abc import Callable

from hostler.egress.limits import EgressLimits
from hostler.egress.policy import Verdict


class Traffic:
    """Counts for one road. `on_denied` hears of each connection that is cut, and of the end of the session's share."""

    def __init__(self, limits: EgressLimits, on_denied: Callable[[Verdict], None]) -> None:
        self.most_of_connection = limits.connection_bytes
        self._most = limits.session_bytes
        self._on_denied = on_denied
        self._moved = 0
        self.exhausted: Verdict | None = None
        """What is said to every wish from now on."""

    def meter(self) -> ConnectionMeter | None:
        """One for each connection. None: nothing has to be counted."""
        return ConnectionMeter(self) if self._most or self.most_of_connection else None

    def moved(self, count: int) -> bool:
        self._moved += count
        if not self._most or self._moved <= self._most:
            return True
        if self.exhausted is None:
            hint = f"The session has moved the {self._most} bytes that it may (egress.session_mb)."
            self.exhausted = Verdict(False, "session_bytes", hint)
            self._on_denied(self.exhausted)
        return False

    def cut(self) -> None:
        hint = f"One connection may move {self.most_of_connection} bytes (egress.connection_mb)."
        self._on_denied(Verdict(False, "connection_bytes", hint))


class ConnectionMeter:
    """Implements `Meter` for one connection, both directions together."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._left = traffic.most_of_connection
        self._bounded = bool(self._left)

    def moved(self, count: int) -> bool:
        if self._bounded:
            if self._left < 0:
                return False
            self._left -= count
            if self._left < 0:
                self._traffic.cut()
                return False
        return self._traffic.moved(count)
