"""What may be done with sessions from outside? Create, read, change, archive, delete, send, list, stream.

The rules live in `engine.inputs` and in the store; this service joins them to transactions and to the wire's objects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from hostler.domain import events as ev
from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import InvalidRequest, PermissionDenied
from hostler.domain.ids import new_id
from hostler.domain.inputs import ClientEvent, wire_fields
from hostler.domain.prices import Prices
from hostler.domain.rooms import refuse_moving
from hostler.domain.sessions import (
    CreateSession,
    EventQuery,
    Frame,
    SessionLine,
    SessionQuery,
    TimeRange,
    UpdateSession,
)
from hostler.domain.sessions import Position as ListPosition
from hostler.domain.values import merge_metadata
from hostler.engine import budget, content, inputs, labels, skills, state, turns
from hostler.engine.about import about
from hostler.engine.agents import patched_snapshot, session_agent
from hostler.engine.audit_trail import abandoned
from hostler.engine.environments import session_environment
from hostler.engine.hub import Hub, Subscription
from hostler.engine.models import Models
from hostler.engine.placement import Placement, needs_of
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.records import Applied, Records
from hostler.engine.resources import ResourceKinds
from hostler.engine.room_list import join_its_room
from hostler.engine.routing import routing_of
from hostler.engine.session_bounds import SessionBounds
from hostler.engine.state import Moment, SessionState, Step, Totals
from hostler.engine.vaults import session_vaults
from hostler.store import audit, eventlog, runtime, webhooks
from hostler.store import sessions as rows
from hostler.store.budgets import counts_for, limit_session, of_session
from hostler.store.database import Database
from hostler.store.jsontext import encode
from hostler.store.moments import moment
from hostler.store.pages import Position, Range
from hostler.store.reservations import abandon
from hostler.store.sessions import KEEP, NewSession, SessionRow, SessionUpdate
from hostler.store.skills import note_session
from hostler.store.work_items import holds_claim

View = dict[str, Any]
"""A session as the wire shows it."""

REPLAY_PAGE = 500
"""Events read at once when a stream catches up."""


class Sessions:
    """Sessions of all workspaces. Every method raises NotFound for a session of another workspace."""

    def __init__(
        self,
        database: Database,
        hub: Hub,
        records: Records,
        models: Models,
        resources: ResourceKinds,
        quotas: WorkspaceQuotas,
        prices: Prices,
        placement: Placement,
        bounds: SessionBounds | None = None,
    ) -> None:
        self._bounds = bounds or SessionBounds()
        self._database = database
        self._hub = hub
        self._records = records
        self._models = models
        self._resources = resources
        self._quotas = quotas
        self._prices = prices
        self._placement = placement

    # -- create, read, change

    async def create(self, workspace: str, params: CreateSession) -> View:
        """With initial events the session is running when this returns, otherwise idle. All or nothing.

        Raises InvalidRequest when this host can't keep what the environment promises, or not any more.
        """
        survey = await self._placement.survey()
        bodies = [wire_fields(event) for event in params.initial_events]
        session_id, thread_id = new_id("sesn"), new_id("sthr")
        trace = about().traceparent

        def unit(connection: Connection) -> tuple[SessionRow, Applied | None]:
            now = self._database.now(connection)
            self._quotas.admit_session(connection, now, workspace)
            agent, snapshot = session_agent(connection, workspace, params.agent, self._models)
            if params.budget is not None or counts_for(connection, workspace, agent.id):
                budget.check_priced(self._prices, self._models, snapshot["model"]["id"], routing_of(snapshot))
            environment, config = session_environment(connection, workspace, params.environment_id)
            survey.check(config)
            preset = needs_of(config, survey.terms).preset
            self_hosted = config.type == "self_hosted"
            has_skills = skills.for_session(connection, workspace, snapshot["skills"])
            session_vaults(connection, workspace, params.vault_ids, self_hosted=self_hosted)
            attached = self._resources.attach(
                connection, now, workspace, session_id, params.resources, self_hosted=self_hosted
            )
            begun = SessionState(thread_id=thread_id, agent_name=agent.name, self_hosted=self_hosted)
            rows.create_session(
                connection,
                now,
                NewSession(
                    id=session_id,
                    workspace_id=workspace,
                    agent_id=agent.id,
                    agent_version=agent.version,
                    environment_id=environment.id,
                    thread_id=thread_id,
                    agent=snapshot,
                    environment={
                        "config": config.model_dump(mode="json"),
                        "preset": preset,
                        "skills": skills.kept(has_skills),
                    },
                    isolation=labels.begun(config, preset),
                    state=begun.model_dump_json(),
                    title=params.title,
                    metadata=params.metadata,
                    resources=attached,
                    vault_ids=params.vault_ids,
                    budget=params.budget,
                ),
            )
            note_session(connection, session_id, (skill.sha256 for skill in has_skills))
            join_its_room(connection, now, workspace, environment.id, config, session_id, params.metadata)
            content.check(connection, now, workspace, bodies, "initial_events")
            webhooks.emit(connection, now, workspace, "session.created", {"id": session_id})
            if not bodies:
                return rows.get_session(connection, workspace, session_id), None
            applied = self._records.apply_in(
                connection, session_id, lambda s, at, t, _: inputs.submit(s, at, t, bodies, trace), workspace=workspace
            )
            return applied.session, applied

        row, applied = await self._database.write(unit)
        if applied is not None:
            self._records.announce(session_id, applied)
        return await self._view(row)

    async def retrieve(self, workspace: str, session_id: str) -> View:
        return await self._database.read(
            lambda connection: view(rows.get_session(connection, workspace, session_id), self._database.now(connection))
        )

    async def update(self, workspace: str, session_id: str, patch: UpdateSession) -> View:
        """Title, metadata, budget, and the tools and MCP servers of an idle session.

        `session.updated` tells what changed, if anything did.
        """

        def unit(connection: Connection) -> Applied | SessionRow:
            row = rows.lock_session(connection, workspace, session_id)
            held = None if row.budget is None else of_session(connection, session_id)
            update, changed = _changes(row, patch, 0 if held is None else held.uncertain_nanos)
            if not changed:
                return row

            def decide(before: SessionState, at: Moment, after: Totals, _: SessionRow) -> Step:
                if before.status == "terminated":
                    raise InvalidRequest("This session is archived and can't be changed.")
                if "agent" in changed:
                    inputs.refuse_while_running(before, "changed")
                # Metadata that was cleared to nothing is left out, as the contract has it.
                shown = {name: value for name, value in changed.items() if name != "metadata" or value}
                told = Step(before, (ev.session_updated(at.text, shown),))
                if "budget" not in changed:
                    return told
                on = turns.budget_changed(before, at, after)
                return Step(on.state, (*told.events, *on.events), on.wanted)

            applied = self._records.apply_in(connection, session_id, decide, workspace=workspace, update=update)
            if "budget" in changed:
                limit_session(connection, self._database.now(connection), workspace, session_id, patch.wire_budget)
            return applied

        done = await self._database.write(unit)
        if isinstance(done, SessionRow):
            return await self._view(done)
        self._records.announce(session_id, done)
        return await self._view(done.session)

    async def list(self, workspace: str, query: SessionQuery) -> tuple[list[SessionLine], bool, bool]:
        """Rows in display order, whether more come after them, whether more come before them."""

        def unit(connection: Connection) -> tuple[list[SessionLine], bool, bool]:
            page = rows.list_sessions(
                connection,
                workspace,
                limit=query.limit,
                order=query.order,
                after=Position(*query.after) if query.after else None,
                before=Position(*query.before) if query.before else None,
                agent_id=query.agent_id,
                agent_version=query.agent_version,
                deployment_id=query.deployment_id,
                memory_store_id=query.memory_store_id,
                statuses=query.statuses,
                created=_range(query.created_at),
                include_archived=query.include_archived,
            )
            now = self._database.now(connection)
            lines = [SessionLine(ListPosition(row.created_at, row.id), view_text(row, now)) for row in page.rows]
            return lines, page.has_next, page.has_prev

        return await self._database.read(unit)

    async def archive(self, workspace: str, session_id: str) -> View:
        """Idempotent. Raises InvalidRequest while the session runs."""
        row = await self._row(workspace, session_id)
        if row.archived_at is not None:
            return await self._view(row)

        def unit(connection: Connection) -> Applied:
            now = self._database.now(connection)
            applied = self._records.apply_in(
                connection,
                session_id,
                lambda s, at, _, __: inputs.archive(s, at),
                workspace=workspace,
                update=SessionUpdate(archived_at=moment(now)),
            )
            if applied.frames:
                webhooks.emit(connection, now, workspace, "session.archived", {"id": session_id})
            return applied

        applied = await self._database.write(unit)
        self._records.announce(session_id, applied)
        self._hub.work(session_id)
        return await self._view(applied.session)

    async def delete(self, workspace: str, session_id: str) -> None:
        """The session, its events, transcript and files are gone. Raises InvalidRequest while it runs."""

        at = await self._database.write(lambda connection: self.delete_in(connection, workspace, session_id))
        self.announce_deleted(session_id, at)

    def delete_in(self, connection: Connection, workspace: str, session_id: str) -> str:
        """The same within a transaction of the caller, who calls `announce_deleted` after the commit, with what this
        returns."""
        row = rows.get_session(connection, workspace, session_id)
        state = SessionState.model_validate_json(row.state)
        inputs.refuse_while_running(state, "deleted")
        self._resources.detach(connection, workspace, session_id, row.resources)
        now = self._database.now(connection)
        while abandon(connection, now, session_id):
            pass
        rows.delete_session(connection, workspace, session_id)
        audit.append(connection, now, workspace, abandoned(state, Moment(now, moment(now)), session_id))
        audit.forget_session(connection, now, workspace, session_id)
        webhooks.emit(connection, now, workspace, "session.deleted", {"id": session_id})
        return moment(now)

    def announce_deleted(self, session_id: str, at: str) -> None:
        """Readers hear of it, and their streams end."""
        event = ev.deleted(at)
        self._hub.publish(session_id, [Frame(event.type, event.text())])
        self._hub.deleted(session_id)

    # -- events

    async def send(
        self, workspace: str, session_id: str, events: Sequence[ClientEvent], *, token_id: str | None = None
    ) -> Sequence[str]:
        """The accepted events as JSON text, in order; of a repeated answer, the event that it repeats.

        With `token_id`, a worker sends, and is refused (PermissionDenied) when it has lost its work item.
        """
        bodies = [wire_fields(event) for event in events]
        trace = about().traceparent

        def unit(connection: Connection) -> Applied:
            def decide(state: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
                self._bounds.admit_input(connection, row, bodies)
                return inputs.submit(state, at, totals, bodies, trace)

            applied = self._records.apply_in(connection, session_id, decide, workspace=workspace)
            if token_id is not None and not holds_claim(connection, self._database.now(connection), token_id):
                raise PermissionDenied(
                    "the lease of this worker's item has run out, or the item was stopped: another worker may serve "
                    "the session by now, so nothing of this request was recorded"
                )
            content.check(connection, applied.at.unix, workspace, bodies, "events")
            return applied

        applied = await self._database.write(unit)
        self._records.announce(session_id, applied)
        return [
            reply.text() if isinstance(reply, ev.Event) else await self._recorded(session_id, reply)
            for reply in applied.step.replies
        ]

    async def list_events(
        self, workspace: str, session_id: str, query: EventQuery
    ) -> tuple[Sequence[tuple[int, str]], bool]:
        """(sequence, JSON text) of each event, and whether more follow. Waiting input stands behind everything."""

        def unit(connection: Connection) -> tuple[Sequence[eventlog.StoredEvent], bool, SessionRow]:
            row = rows.get_session(connection, workspace, session_id)
            found, more = eventlog.list_events(
                connection,
                session_id,
                limit=query.limit,
                order=query.order,
                after_seq=query.after_seq,
                types=query.types,
                processed=_range(query.created_at),
            )
            return found, more, row

        found, more, row = await self._database.read(unit)
        recorded = [(event.seq, event.body) for event in found]
        # The two reads need not see the same moment: what waited in the first can be recorded in the second.
        return _with_waiting(recorded, more, row, query, {event.id for event in found})

    async def open_stream(
        self, workspace: str, session_id: str, *, after_seq: int | None, deltas: frozenset[str]
    ) -> SessionStream:
        """Subscribed when this returns: what is committed from now on will be in the stream."""
        subscription = self._hub.subscribe(session_id, deltas)
        try:
            row = await self._row(workspace, session_id)
        except BaseException:
            self._hub.unsubscribe(subscription)
            raise
        # A number that is of another log, or of this one before it came back from a backup, would never be reached.
        since = row.last_seq if after_seq is None else min(after_seq, row.last_seq)
        return SessionStream(self._database, self._hub, subscription, since)

    async def thread(self, workspace: str, session_id: str) -> View:
        """The primary thread: its log is the session's."""
        row = await self._row(workspace, session_id)
        now = await self._database.read(self._database.now)
        shown = view(row, now)
        usage = {**shown["usage"], **(await self._cost_of_models(row))}
        held = SessionState.model_validate_json(row.state)
        agent = {key: value for key, value in shown["agent"].items() if key != "multiagent"}
        ran = held.first_running_at is not None
        return {
            "id": row.thread_id,
            "type": "session_thread",
            "session_id": row.id,
            "parent_thread_id": None,
            "agent": agent,
            "status": row.status,
            "workflow_run_id": None,
            "stats": {**shown["stats"], "startup_seconds": None} if ran else None,
            "usage": usage if ran and held.status != "running" else None,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
            "archived_at": row.archived_at,
        }

    # -- helpers

    async def _cost_of_models(self, row: SessionRow) -> View:
        """What the contract counts for a thread: running time is the session's."""
        running = await self._database.read(lambda connection: runtime.total(connection, row.id))
        used = replace(row.usage, list_cost_nanos=row.usage.list_cost_nanos - running.list_cost_nanos)
        cost = budget.list_cost(used)
        return {} if cost is None else {"list_cost": cost}

    async def _row(self, workspace: str, session_id: str) -> SessionRow:
        return await self._database.read(lambda connection: rows.get_session(connection, workspace, session_id))

    async def _view(self, row: SessionRow) -> View:
        return view(row, await self._database.read(self._database.now))

    async def _recorded(self, session_id: str, event_id: str) -> str:
        found = await self._database.read(lambda c: eventlog.find_event(c, session_id, event_id))
        if found is None:
            raise InvalidRequest(f"The answer {event_id} is not in the log any more.")
        return found.body


class SessionStream:
    """One reader of a session's log: recorded events without a gap, and previews for as long as it keeps up."""

    def __init__(self, database: Database, hub: Hub, subscription: Subscription, seq: int) -> None:
        self._database = database
        self._hub = hub
        self._subscription = subscription
        self._seq = seq

    async def __aiter__(self) -> AsyncIterator[Frame]:
        subscription = self._subscription
        async for frame in self._catch_up():
            yield frame
        while True:
            await subscription.wait()
            while subscription.frames:
                frame = subscription.frames.popleft()
                if frame.seq is None:
                    if frame.behind is None or self._seq <= frame.behind:
                        yield frame
                elif frame.seq == self._seq + 1:
                    self._seq = frame.seq
                    yield frame
                elif frame.seq > self._seq:
                    async for missed in self._catch_up():
                        yield missed
            if subscription.overrun:
                subscription.overrun = False
                async for missed in self._catch_up():
                    yield missed
            if subscription.closed and not subscription.frames:
                return

    async def close(self) -> None:
        self._hub.unsubscribe(self._subscription)

    async def _catch_up(self) -> AsyncIterator[Frame]:
        session_id = self._subscription.session_id

        def page(connection: Connection) -> Sequence[eventlog.StoredEvent]:
            return eventlog.read_events(connection, session_id, after_seq=self._seq, limit=REPLAY_PAGE)

        while True:
            events = await self._database.read(page)
            for event in events:
                self._seq = event.seq
                yield Frame(event.type, event.body, event.seq)
            if len(events) < REPLAY_PAGE:
                return


# ------------------------------------------------------------------------------------------------------- rendering


def view(row: SessionRow, now: float) -> View:
    """The wire's session object, every key present."""
    large = {"agent": row.agent, "resources": row.resources, "vault_ids": row.vault_ids, "metadata": row.metadata}
    # Ours, and only where it says something.
    begun = {"forked_from": row.forked_from, "imported_from": row.imported_from}
    shown = {name: value for name, value in begun.items() if value is not None}
    return {**_small(row, now), **large, "budget": row.budget, "isolation": row.isolation, **shown}


def view_text(row: SessionRow, now: float) -> str:
    """The same as JSON text. What is kept as JSON is not read and written again: a page has a hundred agents."""
    begun = "" if row.forked_from_json is None else f',"forked_from":{row.forked_from_json}'
    begun += "" if row.imported_from_json is None else f',"imported_from":{row.imported_from_json}'
    return (
        f'{encode(_small(row, now))[:-1]},"agent":{row.agent_json},"resources":{row.resources_json},'
        f'"vault_ids":{row.vault_ids_json},"metadata":{row.metadata_json},"budget":{row.budget_json or "null"},'
        f'"isolation":{row.isolation_json}{begun}}}'
    )


def _small(row: SessionRow, now: float) -> View:
    """What is not kept as JSON."""
    held = SessionState.model_validate_json(row.state)
    active = round(state.active_seconds(held, now), 3)
    created = parse_rfc3339(row.created_at).timestamp()
    until = parse_rfc3339(row.archived_at).timestamp() if row.archived_at else now
    return {
        "id": row.id,
        "type": "session",
        "status": row.status,
        "title": row.title,
        "environment_id": row.environment_id,
        "outcome_evaluations": [],
        "stats": {"active_seconds": active, "duration_seconds": round(max(0.0, until - created), 3)},
        "usage": {**budget.totals(row, None).usage, "active_seconds": active},
        "deployment_id": row.deployment_id,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "archived_at": row.archived_at,
    }


def _with_waiting(
    recorded: list[tuple[int, str]], more: bool, row: SessionRow, query: EventQuery, known: Collection[str]
) -> tuple[list[tuple[int, str]], bool]:
    """Put input that waits at the end of the list (asc), or at its beginning (desc)."""
    held = SessionState.model_validate_json(row.state)
    waits = [*held.queue, *([held.interrupt] if held.interrupt else ())]
    bodies = [queued.body for queued in waits if queued.body["id"] not in known]
    ranged = any(bound is not None for bound in query.created_at.texts().values())
    if ranged or query.types:
        bodies = [] if ranged else [body for body in bodies if body["type"] in query.types]
    if not bodies:
        return recorded, more
    # What waits has no number yet, so no page can go on behind some of it: all of it is on one, even
    # if that has fewer places.
    texts = [ev.to_text(body) for body in bodies]
    if query.order == "desc":
        if query.after_seq is not None:
            return recorded, more
        kept = recorded[: max(0, query.limit - len(texts))]
        last = kept[-1][0] if kept else row.last_seq + 1
        return [*((last, text) for text in reversed(texts)), *kept], more or len(kept) < len(recorded)
    if more or (recorded and len(recorded) + len(texts) > query.limit):
        return recorded, True
    return [*recorded, *((row.last_seq, text) for text in texts)], False


def _range(bounds: TimeRange) -> Range:
    return Range(**bounds.texts())


def _changes(row: SessionRow, patch: UpdateSession, uncertain_nanos: int) -> tuple[SessionUpdate, dict[str, Any]]:
    """What the patch changes: for the store, and for the `session.updated` event."""
    changed: dict[str, Any] = {}
    title: Any = KEEP
    metadata: Any = KEEP
    agent: Any = KEEP
    limit: Any = KEEP
    if "title" in patch.model_fields_set and (patch.title or None) != row.title:
        title = changed["title"] = patch.title or None
    merged = merge_metadata(row.metadata, patch.metadata)
    if merged != row.metadata:
        refuse_moving(row.metadata, merged)
        metadata = merged
        changed["metadata"] = merged
    if patch.agent is not None and (following := patched_snapshot(row.agent, patch.agent)) != row.agent:
        agent = changed["agent"] = following
    if "budget" in patch.model_fields_set and patch.wire_budget != row.budget:
        budget.check_change(row.budget, patch.wire_budget, row.usage, uncertain_nanos)
        limit = changed["budget"] = patch.wire_budget
    return SessionUpdate(title=title, metadata=metadata, agent=agent, budget=limit), changed
