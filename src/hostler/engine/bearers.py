"""Which token does a session show to an MCP server, and how does it stay good?

`VaultBroker` is the only reader of stored tokens. It looks at each use, so a token that was replaced is used at once.
One that is about to run out is renewed first, by one process at a time for each credential: the right to do so is kept
in the credential's row, and runs out by itself if its holder dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection

from hostler.domain.clock import parse_rfc3339, rfc3339_of
from hostler.domain.errors import Busy, HostlerError, InvalidRequest, NotFound, SecretUnreadable
from hostler.domain.ids import new_id
from hostler.engine.credentials import match_key, opened, seal
from hostler.engine.egress_port import Bearer
from hostler.engine.oauth import EXCHANGE_SECONDS, Grant, Refused, Unreached, exchange
from hostler.engine.ports import Announce, Outgoing, Sealer, announce_nothing
from hostler.store import vaults as rows
from hostler.store.database import Database
from hostler.store.vaults import CredentialRow

log = logging.getLogger("hostler.vaults")

EARLY_SECONDS: Final = 60.0
"""A token is renewed that long before it runs out: clocks differ, and requests take time."""
HOLD_SECONDS: Final = EXCHANGE_SECONDS * 2
"""How long one process may be at it. Longer than it can take."""
QUIET_SECONDS: Final = 60.0
"""A token endpoint that has refused is not asked again before, unless the credential changes."""
_LOOK_SECONDS: Final = 0.1
_KEEP_ATTEMPTS: Final = 5


class CredentialFailed(HostlerError):
    """A credential is stored for that server, and no token can be had from it."""

    def __init__(self, message: str, *, vault_id: str, credential_id: str) -> None:
        super().__init__(message)
        self.vault_id = vault_id
        self.credential_id = credential_id


@dataclass(frozen=True, slots=True)
class Renewed:
    """What came of a renewal."""

    bearer: Bearer | None
    """None when it failed, or the credential is gone."""
    problem: Refused | Unreached | None = None
    """Why it failed. None without a bearer: it failed just now, and was not tried again."""


@dataclass(frozen=True, slots=True)
class _Hold:
    """This process may renew: what the credential was when it began."""

    row: CredentialRow
    secrets: dict[str, str] = field(repr=False)
    owner: str
    at: float


class VaultBroker:
    """Tokens of every workspace. `close` lets renewals end that have begun: their answer may be the only copy."""

    def __init__(
        self, database: Database, sealer: Sealer, outgoing: Outgoing, announce: Announce = announce_nothing
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._outgoing = outgoing
        self._announce = announce
        self._renewals: dict[str, asyncio.Task[Renewed]] = {}

    async def bearer_for(self, workspace: str, vault_ids: Sequence[str], url: str) -> Bearer | None:
        """The token of the first vault that has a credential for `url`. None: none has.

        Raises CredentialFailed when it has run out and can't be renewed, SecretUnreadable when it can't be opened.
        """
        try:
            key = match_key(url)
        except ValueError:
            return None

        def find(conn: Connection) -> tuple[CredentialRow, dict[str, str], float] | None:
            for vault_id in vault_ids:
                row = rows.find_active(conn, workspace, vault_id, key)
                if row is not None:
                    return row, opened(self._sealer, row), self._database.now(conn)
            return None

        found = await self._database.read(find)
        if found is None:
            return None
        row, secrets, now = found
        if match_key(row.auth["mcp_server_url"]) != key:  # The secrets are bound to the URL, and the key is not.
            raise SecretUnreadable(f"credential {row.id} was changed in the database: it is not for this server")
        left = _seconds_left(row, now)
        if left > EARLY_SECONDS or row.auth.get("refresh") is None:
            return _bearer(row, secrets)
        renewed = await self.renew(workspace, row.id)
        if renewed.bearer is None and left <= 0:
            raise CredentialFailed(
                f"the token of credential {row.id} has run out and can't be renewed; update the credential",
                vault_id=row.vault_id,
                credential_id=row.id,
            )
        return renewed.bearer or _bearer(row, secrets)

    async def rejected(self, bearer: Bearer) -> Bearer | None:
        """The server said 401: another token for one more attempt, or None when there is none.

        If the stored token is another one by now, that is it; otherwise it is renewed, whatever its age.
        """
        return (await self.renew(bearer.workspace, bearer.credential_id, rejected=bearer.token)).bearer

    async def renew(
        self, workspace: str, credential_id: str, *, rejected: str | None = None, insist: bool = False
    ) -> Renewed:
        """Renew unless that is not needed any more. Concurrent calls share one exchange.

        rejected  a token that the server doesn't take. None: renew if it is about to run out.
        insist    also when it failed a moment ago.
        """
        while True:
            running = self._renewals.get(credential_id)
            if running is None:
                return await asyncio.shield(self._begin(workspace, credential_id, rejected, insist))
            done = await asyncio.shield(running)
            # It was begun for another reason, which may not answer ours.
            stale = done.bearer is not None and done.bearer.token == rejected
            quiet = done.bearer is None and done.problem is None and insist
            if not stale and not quiet:
                return done

    def _begin(self, workspace: str, credential_id: str, rejected: str | None, insist: bool) -> asyncio.Task[Renewed]:
        # Owned by `close`. A caller that goes away must not lose a refresh token that was just replaced.
        work = self._renew(workspace, credential_id, rejected, insist)
        task = asyncio.get_running_loop().create_task(work, name=f"renew-{credential_id}")

        def ended(done: asyncio.Task[Renewed]) -> None:
            self._renewals.pop(credential_id, None)
            if not done.cancelled():
                done.exception()  # Whoever still waits gets it.

        self._renewals[credential_id] = task
        task.add_done_callback(ended)
        return task

    async def close(self) -> None:
        """Returns when no renewal runs."""
        while running := set(self._renewals.values()):
            await asyncio.wait(running)

    # -- one renewal

    async def _renew(self, workspace: str, credential_id: str, rejected: str | None, insist: bool) -> Renewed:
        owner = new_id("renewal")
        while True:
            taken = await self._database.write(
                lambda conn: self._take(conn, workspace, credential_id, owner, rejected, insist)
            )
            if taken is not None:
                break
            await self._until_free(workspace, credential_id)
        if isinstance(taken, Renewed):
            return taken
        result: Grant | Refused | Unreached | None = None
        try:
            result = await exchange(self._outgoing, taken.row.auth["refresh"], taken.secrets)
            if not isinstance(result, Grant):
                reason = result.reason if isinstance(result, Unreached) else f"status {result.answer.status}"
                facts = {"credential_id": taken.row.id, "vault_id": taken.row.vault_id, "reason": reason}
                log.warning("vault_credential.refresh_failed", extra=facts)
            return await self._kept(taken, result)
        finally:
            if result is None:
                with contextlib.suppress(HostlerError):
                    await self._database.write(
                        lambda conn: rows.end_refresh(conn, credential_id, owner, failed_at=None)
                    )

    def _take(
        self, conn: Connection, workspace: str, credential_id: str, owner: str, rejected: str | None, insist: bool
    ) -> _Hold | Renewed | None:
        """The right to renew; or what makes that needless; or None while somebody else is at it."""
        now = self._database.now(conn)
        try:
            row = rows.get_credential(conn, workspace, None, credential_id, for_update=True)
        except NotFound:
            return Renewed(None)
        secrets = opened(self._sealer, row)
        if row.archived_at is not None or not secrets:
            return Renewed(None)
        current = _bearer(row, secrets)
        if rejected is not None and current.token != rejected:
            return Renewed(current)
        if row.auth.get("refresh") is None:
            return Renewed(None)
        if rejected is None and _seconds_left(row, now) > EARLY_SECONDS:
            return Renewed(current)
        if row.refreshing_until is not None and row.refreshing_until > now:
            return None
        if not insist and row.refresh_failed_at is not None and now - row.refresh_failed_at < QUIET_SECONDS:
            return Renewed(None)
        rows.take_refresh(conn, row, owner, now + HOLD_SECONDS)
        return _Hold(row, secrets, owner, now)

    async def _kept(self, hold: _Hold, result: Grant | Refused | Unreached) -> Renewed:
        """Writes it down, with patience: an answer with a new refresh token exists nowhere else."""
        for _ in range(_KEEP_ATTEMPTS - 1):
            try:
                return await self._database.write(lambda conn: self._keep(conn, hold, result))
            except Busy as busy:
                await asyncio.sleep(min(busy.retry_after_seconds, 1.0))
        return await self._database.write(lambda conn: self._keep(conn, hold, result))

    def _keep(self, conn: Connection, hold: _Hold, result: Grant | Refused | Unreached) -> Renewed:
        """Write down what came of it, together with the new refresh token. What a client changed meanwhile stays."""
        now = self._database.now(conn)
        try:
            row = rows.get_credential(conn, hold.row.workspace_id, None, hold.row.id, for_update=True)
        except NotFound:
            return Renewed(None)
        if not isinstance(result, Grant):
            rows.end_refresh(conn, row.id, hold.owner, failed_at=now)
            if row.refresh_failed_at is None and row.archived_at is None:  # once, until it has worked again
                data = {"id": row.id, "vault_id": row.vault_id}
                self._announce(conn, now, row.workspace_id, "vault_credential.refresh_failed", data)
            return Renewed(None, result)
        rows.end_refresh(conn, row.id, hold.owner, failed_at=None)
        if row.archived_at is not None:
            return Renewed(None)
        stored = opened(self._sealer, row)
        given = {"access_token": result.access_token}
        if result.refresh_token is not None:
            given["refresh_token"] = result.refresh_token
        kept = {name: value for name, value in given.items() if stored.get(name) == hold.secrets.get(name)}
        secrets = {**stored, **kept}
        auth = dict(row.auth)
        if "access_token" in kept and auth.get("expires_at") == hold.row.auth.get("expires_at"):
            auth.pop("expires_at", None)
            if result.lives_seconds is not None:
                auth["expires_at"] = rfc3339_of(hold.at + result.lives_seconds)
        sealed = seal(self._sealer, row.workspace_id, row.vault_id, row.id, auth, secrets)
        changed = rows.change_credential(conn, now, row, auth=auth, sealed=sealed)
        return Renewed(_bearer(changed, secrets))

    async def _until_free(self, workspace: str, credential_id: str) -> None:
        """Another process renews; wait until it has, or its right has run out."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)

            def held(conn: Connection) -> bool:
                try:
                    row = rows.get_credential(conn, workspace, None, credential_id)
                except NotFound:
                    return False
                return row.refreshing_until is not None and row.refreshing_until > self._database.now(conn)

            if not await self._database.read(held):
                return


def oauth_credential(conn: Connection, workspace: str, vault_id: str, credential_id: str) -> CredentialRow:
    """An active credential of the type mcp_oauth. Raises NotFound, and InvalidRequest for any other."""
    row = rows.get_credential(conn, workspace, vault_id, credential_id)
    if row.auth["type"] != "mcp_oauth":
        raise InvalidRequest(f"credential {credential_id} is of type {row.auth['type']}; only mcp_oauth is validated")
    if row.archived_at is not None:
        raise InvalidRequest(f"credential {credential_id} is archived; there is nothing left to validate")
    return row


def _bearer(row: CredentialRow, secrets: dict[str, str]) -> Bearer:
    token = secrets["token" if row.auth["type"] == "static_bearer" else "access_token"]
    return Bearer(token, row.workspace_id, row.vault_id, row.id)


def _seconds_left(row: CredentialRow, now: float) -> float:
    expires = row.auth.get("expires_at")
    return float("inf") if expires is None else parse_rfc3339(expires).timestamp() - now
