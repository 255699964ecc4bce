"""What is counted and measured on a server, for Prometheus?

Every name is `hostler_<what>_<unit>`, with `_total` for what only grows; seconds and bytes, never their multiples.
Every combination of labels that can occur is there from the start, at zero: a rate over a series that appears with its
first failure misses that failure. So labels have few values, all known beforehand: no session, workspace, agent or
model is one. For those there are the reports (`hostler usage`), which read the ledger and not a counter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics

from hostler.domain.events import TRANSCRIPT_FAULT
from hostler.engine.guards import Guards
from hostler.engine.model_port import Asked, Choice, Ended, Grant, UpstreamHealth
from hostler.store.sessions import Usage

REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
MODEL_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
STATUS_CLASSES: Final = ("2xx", "3xx", "4xx", "5xx")
OUTCOMES: Final = ("answered", "refused", "throttled", "overloaded", "failed", "broken")
"""Of an attempt. refused: a 4xx but 429 · overloaded: 529 · failed: another 5xx · broken: no whole answer."""
TOKENS: Final = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
STOPS: Final = ("end_turn", "requires_action", "retries_exhausted", "budget_reached", "other")
EVENTS: Final = {
    "user.message": "message",
    "agent.tool_use": "tool_call",
    "agent.mcp_tool_use": "tool_call",
    "agent.custom_tool_use": "tool_call",
    "agent.tool_result": "tool_result",
    "session.error": "error",
    "session.status_rescheduled": "wait",
    "agent.thread_context_compacted": "compaction",
}
"""Which events of the wire are counted, and as what."""


NO_ENDPOINT: Final = "none"
"""Of requests that came to none: an unknown path, or no key."""


def outcome_of(ended: Ended) -> str:
    status = ended.status
    if status == 429:
        return "throttled"
    if status == 529:
        return "overloaded"
    if 400 <= status < 500:
        return "refused"
    if status >= 500:
        return "failed"
    return "broken" if ended.failure else "answered"


class Metrics:
    """Of one server. Implements `Watcher` of `engine.model_port`; the other methods are told by those who know."""

    def __init__(self, version: str, *, endpoints: Iterable[str], upstreams: Iterable[str]) -> None:
        """`endpoints`: the names of all that the API serves. `upstreams`: the names of those that may be asked."""
        # No second series for each, of a name that says nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        Info("hostler_build", "Which Hostler this is.", registry=registry).info({"version": version})
        # Requests to the API.
        self._requests = Counter(
            "hostler_http_requests", "Requests to the API.", ("endpoint", "status_class"), registry=registry
        )
        self._request_seconds = Histogram(
            "hostler_http_request_duration_seconds",
            "From the head of a request to the end of its answer. Streams of events are not in it.",
            registry=registry,
            buckets=REQUEST_SECONDS,
        )
        for endpoint in (*endpoints, NO_ENDPOINT):
            for status in STATUS_CLASSES:
                self._requests.labels(endpoint, status)
        # Requests to models.
        self._attempts = Counter(
            "hostler_model_attempts", "Attempts of model requests.", ("upstream", "outcome"), registry=registry
        )
        self._attempt_seconds = Histogram(
            "hostler_model_attempt_duration_seconds",
            "From the start of an attempt to its end.",
            ("upstream",),
            registry=registry,
            buckets=MODEL_SECONDS,
        )
        self._waits = Counter(
            "hostler_model_wait_seconds", "Time that model requests were to wait before they go on.", registry=registry
        )
        self._tokens = Counter("hostler_model_tokens", "Tokens of model requests.", ("kind",), registry=registry)
        self._cost = Counter("hostler_cost_usd", "List price of what was used, in US dollars.", registry=registry)
        self._unpriced = Counter(
            "hostler_model_unpriced_requests", "Model requests whose model has no price.", registry=registry
        )
        self._open = Gauge(
            "hostler_upstream_open",
            "Whether some model is not asked for there any more, except to try it.",
            ("upstream",),
            registry=registry,
        )
        for upstream in upstreams:
            self._open.labels(upstream)
            self._attempt_seconds.labels(upstream)
            for outcome in OUTCOMES:
                self._attempts.labels(upstream, outcome)
        for kind in TOKENS:
            self._tokens.labels(kind)
        # Sessions.
        self._events = Counter("hostler_session_events", "Events of sessions.", ("kind",), registry=registry)
        for kind in sorted(set(EVENTS.values())):
            self._events.labels(kind)
        self._stops = Counter(
            "hostler_turns_stopped", "Times that a session became idle, and why.", ("reason",), registry=registry
        )
        for stop in STOPS:
            self._stops.labels(stop)
        self._mirror = Counter(
            "hostler_transcript_faults", "Turns that ended because a transcript could not be stored.", registry=registry
        )
        self._mismatches = Counter(
            "hostler_ledger_mismatches", "Sessions whose ledgers were found to differ.", registry=registry
        )
        self._waiting = Gauge("hostler_turns_waiting", "Turns that wait for a place, on any server.", registry=registry)
        self._oldest = Gauge(
            "hostler_turns_waiting_oldest_seconds", "For how long the first of them has waited.", registry=registry
        )
        self._reached = Gauge("hostler_database_up", "Whether the database answered last.", registry=registry)

    # ----------------------------------------------------------------------------------------- read when asked for

    def show(self, name: str, help_: str, value: Callable[[], float | None]) -> None:
        """A gauge that is read when it is asked for, from another thread. `value` None: not known."""
        gauge = Gauge(name, help_, registry=self.registry)

        def known() -> float:
            found = value()
            return float("nan") if found is None else float(found)

        gauge.set_function(known)

    def show_all(self, name: str, help_: str, label: str, values: Mapping[str, Callable[[], float]]) -> None:
        """The same, for each value of a label."""
        gauge = Gauge(name, help_, (label,), registry=self.registry)
        for each, value in values.items():
            gauge.labels(each).set_function(value)

    def show_guards(self, guards: Guards) -> None:
        self.show("hostler_disk_free_bytes", "Of the state folder's disk.", lambda: guards.free("disk"))
        self.show("hostler_memory_available_bytes", "Of the host.", lambda: guards.free("memory"))
        self.show("hostler_event_loop_delay_seconds", "How late it was last.", lambda: guards.delay_seconds)
        self.show("hostler_guard_closed", "Whether nothing new is begun.", lambda: float(bool(guards.reasons())))

    # ----------------------------------------------------------------------------------------------------- told of

    def answered(self, endpoint: str | None, status: int, seconds: float | None) -> None:
        """A request to the API. `endpoint` None: it came to none. `seconds` None: it was a stream."""
        self._requests.labels(endpoint or NO_ENDPOINT, f"{status // 100}xx").inc()
        if seconds is not None:
            self._request_seconds.observe(seconds)

    def happened(self, kind: str, body: str) -> None:
        """An event was recorded: its type, and the whole of it as JSON text."""
        counted = EVENTS.get(kind)
        if counted is not None:
            self._events.labels(counted).inc()
            if counted == "error" and TRANSCRIPT_FAULT in body:
                self._mirror.inc()
        elif kind == "session.status_idle":
            reason = str(json.loads(body)["stop_reason"]["type"])
            self._stops.labels(reason if reason in STOPS else "other").inc()

    def recorded(self, used: Usage) -> None:
        """What a model request or running time has cost, once it is in the ledger."""
        self._cost.inc(used.list_cost_nanos / 1e9)
        if used.unpriced_requests:
            self._unpriced.inc(used.unpriced_requests)
        for kind, tokens in (
            ("input", used.input_tokens),
            ("output", used.output_tokens),
            ("cache_read", used.cache_read_input_tokens),
            ("cache_write_5m", used.cache_creation_5m_input_tokens),
            ("cache_write_1h", used.cache_creation_1h_input_tokens),
        ):
            if tokens:
                self._tokens.labels(kind).inc(tokens)

    def differed(self, times: int) -> None:
        """So many more times the ledgers of a session did not agree."""
        self._mismatches.inc(times)

    def upstreams(self, found: Iterable[UpstreamHealth]) -> None:
        for each in found:
            # Half-open, too: nobody but a trial has been let through, and with few requests that is how it stays.
            self._open.labels(each.name).set(any(trouble.state != "resting" for trouble in each.troubles))

    def queue(self, waiting: int, oldest_seconds: float) -> None:
        self._waiting.set(waiting)
        self._oldest.set(oldest_seconds)

    def database(self, *, up: bool) -> None:
        self._reached.set(up)

    # ----------------------------------------------------------------------------------------------------- Watcher

    def asked(self, asked: Asked, choice: Choice, grant: Grant) -> None:
        pass

    def waits(self, asked: Asked, why: str, seconds: float) -> None:
        self._waits.inc(max(0.0, seconds))

    def ended(self, asked: Asked, ended: Ended, usage: Usage) -> None:
        if ended.gone:  # It says nothing about the upstream.
            return
        self._attempts.labels(ended.target.upstream, outcome_of(ended)).inc()
        self._attempt_seconds.labels(ended.target.upstream).observe(ended.seconds)
