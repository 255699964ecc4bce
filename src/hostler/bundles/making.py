"""How does a session come to be of what was kept of a bundle? In one transaction, with all that it has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Connection

from hostler.bundles.checking import Checked
from hostler.bundles.deciding import Chosen, Left
from hostler.bundles.document import Document
from hostler.bundles.keeping import Content
from hostler.bundles.renaming import Renaming
from hostler.bundles.tar import BundleWrong
from hostler.domain.errors import InvalidRequest
from hostler.domain.files import MOST_PATH_BYTES, mime_type, safe_path
from hostler.domain.prices import Prices
from hostler.domain.resources import FileResource, GithubResource, MemoryResource
from hostler.domain.sessions import BudgetLimit, Title
from hostler.domain.values import Identifier, Metadata, Value, parse
from hostler.engine import budget, labels
from hostler.engine.bundle_port import ImportOptions
from hostler.engine.models import Models
from hostler.engine.placement import Survey, needs_of
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.records import waiting_call
from hostler.engine.resources import Resource, ResourceKinds, check_free
from hostler.engine.routing import routing_of
from hostler.engine.skills import kept
from hostler.engine.state import SessionState, waits_for_people
from hostler.engine.vaults import session_vaults
from hostler.store import bundles as rows
from hostler.store import files as file_rows
from hostler.store import webhooks
from hostler.store.budgets import counts_for
from hostler.store.bundles import EntryFacts, EventFacts
from hostler.store.files import NewFile, OutputRow
from hostler.store.jsontext import encode
from hostler.store.moments import moment
from hostler.store.sequences import save_sequence
from hostler.store.sessions import NewSession, SessionRow, create_session
from hostler.store.skills import note_session
from hostler.store.waiting import replace_waiting

_OUTPUT: Final = "imported"
"""What stands for the look of an output file that was never seen here: by its bytes it is known to be the same."""
_MOMENT: Final = 40


class Shown(Value):
    """What of the session's own fields is taken over."""

    title: Title | None
    metadata: Metadata
    budget: BudgetLimit | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What is asked inside the transaction."""

    kinds: ResourceKinds
    quotas: WorkspaceQuotas
    models: Models
    prices: Prices


@dataclass(slots=True)
class Making:
    """The transaction."""

    parts: Parts
    conn: Connection
    now: float
    workspace: str
    found: Checked
    names: Renaming
    content: Content
    chosen: Chosen
    survey: Survey
    left: list[Left] = field(default_factory=list)

    def session(self, shown: Shown, options: ImportOptions) -> SessionRow:
        conn, document, names, chosen = self.conn, self.found.document, self.names, self.chosen
        if options.keep_ids:
            if not re.fullmatch(r"sesn_[0-9A-Za-z]{24}", names.session_id):
                raise InvalidRequest(f"keep_ids: {names.session_id} is no id of a session here; leave out keep_ids")
            rows.refuse_taken(
                conn, names.session_id, [one.id for one in document.files], [one.id for one in document.archives]
            )
        self.survey.check(chosen.config)
        if (chosen.config.wire().get("hosting") or {}).get("pattern") == "shared":
            raise InvalidRequest(
                "environment: sessions of the pattern `shared` live in a folder with others, and a bundle can't be put "
                "there; name an environment of another pattern"
            )
        if shown.budget is not None or counts_for(conn, self.workspace, chosen.agent["id"]):
            agent = chosen.agent
            budget.check_priced(self.parts.prices, self.parts.models, agent["model"]["id"], routing_of(agent))
        self_hosted = chosen.config.type == "self_hosted"
        vault_ids = list(dict.fromkeys(new for new in options.vaults.values() if new is not None))
        session_vaults(conn, self.workspace, vault_ids, self_hosted=self_hosted)
        self.left += [Left("vault", old, "left out") for old, new in options.vaults.items() if new is None]
        resources = self._resources(options, self_hosted=self_hosted)
        state = self._state(chosen, self_hosted=self_hosted)
        preset = needs_of(chosen.config, self.survey.terms).preset
        made = create_session(
            conn,
            self.now,
            NewSession(
                id=names.session_id,
                workspace_id=self.workspace,
                agent_id=chosen.agent_id,
                agent_version=chosen.agent_version,
                environment_id=chosen.environment_id,
                thread_id=names.thread_id,
                agent=chosen.agent,
                environment={
                    "config": chosen.config.model_dump(mode="json"),
                    "preset": preset,
                    "skills": kept(self.content.skills),
                },
                isolation=labels.begun(chosen.config, preset),
                state=state.model_dump_json(),
                status=state.status,
                title=options.title or shown.title,
                metadata=shown.metadata,
                resources=resources,
                vault_ids=vault_ids,
                budget=None if shown.budget is None else shown.budget.wire(),
                imported_from=self._origin(),
            ),
        )
        self._history(made)
        self._files()
        note_session(conn, made.id, (skill.sha256 for skill in self.content.skills))
        if self.content.snapshot is not None:
            self.content.snapshot.record_in(conn, self.now, made, "import")
        waiting = [waiting_call(call) for call in waits_for_people(state)]
        replace_waiting(conn, moment(self.now), made.id, self.workspace, added=waiting, removed=())
        webhooks.emit(conn, self.now, self.workspace, "session.created", {"id": made.id})
        return rows.as_it_is(conn, self.now, made.id, archived=state.status == "terminated")

    def _origin(self) -> dict[str, Any]:
        document = self.found.document
        created = document.session.get("created_at")
        return {
            "session_id": document.session["id"],
            "digest": self.found.digest,
            "producer": self.found.producer,
            "exported_at": document.point.exported_at,
            "created_at": created if isinstance(created, str) and len(created) <= _MOMENT else None,
            "events": document.point.events,
            "usage": dict(document.usage),
        }

    def _state(self, chosen: Chosen, *, self_hosted: bool) -> SessionState:
        renamed = self.names.value(json.loads(self.found.state.model_dump_json()))
        state = SessionState.model_validate_json(json.dumps(renamed))
        return state.model_copy(
            update={
                "agent_name": chosen.agent["name"],
                "self_hosted": self_hosted,
                # Nothing was used here yet.
                "active_seconds": 0.0,
                "running_since": None,
                "first_running_at": None,
                "stays": False,
            }
        )

    def _history(self, made: SessionRow) -> None:
        conn, content, document = self.conn, self.content, self.found.document
        rows.add_events(conn, made.id, (EventFacts(*_four(each)) for each in content.lines_of(content.events)))
        for facts, kept_lines in zip(document.transcripts, content.transcripts, strict=True):
            entries = (EntryFacts(uuid or None, text) for uuid, text in content.lines_of(kept_lines))
            rows.add_transcript(conn, made.id, self.names.transcript_id, facts.subpath, facts.mtime_ms, entries)
        for archive, chunks in zip(document.archives, content.archives, strict=True):
            row = {
                "id": self.names.id(archive.id),
                "number": archive.number,
                "entries": archive.entries,
                "logical_bytes": sum(one.logical for one in chunks),
                "upto": encode(archive.upto),
                "created_at": archive.created_at,
            }
            rows.add_archive(conn, made, row, ((one.first_entry, one.entries, content.chunk(one)) for one in chunks))
        if document.sequence is not None:
            save_sequence(conn, self.now, made.id, encode(document.sequence), lease=None)

    def _files(self) -> None:
        for facts, (blob, beginning) in zip(self.found.document.files, self.content.files, strict=True):
            self.parts.quotas.admit_bytes(self.conn, self.workspace, blob.size)
            name = safe_path(facts.filename)
            new = NewFile(
                id=self.names.id(facts.id),
                workspace_id=self.workspace,
                filename=name,
                mime_type=mime_type(facts.mime_type, name, beginning),
                size_bytes=blob.size,
                sha256=blob.sha256,
                downloadable=facts.downloadable,
                session_id=self.names.session_id,
            )
            file_rows.create_file(self.conn, self.now, new)
            if facts.output_path is not None and len(facts.output_path.encode("utf-8", "replace")) <= MOST_PATH_BYTES:
                output = OutputRow(facts.output_path, _OUTPUT, blob.sha256, new.id)
                file_rows.put_output(self.conn, self.names.session_id, output)

    def _resources(self, options: ImportOptions, *, self_hosted: bool) -> list[Resource]:
        made: list[Resource] = []
        attached = {facts.id for facts in self.found.document.files}
        for shown in self.found.document.session["resources"]:
            match shown.get("type"):
                case "memory_store":
                    old = str(shown.get("memory_store_id"))
                    new = options.memory_stores[old]
                    if new is None:
                        self.left.append(Left("memory_store", old, "left out"))
                        continue
                    wanted = {k: shown[k] for k in ("type", "access", "instructions") if k in shown}
                    request = parse(MemoryResource, {**wanted, "memory_store_id": new})
                    made += self.parts.kinds.attach(
                        self.conn,
                        self.now,
                        self.workspace,
                        self.names.session_id,
                        [request],
                        self_hosted=self_hosted,
                        taken=made,
                    )
                case "file":
                    file = parse(FileResource, {k: shown.get(k) for k in ("type", "file_id", "mount_path")})
                    if file.file_id not in attached:
                        self.left.append(Left("file", file.file_id, "the bundle doesn't have it"))
                        continue
                    made.append(self._resource(shown, made, {"file_id": self.names.id(file.file_id)}))
                case "github_repository":
                    names = ("type", "url", "checkout", "mount_path")
                    repository = parse(GithubResource, {k: shown.get(k) for k in names})
                    checkout = repository.checkout and repository.checkout.model_dump(mode="json")
                    made.append(self._resource(shown, made, {"url": repository.url, "checkout": checkout}))
                    if made[-1]["id"] in self.found.document.tokens:
                        self.left.append(Left("token", made[-1]["id"], "send the repository's token again"))
                case other:
                    raise BundleWrong(f"session.json: a resource of type {str(other)[:100]!r}, which is none")
        if self_hosted and any(one["type"] != "memory_store" for one in made):
            raise BundleWrong("session.json: files and repositories in a self_hosted environment")
        return made

    def _resource(self, shown: Mapping[str, Any], made: Sequence[Resource], more: Mapping[str, Any]) -> Resource:
        """Under the id that it had: a repository's clone lies in a folder of that name."""
        own = parse(_OwnResource, {"id": shown.get("id"), "mount_path": shown.get("mount_path")})
        if any(one.get("id") == own.id for one in made):
            raise BundleWrong(f"session.json: resource {own.id} is there twice")
        check_free(own.mount_path, shown["type"], made)
        at = moment(self.now)
        return {
            "id": own.id,
            "type": shown["type"],
            **more,
            "mount_path": own.mount_path,
            "created_at": at,
            "updated_at": at,
        }


class _OwnResource(Value):
    id: Identifier
    mount_path: str


def _four(fields: Sequence[str]) -> tuple[str, str, str, str]:
    id_, type_, at, body = fields
    return id_, type_, at, body


def shown_of(document: Document) -> Shown:
    session = document.session
    if not isinstance(session.get("id"), str):
        raise BundleWrong("session.json: session.id is missing")
    try:
        parse(_OwnId, {"id": session["id"]})
        return parse(Shown, {name: session.get(name) for name in ("title", "metadata", "budget")})
    except (InvalidRequest, ValidationError) as error:
        raise BundleWrong(f"session.json: session: {error}") from None


class _OwnId(Value):
    id: Identifier
