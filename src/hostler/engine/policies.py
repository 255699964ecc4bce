"""What would another list of hosts have done to what sessions did, and which list would do? The policy simulator.

It replays the recorded decisions, taken together where they are alike. What was denied for another reason than the list
(a private address, a name that nobody resolves) stays denied, whatever the list says.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.environments import CloudConfig
from hostler.domain.errors import InvalidRequest
from hostler.domain.networking import Limited, Unrestricted, changed_networking
from hostler.domain.policies import SuggestPolicy, TryPolicy, since
from hostler.engine.denials import Allowing
from hostler.engine.environments import body_of
from hostler.engine.policy_port import Asked, Judge, Judged, PolicyTrial
from hostler.engine.profile import egress_rules
from hostler.engine.suggestions import Used, suggest
from hostler.store import catalog
from hostler.store.database import Database
from hostler.store.ledger import EgressUse, egress_uses
from hostler.store.moments import moment
from hostler.store.sessions import get_session

View = dict[str, Any]

MOST_USES: Final = 10_000
"""Different requests that one simulation takes into account, the most frequent ones."""

_BY_LIST: Final = frozenset(
    {"host_not_allowed", "port_blocked", "address_literal", "method_not_allowed", "path_not_allowed"}
)
"""Reasons of denials that another list can change."""


class Policies:
    """Answers for `/hostler/v1/policy`; changes nothing."""

    def __init__(self, database: Database, trial: PolicyTrial) -> None:
        self._database = database
        self._trial = trial
        self._allowing = Allowing(trial)

    async def test(self, workspace: str, request: TryPolicy) -> View:
        """What the list would have blocked and newly allowed. Raises NotFound; InvalidRequest for a self-hosted one."""

        def unit(conn: Connection) -> tuple[Unrestricted | Limited, str, str, list[EgressUse], bool]:
            config = body_of(catalog.get_environment(conn, workspace, request.environment_id)).config
            if not isinstance(config, CloudConfig):
                raise InvalidRequest(
                    "environment_id: is a self-hosted environment, which has no list of hosts; choose a cloud one"
                )
            now = self._database.now(conn)
            begin = since(request.since, now)
            uses, more = egress_uses(
                conn, workspace, environment_id=request.environment_id, since=begin, most=MOST_USES
            )
            tried = config.networking
            if request.networking is not None:
                tried = changed_networking(tried, request.networking)
            return tried, begin, moment(now), uses, not more

        tried, begin, end, uses, complete = await self._database.read(unit)
        judge = self._judge(tried)
        blocked: list[View] = []
        opened: list[View] = []
        unknown: list[View] = []
        same = {"allowed": 0, "denied": 0}
        read_inside = {(use.host, use.port) for use in uses if use.path}
        for use in uses:
            judged = judge(_asked(use))
            if use.allowed and judged.allowed is None and not use.path and (use.host, use.port) in read_inside:
                continue  # the requests inside are rows of their own
            if judged.allowed is None:
                unknown.append(self._changed(use, judged))
            elif use.allowed and not judged.allowed:
                blocked.append(self._changed(use, judged))
            elif not use.allowed and judged.allowed and use.reason in _BY_LIST:
                opened.append(self._changed(use, judged))
            else:
                same["allowed" if use.allowed else "denied"] += use.count
        return {
            "type": "policy_test",
            "environment_id": request.environment_id,
            "since": begin,
            "until": end,
            "networking": tried.wire(),
            "would_block": blocked,
            "newly_allowed": opened,
            "unknown": unknown,
            "unchanged": same,
            "complete": complete,
        }

    async def suggest(self, workspace: str, request: SuggestPolicy) -> View:
        """The smallest list that covers what was used. Raises NotFound."""

        def unit(conn: Connection) -> tuple[list[EgressUse], bool]:
            if request.environment_id is not None:
                catalog.get_environment(conn, workspace, request.environment_id)
            begin = None if request.since is None else since(request.since, self._database.now(conn))
            found = egress_uses(
                conn,
                workspace,
                environment_id=request.environment_id,
                session_id=request.session_id,
                since=begin,
                most=MOST_USES,
            )
            if request.session_id is not None and not found[0]:
                get_session(conn, workspace, request.session_id)
            return found

        uses, more = await self._database.read(unit)
        made = suggest((Used(use.host, use.port, use.reason) for use in uses if use.allowed), fold=request.fold)
        return {
            "type": "policy_suggestion",
            "session_id": request.session_id,
            "environment_id": request.environment_id,
            "networking": made.networking,
            "folded": [{"wildcard": card, "hosts": list(names)} for card, names in made.folded],
            "unlisted": list(made.unlisted),
            "covered": [_use(use) for use in uses if use.allowed],
            "denied": [_use(use) for use in uses if not use.allowed and use.reason in _BY_LIST],
            "complete": not more,
        }

    def _judge(self, networking: Unrestricted | Limited) -> Judge:
        try:
            return self._trial.of(egress_rules(networking.model_dump(mode="json")))
        except ValueError as error:
            raise InvalidRequest(f"networking: {error}") from error

    def _changed(self, use: EgressUse, judged: Judged) -> View:
        """A use that another list would decide otherwise: what it would say, and what would keep it as it was."""
        facts = (judged.reason, use.host, use.port, use.method, use.path)
        allow = None if judged.allowed else self._allowing(*facts)
        return {**_use(use), "reason": judged.reason, "hint": judged.hint, "allow": allow}


def _asked(use: EgressUse) -> Asked:
    return Asked(use.method, use.host, use.port, use.path, use.reason == "mcp_server")


def _use(use: EgressUse) -> View:
    return {
        "method": use.method,
        "host": use.host,
        "port": use.port,
        "path": use.path,
        "recorded": use.reason,
        "count": use.count,
        "sessions": use.sessions,
        "first_at": use.first_at,
        "last_at": use.last_at,
    }
