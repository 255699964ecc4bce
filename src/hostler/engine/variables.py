"""Which secrets may a session's requests carry, and where to?

`VariableBroker` is the only reader of `environment_variable` secrets. The sandbox gets placeholders; for each request
the broker reads the vaults anew and opens what is for that host. So a secret that is replaced, archived, or given other
hosts counts from the next request on, in sessions that run already too. No opened secret is kept for a later request;
those that wait at the same moment share one reading.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from hostler.domain.errors import HostlerError, SecretUnreadable
from hostler.domain.events import Event, credential_host_error
from hostler.domain.variables import steers
from hostler.engine.credentials import opened
from hostler.engine.egress_port import EgressRules, SessionVariable, VariableUse
from hostler.engine.placeholders import new_placeholder
from hostler.engine.ports import Sealer
from hostler.engine.redaction import REDACTED, Replacer
from hostler.engine.tasks import Tasks
from hostler.engine.together import Together
from hostler.store import variables as rows
from hostler.store.database import Database
from hostler.store.sessions import SessionRow
from hostler.store.vaults import CredentialRow

log = logging.getLogger("hostler.vaults")

NOTE_SECONDS = 5.0
"""How long `close` waits for uses that are being written down."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A credential that a session has under `name`."""

    row: CredentialRow
    auth: Mapping[str, Any]
    placeholder: str

    @property
    def name(self) -> str:
        name: str = self.auth["secret_name"]
        return name

    @property
    def networking(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.auth["networking"]
        return found

    @property
    def read_only(self) -> bool:
        return bool(self.auth["scope"]["access"] == "read")


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A variable is for a host that the session may not reach."""

    vault_id: str
    credential_id: str
    message: str

    def event(self, at: str) -> Event:
        return credential_host_error(at, self.vault_id, self.credential_id, self.message)


class VariableBroker:
    """The variables of every session. Close it once no road uses it any more."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._notes = Tasks()
        self._reads = Together(self._read_all, "secrets")
        self._uses = Together(self._write_all, "credential-uses")

    async def of(self, session: SessionRow, rules: EgressRules) -> BrokeredVariables | None:
        """The session's variables as they are now, each with its placeholder. None: it has no vaults.

        `rules` are what it may reach: what a variable is for beyond them is told in `unreachable`, once for each
        credential. Call it with the session's lease.
        """
        if not session.vault_ids:
            return None

        def look(conn: Connection) -> list[Variable] | None:
            known = rows.placeholders_of(conn, session.id)
            mine = _mine(conn, session)
            if any(row.id not in known for row, _ in mine):
                return None
            return [Variable(row, auth, known[row.id]) for row, auth in mine]

        def draw(conn: Connection) -> tuple[list[Variable], list[Variable]]:
            known = rows.placeholders_of(conn, session.id)
            mine = _mine(conn, session)
            new = {row.id: new_placeholder() for row, _ in mine if row.id not in known}
            rows.add_placeholders(conn, session.id, new)
            found = [Variable(row, auth, {**known, **new}[row.id]) for row, auth in mine]
            return found, [variable for variable in found if variable.row.id in new]

        known = await self._database.read(look)
        if known is not None:
            return BrokeredVariables(self, session, known, ())
        found, new = await self._database.write(draw)
        return BrokeredVariables(self, session, found, _unreachable(new, rules))

    async def read(self, session: SessionRow, host: str) -> list[tuple[Variable, str | None]]:
        """Each variable as it is now, with its secret when it is for `host`.

        Requests that wait at the same moment share one reading, which begins after the last of them has asked.
        """
        return await self._reads.do((session, host))

    async def _read_all(
        self, wishes: Sequence[tuple[SessionRow, str]]
    ) -> Sequence[list[tuple[Variable, str | None]] | Exception]:
        different = {(id(session), host): (session, host) for session, host in wishes}

        def one(conn: Connection, session: SessionRow, host: str) -> list[tuple[Variable, str | None]] | Exception:
            try:
                return self._opened(conn, session, host)
            except HostlerError as error:  # One secret that can't be opened keeps no other session waiting.
                return error

        def unit(conn: Connection) -> dict[tuple[int, str], list[tuple[Variable, str | None]] | Exception]:
            return {key: one(conn, *wish) for key, wish in different.items()}

        found = await self._database.read(unit)
        return [found[id(session), host] for session, host in wishes]

    def _opened(self, conn: Connection, session: SessionRow, host: str) -> list[tuple[Variable, str | None]]:
        known = rows.placeholders_of(conn, session.id)
        found = []
        for row, auth in _mine(conn, session):
            if row.id in known:  # one that was added meanwhile comes with the next process
                mine = is_for(auth["networking"], host)
                value = opened(self._sealer, row)["secret_value"] if mine else None
                found.append((Variable(row, auth, known[row.id]), value))
        return found

    async def replacer(self, session: SessionRow) -> Replacer:
        """What takes the session's secrets, as they are now, out of what is recorded about it."""

        def unit(conn: Connection) -> dict[str, str]:
            known = rows.placeholders_of(conn, session.id)
            found = {}
            for row, _ in _mine(conn, session):
                # One that can't be opened can't have been sent either.
                with contextlib.suppress(SecretUnreadable):
                    found[opened(self._sealer, row)["secret_value"]] = known.get(row.id, REDACTED)
            return found

        return Replacer(await self._database.read(unit))

    async def record(self, session: SessionRow, uses: Sequence[VariableUse]) -> None:
        """Returns when they are committed; what waits at the same moment is committed together."""
        await self._uses.do(
            [
                rows.UseFacts(
                    session.workspace_id,
                    session.id,
                    use.vault_id,
                    use.credential_id,
                    use.method,
                    use.host,
                    use.port,
                    use.place,
                    use.outcome,
                )
                for use in uses
            ]
        )

    async def _write_all(self, wishes: Sequence[Sequence[rows.UseFacts]]) -> Sequence[None]:
        facts = [use for uses in wishes for use in uses]
        await self._database.write(lambda c: rows.add_uses(c, self._database.now(c), facts))
        return [None] * len(wishes)

    def record_soon(self, session: SessionRow, use: VariableUse) -> None:
        async def write() -> None:
            try:
                await self.record(session, [use])
            except HostlerError:
                facts = {"session": session.id, "credential": use.credential_id, "host": use.host}
                log.exception("credential_use_not_recorded", extra=facts)

        self._notes.spawn(write(), f"credential-use-{session.id}")

    async def close(self) -> None:
        """Returns when every use is written down."""
        await self._notes.close(grace_seconds=NOTE_SECONDS)
        await self._uses.close()
        await self._reads.close()


class BrokeredVariables:
    """Implements `SessionVariables`."""

    def __init__(
        self,
        broker: VariableBroker,
        session: SessionRow,
        variables: Sequence[Variable],
        unreachable: Sequence[Unreachable],
    ) -> None:
        self._broker = broker
        self._session = session
        self._networking = [variable.networking for variable in variables]
        self.placeholders: Mapping[str, str] = {variable.name: variable.placeholder for variable in variables}
        self.unreachable = tuple(unreachable)

    def follow(self, newer: BrokeredVariables) -> None:
        """The same variables were read again: from now on it concerns the hosts that they are for now."""
        self._networking = newer._networking

    def concerns(self, host: str) -> bool:
        return any(is_for(networking, host) for networking in self._networking)

    async def open(self, host: str) -> Sequence[SessionVariable]:
        found = await self._broker.read(self._session, host)
        self._networking = [variable.networking for variable, _ in found]
        return [_as_opened(variable, value) for variable, value in found]

    async def used(self, uses: Sequence[VariableUse]) -> None:
        await self._broker.record(self._session, uses)

    async def replacer(self) -> Replacer:
        return await self._broker.replacer(self._session)

    def note(self, use: VariableUse) -> None:
        self._broker.record_soon(self._session, use)


def _as_opened(variable: Variable, value: str | None) -> SessionVariable:
    where = variable.auth["injection_location"]
    return SessionVariable(
        name=variable.name,
        placeholder=variable.placeholder,
        vault_id=variable.row.vault_id,
        credential_id=variable.row.id,
        value=value,
        header=where["header"],
        body=where["body"],
        read_only=variable.read_only,
    )


def _mine(conn: Connection, session: SessionRow) -> list[tuple[CredentialRow, Mapping[str, Any]]]:
    """The credentials that the session has: in scope, one for each name, the first vault's."""
    found: dict[str, tuple[CredentialRow, Mapping[str, Any]]] = {}
    for row in rows.variables_in(conn, session.workspace_id, session.vault_ids):
        auth = row.auth
        name = auth["secret_name"]
        if name not in found and not steers(name) and _in_scope(auth["scope"], session):
            found[name] = row, auth
    return list(found.values())


def _in_scope(scope: Mapping[str, Any], session: SessionRow) -> bool:
    match scope:
        case {"type": "workspace"}:
            return True
        case {"type": "agent", "agent_ids": ids}:
            return session.agent_id in ids
        case {"type": "session", "session_ids": ids}:
            return session.id in ids
        case _:
            return False


def is_for(networking: Mapping[str, Any], host: str) -> bool:
    """Whether a credential's secret may go to `host`, a name in lower case or an address."""
    if networking["type"] == "unrestricted":
        return True
    return any(_covers(rule, host) for rule in networking["allowed_hosts"])


def _covers(rule: str, host: str) -> bool:
    return host.endswith(rule[1:]) and len(host) >= len(rule) if rule.startswith("*.") else host == rule


def _unreachable(variables: Sequence[Variable], rules: EgressRules) -> list[Unreachable]:
    found = []
    for variable in variables:
        hosts = variable.networking.get("allowed_hosts", ())
        out = [host for host in hosts if not _permits(rules, host)]
        if out:
            message = (
                f"The credential {variable.name} is for {', '.join(out)}, which the environment's networking does not "
                "allow; add it to the environment's allowed_hosts, or take it out of the credential's."
            )
            found.append(Unreachable(variable.row.vault_id, variable.row.id, message))
    return found


def _permits(rules: EgressRules, wanted: str) -> bool:
    """Whether anything that `wanted` (a host, or `*.` and a name) stands for may be reached."""
    if rules.allow == "public" or rules.package_managers:
        return True
    allowed = [*rules.hosts, *(rule.host for rule in rules.rules)]
    return any(_meet(one, wanted) for one in allowed)


def _meet(one: str, other: str) -> bool:
    if one == other:
        return True
    if one.startswith("*.") and other.startswith("*."):
        return one.endswith(other[1:]) or other.endswith(one[1:])
    return _covers(one, other) or _covers(other, one)
