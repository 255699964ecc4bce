"""How does one webhook delivery go, and what follows from it? Signed, sent, recorded; tried again, or given up.

Signatures are those of Standard Webhooks: the id of the event stays, the time is stamped anew for each attempt, and
for a while after a rotation both secrets sign.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection
from standardwebhooks import Webhook

from hostler.domain.errors import SecretUnreadable
from hostler.engine.ports import Sealer, WebhookSender, WebhookTargetRefused, WebhookUnanswered
from hostler.store import webhook_deliveries as queue
from hostler.store import webhooks
from hostler.store.database import Database
from hostler.store.jsontext import decode
from hostler.store.webhook_deliveries import DeliveryState, Leased, Outcome
from hostler.store.webhooks import EndpointRow

log = logging.getLogger("hostler.webhooks")

SECRET_PREFIX: Final = "whsec_"
LONGEST_PAUSE: Final = 120.0


@dataclass(frozen=True, slots=True)
class CourierSettings:
    retry_seconds: float = 5.0
    """Least pause before the second attempt; six times that before the third. Jitter adds up to as much again."""
    disable_after: int = 20
    """Deliveries given up in a row after which an endpoint is disabled."""


def secret_context(endpoint: EndpointRow) -> str:
    """What the signing secret of an endpoint is sealed for."""
    return context_of(endpoint.workspace_id, endpoint.id)


def context_of(workspace_id: str, endpoint_id: str) -> str:
    return f"{workspace_id}/{endpoint_id}/signing_secret"


class Courier:
    """Makes deliveries that somebody leased."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        sender: WebhookSender,
        organization_id: str,
        settings: CourierSettings | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._sender = sender
        self._organization_id = organization_id
        self._settings = settings or CourierSettings()

    async def attempt(self, leased: Leased) -> None:
        """One attempt, recorded. Raises only what the database raises; then the lease runs out, and it is repeated."""
        started = await self._database.read(self._database.now)
        clock = asyncio.get_running_loop().time
        begun = clock()
        status: int | None = None
        fatal: str | None = None
        error: str | None = None
        try:
            body = self.body(leased)
            headers = self._headers(leased, body, started)
            status = await self._sender.post(leased.endpoint.url, headers, body)
            if 300 <= status < 400:
                fatal = f"the endpoint answered {status}: redirects are not followed"
            elif not 200 <= status < 300:
                error = f"the endpoint answered {status}"
        except WebhookTargetRefused as refused:
            fatal = f"the address may not be reached: {refused}"
        except WebhookUnanswered as unanswered:
            error = str(unanswered)
        except SecretUnreadable as unreadable:
            log.error("webhook_secret_unreadable", extra={"endpoint": leased.endpoint.id})
            error = f"the signing secret can't be read on the server: {unreadable.message}"
        outcome = Outcome(started, round((clock() - begun) * 1000, 3), status, fatal or error)
        await self._database.write(lambda connection: self._record(connection, leased, outcome, fatal))

    def body(self, leased: Leased) -> bytes:
        """The payload: the same bytes at each attempt."""
        row = leased.delivery
        data = {**decode(row.data_json), "organization_id": self._organization_id}
        payload = {"type": "event", "id": row.event_id, "created_at": row.created_at, "data": data}
        return json.dumps(payload, separators=(",", ":")).encode()

    def _headers(self, leased: Leased, body: bytes, now: float) -> dict[str, str]:
        endpoint = leased.endpoint
        context = secret_context(endpoint)
        sealed = [endpoint.secret]
        if endpoint.old_secret is not None and (endpoint.old_secret_until or 0.0) > now:
            sealed.append(endpoint.old_secret)
        at = datetime.fromtimestamp(int(now), UTC)
        signatures = [
            Webhook(self._sealer.open(context, text).decode()).sign(leased.delivery.event_id, at, body.decode())
            for text in sealed
        ]
        return {
            "content-type": "application/json",
            "webhook-id": leased.delivery.event_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": " ".join(signatures),
        }

    def _record(self, connection: Connection, leased: Leased, outcome: Outcome, fatal: str | None) -> None:
        row = leased.delivery
        now = self._database.now(connection)
        state: DeliveryState = "pending"
        if outcome.error is None:
            state = "delivered"
        elif fatal is not None or row.tries_left <= 1:
            state = "failed"
        due_at = now + self._pause(row.attempts) if state == "pending" else row.due_at
        if not queue.finish(connection, leased, outcome, state=state, due_at=due_at):
            return
        if row.test:
            return  # a trial says how it went, and changes nothing
        if state == "delivered":
            if leased.endpoint.failures:
                queue.forget_failures(connection, row.endpoint_id)
            return
        reason = fatal
        if state == "failed" and reason is None:
            failures = queue.count_failure(connection, row.endpoint_id)
            if failures >= self._settings.disable_after:
                reason = f"{failures} deliveries in a row failed; the last one: {outcome.error}"
        if reason is not None and webhooks.disable_endpoint(connection, now, row.workspace_id, row.endpoint_id, reason):
            log.warning("webhook_endpoint_disabled", extra={"endpoint": row.endpoint_id, "reason": reason})

    def _pause(self, attempts: int) -> float:
        """Seconds before the next attempt: exponential, with jitter, so that a recovered receiver isn't stormed."""
        least = self._settings.retry_seconds * 6.0 ** (attempts % webhooks.TRIES)
        return min(LONGEST_PAUSE, least * (1 + secrets.randbelow(1000) / 1000))
