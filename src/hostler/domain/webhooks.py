"""Which webhook events are there, what may be asked of an endpoint, and what do a session's events tell the outside?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from hostler.domain.events import Body, Event
from hostler.domain.values import Items, Text, Value, problem

EVERYTHING: Final = "*"
MAX_URL: Final = 2_048
MAX_GRACE_SECONDS: Final = 7 * 86_400

EVENT_TYPES: Final = (
    "session.created",
    "session.updated",
    "session.running",
    "session.idled",
    "session.requires_action",
    "session.archived",
    "session.deleted",
    "session.status_run_started",
    "session.status_idled",
    "session.status_rescheduled",
    "session.status_terminated",
    "session.thread_created",
    "session.thread_idled",
    "session.thread_terminated",
    "session.outcome_evaluation_ended",
    "session.budget_reached",
    "agent.created",
    "agent.updated",
    "agent.archived",
    "environment.created",
    "environment.updated",
    "environment.archived",
    "environment.deleted",
    "vault.created",
    "vault.archived",
    "vault.deleted",
    "vault_credential.created",
    "vault_credential.archived",
    "vault_credential.deleted",
    "vault_credential.refresh_failed",
    "memory_store.created",
    "memory_store.archived",
    "memory_store.deleted",
    "budget.threshold_reached",
)
"""What this server tells."""

NEVER_HERE: Final = frozenset(
    {
        "session.pending",
        "agent.deleted",
        "deployment.created",
        "deployment.updated",
        "deployment.paused",
        "deployment.unpaused",
        "deployment.archived",
        "deployment.deleted",
        "deployment_run.started",
        "deployment_run.succeeded",
        "deployment_run.failed",
        "external_key.failed",
        "external_key.recovered",
        "user_profile.enforcement_action_opened",
        "user_profile.enforcement_action_resolved",
        "user_profile.program_status_updated",
    }
)
"""The rest of the contract's types. Nothing here makes them happen; who asks for one is told so."""


# ----------------------------------------------------------------------------------------------------------- requests


def _events(types: tuple[str, ...]) -> tuple[str, ...]:
    if not types:
        raise problem(f"is empty; name at least one event type, or {EVERYTHING!r} for all")
    for type_ in types:
        if type_ in NEVER_HERE:
            raise problem(f"{type_} does not happen on this server; leave it out")
        if type_ != EVERYTHING and type_ not in EVENT_TYPES:
            raise problem(f"{type_[:100]!r} is not a webhook event type; see docs/how-to/receive-webhooks.md")
    return tuple(dict.fromkeys(types))


def _url(url: str) -> str:
    if not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise problem("holds a character that no URL has; percent-encode it")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise problem("is not a URL; write it like https://example.com/hooks") from None
    if parts.scheme not in ("https", "http") or not host:
        raise problem("is not a URL; write it like https://example.com/hooks")
    if parts.username is not None or parts.password is not None:
        raise problem("holds a user name or password; verify the signature instead")
    if parts.fragment or url.endswith("#"):
        raise problem("holds a fragment, which is never sent; remove it")
    return url


Url = Annotated[str, Field(min_length=1, max_length=MAX_URL), AfterValidator(_url)]
EventTypes = Annotated[Items[str], Field(max_length=100), AfterValidator(_events)]
Name = Annotated[Text, Field(max_length=200)]
Description = Annotated[Text, Field(max_length=2_000)]


class CreateEndpoint(Value):
    """The body of `POST /hostler/v1/webhook_endpoints`."""

    url: Url
    enabled_events: EventTypes
    name: Name = ""
    description: Description = ""


class UpdateEndpoint(Value):
    """What was left out keeps its value."""

    url: Url | None = None
    enabled_events: EventTypes | None = None
    name: Name | None = None
    description: Description | None = None
    state: Literal["enabled", "disabled"] | None = None


class RotateSecret(Value):
    """How long deliveries are signed with the old secret too, in seconds. 0: from now on with the new one only."""

    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS)] = 86_400


def _one_event(type_: str | None) -> str | None:
    if type_ is not None and type_ not in EVENT_TYPES:
        raise problem(f"{type_[:100]!r} is not an event type that this server tells")
    return type_


class TestDelivery(Value):
    """Which event to pretend. Without one: the first that the endpoint wants."""

    __test__ = False
    type: Annotated[str | None, AfterValidator(_one_event)] = None


# ----------------------------------------------------------------------------------------------------- what happened

_STATUS: Final[dict[str, tuple[str, ...]]] = {
    "session.status_running": ("session.status_run_started", "session.running"),
    "session.status_idle": ("session.status_idled", "session.idled"),
    "session.status_rescheduled": ("session.status_rescheduled",),
    "session.status_terminated": ("session.status_terminated",),
    "session.updated": ("session.updated",),
    "span.outcome_evaluation_end": ("session.outcome_evaluation_ended",),
}
_THREAD: Final = {
    "session.thread_created": "session.thread_created",
    "session.thread_status_idle": "session.thread_idled",
    "session.thread_status_terminated": "session.thread_terminated",
}


def told_by(
    events: Sequence[Event], session_id: str, primary_thread: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The webhook events (type, data) that events of a session's log amount to, of those that are `wanted`."""
    for event in events:
        for type_ in (*_STATUS.get(event.type, ()), *_reasons(event.body)):
            if wanted(type_):
                yield type_, {"id": session_id}
        thread_type = _THREAD.get(event.type)
        if thread_type is not None and wanted(thread_type):
            thread = str(event.body["session_thread_id"])
            if thread != primary_thread:  # the contract: thread events are of child threads only
                yield thread_type, {"id": session_id, "session_thread_id": thread}


def _reasons(body: Body) -> tuple[str, ...]:
    if body["type"] != "session.status_idle":
        return ()
    reason: Any = body.get("stop_reason") or {}
    match reason.get("type"):
        case "requires_action":
            return ("session.requires_action",)
        case "budget_reached":
            return ("session.budget_reached",)
        case _:
            return ()


def example(type_: str) -> dict[str, str]:
    """Data of a pretended event: as the contract has them, about things that don't exist."""
    kind = type_.partition(".")[0]
    prefix = {
        "session": "sesn",
        "agent": "agent",
        "environment": "env",
        "vault": "vlt",
        "vault_credential": "vcrd",
        "memory_store": "memstore",
        "budget": "bdgt",
    }[kind]
    data = {"id": f"{prefix}_test"}
    if type_.startswith("session.thread_"):
        data["session_thread_id"] = "sthr_test"
    if kind == "budget":
        data |= {"percent": "80", "scope": "workspace", "subject_id": "wrkspc_test"}
    if kind == "vault_credential":
        data["vault_id"] = "vlt_test"
    return data
