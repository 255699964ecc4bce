"""What may happen to a unit of work of a self-hosted environment? Pure: a row and a happening in, the next row out.

    queued ──claim, ack──► starting ──first heartbeat──► active ──stop──► stopping ──► stopped
      ▲                       │ lease runs out              │ lease runs out │ lease runs out
      └───────────────────────┴─────────────────────────────┘                └─► stopped

A claim is a poll's answer. It has a token of its own, and holds until its lease runs out; every heartbeat extends that.
Whoever shows an older token, or an older heartbeat, has lost the item.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hostler.domain.errors import Conflict, HeartbeatRefused, InvalidRequest
from hostler.store.moments import moment
from hostler.store.work_items import WorkItemRow

NO_HEARTBEAT = "NO_HEARTBEAT"
"""What a worker expects before its first heartbeat."""

RECLAIM_SECONDS = 5.0
"""After this long a claim that nobody acknowledged may be taken by another poll, unless the poll says otherwise."""

MAX_BARREN = 3
"""So many items in a row may end without a result before the session waits for a person instead of a worker."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things hold, in seconds."""

    lease_seconds: int = 300
    """A claim, until its next heartbeat; the contract's default."""
    release_idle_seconds: float = 75.0
    """A worker is asked to leave a session that has been idle for this long: the official worker's own idle time of
    60 s, and some grace, for the histories in which that one never ends."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who speaks for an item."""

    credential: str
    """Id of the key or the token."""
    token_id: str | None
    """Set when it is the token of a claim."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat, as it was sent."""

    expected: str | None
    """The last heartbeat that the worker knows of; None: it does not care."""
    ttl_seconds: int | None
    is_retry: bool
    """The client repeats it because the answer was lost."""


def held(row: WorkItemRow, now: float) -> bool:
    """Whether a claim holds."""
    return row.lease_until is not None and row.lease_until > now


def claimed(row: WorkItemRow, now: float, token_id: str, terms: Terms) -> WorkItemRow:
    return replace(
        row,
        claimed_at=now,
        token_id=token_id,
        ttl_seconds=terms.lease_seconds,
        lease_until=now + terms.lease_seconds,
    )


def acknowledged(row: WorkItemRow, now: float, by: Bearer) -> WorkItemRow:
    """Raises InvalidRequest when there is no claim to acknowledge, or it is another's."""
    if row.state == "queued" and row.claimed_at is not None:
        return replace(
            row,
            state="starting",
            acknowledged_at=moment(now),
            acknowledged_by=by.credential,
            lease_until=now + row.ttl_seconds,
        )
    if row.state in ("starting", "active") and row.acknowledged_by == by.credential:
        return row
    if row.state == "queued":
        raise InvalidRequest(f"work {row.id} was not claimed, or its claim has run out; poll for it first")
    raise InvalidRequest(f"work {row.id} is {row.state}; only work that a poll has just returned can be acknowledged")


def beaten(row: WorkItemRow, now: float, by: Bearer, beat: Beat, terms: Terms) -> tuple[WorkItemRow, bool]:
    """The row after a heartbeat, and whether the lease was extended. Raises HeartbeatRefused when it is lost."""
    if row.state in ("stopping", "stopped"):
        return row, False
    stranger = by.token_id is not None and by.token_id != row.token_id
    if row.state == "queued" or stranger:
        raise HeartbeatRefused(_refusal(row), lease_state(row))
    known = row.latest_heartbeat_at or NO_HEARTBEAT
    if beat.expected not in (None, known):
        before = row.previous_heartbeat_at or NO_HEARTBEAT
        repeated = beat.is_retry and row.latest_heartbeat_at is not None and row.heartbeat_by == by.credential
        if not (repeated and beat.expected == before):
            raise HeartbeatRefused(_refusal(row), lease_state(row))
        return row, True
    ttl = beat.ttl_seconds or terms.lease_seconds
    row = replace(
        row,
        state="active",
        started_at=row.started_at or moment(now),
        previous_heartbeat_at=row.latest_heartbeat_at,
        latest_heartbeat_at=_later(row.latest_heartbeat_at, now),
        heartbeat_by=by.credential,
        ttl_seconds=ttl,
        lease_until=now + ttl,
    )
    if row.idle_since is not None and now - row.idle_since >= terms.release_idle_seconds:
        row = replace(row, state="stopping", stop_requested_at=moment(now))
    return row, True


def stop_requested(row: WorkItemRow, now: float, *, force: bool) -> WorkItemRow:
    """Ask the worker to leave; it hears of it in its next heartbeat. `force`, or no worker: it is over at once.

    Raises Conflict when it has been over before.
    """
    if row.state == "stopped":
        raise Conflict(f"work {row.id} has been stopped already")
    # Without a heartbeat so far nobody would hear of it, and nobody would end it.
    if force or row.latest_heartbeat_at is None or not held(row, now):
        return stopped(row, now)
    if row.state == "stopping":
        return row
    return replace(row, state="stopping", stop_requested_at=moment(now))


def stopped(row: WorkItemRow, now: float) -> WorkItemRow:
    at = moment(now)
    return replace(row, state="stopped", stop_requested_at=row.stop_requested_at or at, stopped_at=at, lease_until=None)


def run_out(row: WorkItemRow, now: float, *, needed: bool) -> WorkItemRow:
    """The row after its lease ran out. `needed`: the session still has something for a worker to do."""
    if row.state == "stopping" or not needed:
        return stopped(row, now)
    return replace(
        row,
        state="queued",
        queued_at=now,
        claimed_at=None,
        token_id=None,
        acknowledged_at=None,
        acknowledged_by=None,
        started_at=None,
        latest_heartbeat_at=None,
        previous_heartbeat_at=None,
        heartbeat_by=None,
        lease_until=None,
    )


def lease_state(row: WorkItemRow) -> dict[str, Any]:
    """The lease as the server holds it, for the worker that was refused."""
    return {
        "state": row.state,
        "last_heartbeat": row.latest_heartbeat_at,
        "lease_extended": False,
        "ttl_seconds": row.ttl_seconds,
    }


def work_wire(row: WorkItemRow, *, secret: str | None = None) -> dict[str, Any]:
    """The item as the wire shows it."""
    return {
        "id": row.id,
        "type": "work",
        "environment_id": row.environment_id,
        "data": {"type": "session", "id": row.session_id},
        "state": row.state,
        "metadata": row.metadata,
        "created_at": row.created_at,
        "acknowledged_at": row.acknowledged_at,
        "started_at": row.started_at,
        "latest_heartbeat_at": row.latest_heartbeat_at,
        "stop_requested_at": row.stop_requested_at,
        "stopped_at": row.stopped_at,
        "secret": secret,
    }


def _refusal(row: WorkItemRow) -> str:
    return f"work {row.id} is {row.state} and its last heartbeat is another one: this worker has lost the lease"


def _later(last: str | None, now: float) -> str:
    """A new moment is never the last one again, however fast two heartbeats follow."""
    at = moment(now)
    while last is not None and at <= last:
        now += 1e-6
        at = moment(now)
    return at
