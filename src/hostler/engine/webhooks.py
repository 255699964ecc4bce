"""What may be done with webhook endpoints from outside? Create, read, change, delete; try, look at the log, send again.

The secret of an endpoint is shown when it is made, and never again. What is changed or tried is in the audit.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, TooManyRequests
from hostler.domain.ids import new_id
from hostler.domain.principals import Principal
from hostler.domain.sessions import Position
from hostler.domain.webhooks import EVENT_TYPES, CreateEndpoint, RotateSecret, TestDelivery, UpdateEndpoint, example
from hostler.engine.ports import Sealer, WebhookSender, WebhookTargetRefused
from hostler.engine.shares import Shares
from hostler.engine.webhook_courier import SECRET_PREFIX, Courier, context_of
from hostler.store import audit
from hostler.store import webhook_deliveries as queue
from hostler.store import webhooks as store
from hostler.store.database import Database
from hostler.store.jsontext import encode
from hostler.store.moments import moment
from hostler.store.pages import Position as StorePosition
from hostler.store.webhook_deliveries import AttemptRow, DeliveryRow, Leased
from hostler.store.webhooks import EVERYTHING, EndpointRow

View = dict[str, Any]

TESTS_AT_ONCE: Final = 4
"""Of one workspace. Each may take as long as an attempt may."""


class Webhooks:
    """The webhook endpoints of every workspace. Every method raises NotFound for another workspace's."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        sender: WebhookSender,
        courier: Courier,
        *,
        most: int,
        lease_seconds: float = 60.0,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._sender = sender
        self._courier = courier
        self._most = most
        self._lease_seconds = lease_seconds
        self._tests = Shares(TESTS_AT_ONCE)

    async def create(self, by: Principal, request: CreateEndpoint) -> View:
        """With `signing_secret`, shown this once. Raises InvalidRequest for a URL that can't be allowed."""
        self._check(request.url)
        workspace, endpoint_id, secret = by.workspace, new_id("whep"), _new_secret()

        def unit(connection: Connection) -> EndpointRow:
            now = self._database.now(connection)
            row = store.create_endpoint(
                connection,
                now,
                id=endpoint_id,
                workspace_id=workspace,
                url=request.url,
                name=request.name,
                description=request.description,
                enabled_events=request.enabled_events,
                secret=self._sealer.seal(context_of(workspace, endpoint_id), secret.encode()),
                most=self._most,
            )
            details = {"url": row.url, "enabled_events": row.enabled_events}
            _record(connection, now, by, "webhook_endpoint.create", endpoint_id, details)
            return row

        return {**endpoint_view(await self._database.write(unit)), "signing_secret": secret}

    async def retrieve(self, workspace: str, endpoint_id: str) -> View:
        return endpoint_view(await self._row(workspace, endpoint_id))

    async def list(self, workspace: str, *, limit: int, after: Position | None = None) -> tuple[Sequence[View], bool]:
        """Newest first, and whether more follow."""
        place = None if after is None else StorePosition(*after)
        found = await self._database.read(
            lambda connection: store.list_endpoints(connection, workspace, limit=limit, after=place)
        )
        return [endpoint_view(row) for row in found.rows], found.has_next

    async def update(self, by: Principal, endpoint_id: str, patch: UpdateEndpoint) -> View:
        """`enabled` forgets why it was disabled, and starts to count failures anew."""
        for field in patch.model_fields_set:
            if getattr(patch, field) is None:
                raise InvalidRequest(f"{field}: can't be null; leave it out to keep it")
        changes: dict[str, Any] = patch.model_dump(exclude_unset=True)
        if patch.url is not None:
            self._check(patch.url)
        if patch.enabled_events is not None:
            changes["enabled_events"] = encode(list(patch.enabled_events))
        if patch.state is not None:
            changes |= {"disabled_reason": ""} | ({"failures": 0} if patch.state == "enabled" else {})

        def unit(connection: Connection) -> EndpointRow:
            now = self._database.now(connection)
            row = store.change_endpoint(connection, now, by.workspace, endpoint_id, changes)
            details = patch.model_dump(mode="json", exclude_unset=True)
            _record(connection, now, by, "webhook_endpoint.update", endpoint_id, details)
            return row

        return endpoint_view(await self._database.write(unit))

    async def delete(self, by: Principal, endpoint_id: str) -> View:
        """The endpoint, its log, and what was still to be delivered."""

        def unit(connection: Connection) -> None:
            url = store.get_endpoint(connection, by.workspace, endpoint_id).url
            store.delete_endpoint(connection, by.workspace, endpoint_id)
            now = self._database.now(connection)
            _record(connection, now, by, "webhook_endpoint.delete", endpoint_id, {"url": url})

        await self._database.write(unit)
        return {"id": endpoint_id, "type": "webhook_endpoint_deleted"}

    async def rotate(self, by: Principal, endpoint_id: str, request: RotateSecret) -> View:
        """A new secret, shown this once. Deliveries carry a signature of the old one too until its time is over."""
        workspace, secret = by.workspace, _new_secret()

        def unit(connection: Connection) -> EndpointRow:
            now = self._database.now(connection)
            # Locked before it is read: of two rotations at once the second must keep the secret of the first.
            before = store.get_endpoint(connection, workspace, endpoint_id, for_update=True)
            keep = request.grace_seconds > 0
            changes = {
                "secret": self._sealer.seal(context_of(workspace, endpoint_id), secret.encode()),
                "old_secret": before.secret if keep else None,
                "old_secret_until": now + request.grace_seconds if keep else None,
            }
            row = store.change_endpoint(connection, now, workspace, endpoint_id, changes)
            details = {"grace_seconds": request.grace_seconds}
            _record(connection, now, by, "webhook_endpoint.rotate_secret", endpoint_id, details)
            return row

        return {**endpoint_view(await self._database.write(unit)), "signing_secret": secret}

    async def test(self, by: Principal, endpoint_id: str, request: TestDelivery) -> View:
        """One attempt, now, also at a disabled endpoint. The delivery as it went; it never disables the endpoint.

        Raises TooManyRequests while as many of the workspace are under way as may be.
        """
        if self._tests.is_full(by.workspace):
            raise TooManyRequests(f"{TESTS_AT_ONCE} tests are under way; wait until one of them has ended")
        async with self._tests.one_of(by.workspace):
            return await self._test(by, endpoint_id, request)

    async def _test(self, by: Principal, endpoint_id: str, request: TestDelivery) -> View:
        workspace = by.workspace

        def begin(connection: Connection) -> Leased:
            now = self._database.now(connection)
            endpoint = store.get_endpoint(connection, workspace, endpoint_id)
            first = endpoint.enabled_events[0]
            type_ = request.type or (EVENT_TYPES[0] if first == EVERYTHING else first)
            values = store.delivery_values(
                connection, now, workspace, endpoint_id, new_id("whe"), type_, example(type_), test=True
            )
            _record(connection, now, by, "webhook_endpoint.test", endpoint_id, {"event_type": type_})
            owner = new_id("test")
            row = queue.add_leased(connection, now, owner, values, ttl=self._lease_seconds)
            return Leased(row, endpoint, owner)

        leased = await self._database.write(begin)
        await self._courier.attempt(leased)
        return await self.delivery(workspace, endpoint_id, leased.delivery.id)

    # -- the log

    async def delivery(self, workspace: str, endpoint_id: str, delivery_id: str) -> View:
        def unit(connection: Connection) -> View:
            row = queue.get_delivery(connection, workspace, endpoint_id, delivery_id)
            return delivery_view(row, queue.attempts_of(connection, [row.id])[row.id])

        return await self._database.read(unit)

    async def deliveries(
        self,
        workspace: str,
        endpoint_id: str,
        *,
        limit: int,
        after: Position | None = None,
        states: Collection[str] = (),
    ) -> tuple[Sequence[View], bool]:
        """Newest first, with every attempt, and whether more follow."""
        place = None if after is None else StorePosition(*after)

        def unit(connection: Connection) -> tuple[list[View], bool]:
            store.get_endpoint(connection, workspace, endpoint_id)
            found = queue.list_deliveries(connection, workspace, endpoint_id, limit=limit, after=place, states=states)
            attempts = queue.attempts_of(connection, [row.id for row in found.rows])
            return [delivery_view(row, attempts[row.id]) for row in found.rows], found.has_next

        return await self._database.read(unit)

    async def send_again(self, by: Principal, endpoint_id: str, delivery_id: str) -> View:
        """Under the same event id, with all tries. Raises Conflict while it waits, InvalidRequest at a disabled one."""

        def unit(connection: Connection) -> View:
            workspace = by.workspace
            if store.get_endpoint(connection, workspace, endpoint_id).state == "disabled":
                raise InvalidRequest(f"webhook endpoint {endpoint_id} is disabled; enable it first")
            now = self._database.now(connection)
            row = queue.send_again(connection, now, workspace, endpoint_id, delivery_id)
            _record(connection, now, by, "webhook_delivery.retry", delivery_id, {"endpoint_id": endpoint_id})
            return delivery_view(row, queue.attempts_of(connection, [row.id])[row.id])

        return await self._database.write(unit)

    async def _row(self, workspace: str, endpoint_id: str) -> EndpointRow:
        return await self._database.read(lambda connection: store.get_endpoint(connection, workspace, endpoint_id))

    def _check(self, url: str) -> None:
        try:
            self._sender.check(url)
        except WebhookTargetRefused as refused:
            raise InvalidRequest(f"url: {refused}") from None


def _record(conn: Connection, now: float, by: Principal, act: str, target: str, details: Mapping[str, Any]) -> None:
    audit.record_act(conn, now, actor=by.actor, act=act, target_id=target, workspace_id=by.workspace, details=details)


def _new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def endpoint_view(row: EndpointRow) -> View:
    """The endpoint as this API shows it, without its secret."""
    return {
        "id": row.id,
        "type": "webhook_endpoint",
        "url": row.url,
        "name": row.name,
        "description": row.description,
        "enabled_events": row.enabled_events,
        "state": row.state,
        "disabled_reason": row.disabled_reason,
        "consecutive_failures": row.failures,
        "old_secret_expires_at": None if row.old_secret_until is None else moment(row.old_secret_until),
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def delivery_view(row: DeliveryRow, attempts: Sequence[AttemptRow]) -> View:
    return {
        "id": row.id,
        "type": "webhook_delivery",
        "endpoint_id": row.endpoint_id,
        "event_id": row.event_id,
        "event_type": row.event_type,
        "state": row.state,
        "test": row.test,
        "next_attempt_at": moment(row.due_at) if row.state == "pending" else None,
        "attempts": [
            {
                "number": attempt.number,
                "at": attempt.at,
                "status": attempt.status,
                "error": attempt.error,
                "latency_ms": attempt.latency_ms,
            }
            for attempt in attempts
        ],
        "created_at": row.created_at,
    }
