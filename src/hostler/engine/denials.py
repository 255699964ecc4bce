"""What was denied on a session's road out, and how does its user hear of it without being flooded?

Every decision is a record. The user's log gets the first denial of each host, port and reason in a turn as an event,
at most `MOST` of them, and at the end of the turn one more that counts what was not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from hostler.domain.errors import InvalidRequest
from hostler.domain.networking import Limited, LimitedRequest, changed_networking
from hostler.domain.values import parse
from hostler.engine.egress_port import EgressDecision
from hostler.engine.policy_port import Asked, PolicyTrial
from hostler.engine.profile import egress_rules
from hostler.engine.runs import Notice

MOST: Final = 20
"""Events about denials that one turn may have, besides the last one, which counts."""

Ear = Callable[[EgressDecision], None]


class Denials:
    """Passes denials on to whoever serves the session in this process. Of sessions that nobody serves it drops them."""

    def __init__(self) -> None:
        self._ears: dict[str, Ear] = {}

    def told(self, decision: EgressDecision) -> None:
        ear = self._ears.get(decision.session_id)
        if ear is not None:
            ear(decision)

    @contextmanager
    def heard_by(self, session_id: str, ear: Ear) -> Iterator[None]:
        """While the block runs, `ear` is told. It must be quick, and must not raise."""
        self._ears[session_id] = ear
        try:
            yield
        finally:
            if self._ears.get(session_id) is ear:
                del self._ears[session_id]


class TurnDenials:
    """The denials of one turn."""

    def __init__(self, allowing: Allowing | None = None) -> None:
        self._allowing = allowing
        self._seen: dict[tuple[str, int, str], int] = {}
        self._untold = 0

    def note(self, decision: EgressDecision) -> Notice | None:
        """What the user is to be told now, if anything."""
        key = (decision.host, decision.port, decision.reason)
        if key in self._seen or len(self._seen) >= MOST:
            if key in self._seen:
                self._seen[key] += 1
            self._untold += 1
            return None
        self._seen[key] = 1
        asked = (decision.reason, decision.host, decision.port, decision.method, decision.path)
        return told(decision, None if self._allowing is None else self._allowing(*asked))

    def rest(self) -> Notice | None:
        """What the user is to be told at the end: how much more there was. Begins anew."""
        untold, seen = self._untold, self._seen
        self._seen, self._untold = {}, 0
        if not untold:
            return None
        repeated = [(key, count) for key, count in seen.items() if count > 1]
        most = ", ".join(f"{host}:{port} {count} times" for (host, port, _), count in repeated[:5])
        text = f"{untold} more requests of this turn were denied" + (f" ({most})." if most else ".")
        return Notice(
            "egress_denied_more",
            f"{text} All of them: GET /hostler/v1/sessions/{{id}}/egress, or `hostler sessions denials`.",
            {
                "count": untold,
                "repeated": [
                    {"host": host, "port": port, "reason": reason, "count": count}
                    for (host, port, reason), count in repeated
                ],
            },
        )


class Allowing:
    """Which rule would have allowed a request? Says only what an environment takes, and the road then lets through."""

    def __init__(self, trial: PolicyTrial) -> None:
        self._trial = trial

    def __call__(self, reason: str, host: str, port: int, method: str, path: str) -> Mapping[str, Any] | None:
        """The least that would have to stand in the environment's `networking`. None: no rule would allow it."""
        least = _least(reason, host, port, method, path)
        if least is None:
            return None
        try:
            request = parse(LimitedRequest, {"type": "limited", **least})
            judge = self._trial.of(egress_rules(changed_networking(Limited(), request).model_dump(mode="json")))
        except (InvalidRequest, ValueError):
            return None
        return None if judge(Asked(method, host, port, path)).allowed is False else least


def _least(reason: str, host: str, port: int, method: str, path: str) -> Mapping[str, Any] | None:
    match reason:
        case "host_not_allowed" if port in (80, 443):
            return {"allowed_hosts": [host]}
        case "host_not_allowed" | "port_blocked":
            return {"rules": [{"host": host, "ports": [port]}]}
        case "method_not_allowed":
            return {"rules": [{"host": host, "methods": [method]}]}
        case "path_not_allowed":
            return {"rules": [{"host": host, "methods": [method], "paths": [path]}]}
        case _:
            return None


def told(decision: EgressDecision, allow: Mapping[str, Any] | None) -> Notice:
    """One denial, as the user is told of it. `allow`: what `Allowing` says of it."""
    where = f"{decision.host}:{decision.port}" if decision.port else "a request"
    message = f"Hostler denied {where} ({decision.reason}). {decision.hint}".strip()
    return Notice(
        "egress_denied",
        message,
        {
            "host": decision.host,
            "port": decision.port,
            "method": decision.method,
            "path": decision.path,
            "reason": decision.reason,
            "hint": decision.hint,
            "allow": allow,
        },
    )
