"""With which agent, in which environment, with which vaults and memories does an imported session go on?

What a bundle says of these is checked like what a client says that makes them. Nothing that belongs to the importer
is given to a session because a bundle names it: whoever imports has to say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from hostler.bundles.document import Document
from hostler.domain.agents import AgentVersion, CreateAgent, first_version
from hostler.domain.environments import CloudConfig, CreateEnvironment, SelfHostedConfig, new_config
from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.ids import new_id
from hostler.domain.sessions import AgentRef
from hostler.domain.skills import PinnedSkill
from hostler.domain.values import parse
from hostler.engine.agents import session_agent, version_of
from hostler.engine.bundle_port import ImportOptions
from hostler.engine.environments import EnvironmentBody, session_environment
from hostler.engine.models import Models
from hostler.store import catalog, webhooks
from hostler.store import skills as skill_rows

_HOW = "pass create to make what the bundle describes, or name one of yours with {}"
_OF_AN_AGENT = frozenset(CreateAgent.model_fields)


@dataclass(frozen=True, slots=True)
class Left:
    """Something that the session had and has no more."""

    type: str
    id: str
    message: str

    def wire(self) -> dict[str, str]:
        return {"type": self.type, "id": self.id, "message": self.message}


@dataclass(slots=True)
class Chosen:
    """What an imported session is given."""

    agent_id: str
    agent_version: int
    agent: dict[str, Any]
    """The snapshot."""
    environment_id: str
    config: CloudConfig | SelfHostedConfig
    created: list[str] = field(default_factory=list)
    """Ids of what was made for it."""
    left: list[Left] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Definitions:
    """What a bundle says of agent and environment, checked."""

    agent: AgentVersion
    """As it is for everybody."""
    of_session: AgentVersion
    """As this session has it."""
    environment: CreateEnvironment
    config: CloudConfig | SelfHostedConfig


def definitions(document: Document, models: Models) -> Definitions:
    """Raises InvalidRequest, in the words of whoever would make them."""
    environment = _environment(document.environment)
    return Definitions(
        _agent(document.agent, models, "agent"),
        _agent({"metadata": {}, **_object(document.session, "agent")}, models, "session.agent"),
        environment,
        new_config(environment.config),
    )


def undecided(document: Document, options: ImportOptions) -> None:
    """Raises InvalidRequest while it is open what becomes of something, or when something is named that isn't there."""
    stores = [r.get("memory_store_id") for r in _resources(document) if r.get("type") == "memory_store"]
    for name, had, given in (
        ("vault", _texts(document.session, "vault_ids"), options.vaults),
        ("memory_store", [str(store) for store in stores], options.memory_stores),
    ):
        unknown = sorted(set(given) - set(had))
        if unknown:
            raise InvalidRequest(f"{name}: the bundle has no {unknown[0]}; it has {', '.join(had) or 'none'}")
        missing = [one for one in had if one not in given]
        if missing:
            raise InvalidRequest(
                f"{name}: this session had {', '.join(missing)}. Say for each which one of yours takes its place, as "
                f"{name}={missing[0]}:<id>, or that none does, as {name}={missing[0]}:",
                code="import_undecided",
            )
    if options.create and (options.agent_id is not None or options.environment_id is not None):
        raise InvalidRequest(
            "create: makes both agent and environment; leave it out, or leave out agent and environment"
        )


def choose(
    conn: Connection,
    now: float,
    workspace: str,
    document: Document,
    said: Definitions,
    options: ImportOptions,
    models: Models,
) -> Chosen:
    """Raises NotFound, InvalidRequest, Conflict."""
    left: list[Left] = []
    created: list[str] = []
    if options.agent_id is not None:
        row, snapshot = session_agent(conn, workspace, AgentRef(id=options.agent_id), models)
        agent_id, version = row.id, row.version
    else:
        if options.create:
            agent_id, version = _make_agent(conn, now, workspace, said.agent, left), 1
            created.append(agent_id)
        else:
            agent_id, version = _known_agent(conn, workspace, document, said.agent)
        snapshot = {"id": agent_id, "type": "agent", "version": version, **said.of_session.wire()}
        del snapshot["metadata"]
    if options.environment_id is not None:
        environment, config = session_environment(conn, workspace, options.environment_id)
        environment_id = environment.id
        if config.type != said.config.type:
            raise InvalidRequest(
                f"environment: {environment_id} is {config.type}, and the session's was {said.config.type}"
            )
    else:
        config = said.config
        if options.create:
            environment_id = _make_environment(conn, now, workspace, said)
            created.append(environment_id)
        else:
            environment_id = _known_environment(conn, workspace, document)
    return Chosen(agent_id, version, snapshot, environment_id, config, created, left)


def _agent(shown: Mapping[str, Any], models: Models, at: str) -> AgentVersion:
    """What the wire shows of an agent, read like a request for one."""
    wanted = {key: value for key, value in shown.items() if key in _OF_AN_AGENT}
    skills = wanted.pop("skills", None) or []
    try:
        request = parse(CreateAgent, wanted)
        pinned = tuple(PinnedSkill.model_validate(skill) for skill in skills)
        return first_version(request, default_effort=models.default_effort(request.model.id), skills=pinned)
    except InvalidRequest as error:
        raise InvalidRequest(f"the bundle's {at}: {error.message}", code=error.code) from None
    except (ValueError, TypeError):
        raise InvalidRequest(f"the bundle's {at}: skills can't be read") from None


def _environment(shown: Mapping[str, Any]) -> CreateEnvironment:
    wanted = {key: shown[key] for key in ("name", "description", "config", "metadata") if key in shown}
    try:
        return parse(CreateEnvironment, wanted)
    except InvalidRequest as error:
        raise InvalidRequest(f"the bundle's environment: {error.message}", code=error.code) from None


def _known_agent(conn: Connection, workspace: str, document: Document, said: AgentVersion) -> tuple[str, int]:
    agent_id, version = str(document.agent.get("id")), document.agent.get("version")
    how = _HOW.format("agent")
    try:
        row = catalog.get_agent(conn, workspace, agent_id, version if type(version) is int else 1)
    except NotFound:
        raise InvalidRequest(
            f"this workspace has no agent {agent_id} at version {version}: {how}", code="import_undecided"
        ) from None
    if row.archived_at is not None:
        raise InvalidRequest(f"agent {agent_id} is archived and takes no sessions: {how}", code="import_undecided")
    if version_of(row) != said:
        raise InvalidRequest(
            f"agent {agent_id} at version {version} says something else here than in the bundle: {how}",
            code="import_undecided",
        )
    return row.id, row.version


def _known_environment(conn: Connection, workspace: str, document: Document) -> str:
    environment_id = str(document.environment.get("id"))
    try:
        return session_environment(conn, workspace, environment_id)[0].id
    except (NotFound, InvalidRequest):
        raise InvalidRequest(
            f"this workspace has no environment {environment_id}, or it is archived: {_HOW.format('environment')}",
            code="import_undecided",
        ) from None


def _make_agent(conn: Connection, now: float, workspace: str, said: AgentVersion, left: list[Left]) -> str:
    there = []
    for skill in said.skills:
        try:
            skill_rows.get_version(conn, workspace, skill.skill_id, skill.version)
            there.append(skill)
        except NotFound:
            left.append(
                Left(
                    "skill",
                    skill.skill_id,
                    "the new agent doesn't name it, as this workspace lacks it; the session has it",
                )
            )
    version = said.model_copy(update={"skills": tuple(there)})
    agent_id = new_id("agent")
    catalog.create_agent(
        conn, now, id=agent_id, workspace_id=workspace, name=version.name, body=version.model_dump(mode="json")
    )
    webhooks.emit(conn, now, workspace, "agent.created", {"id": agent_id})
    return agent_id


def _make_environment(conn: Connection, now: float, workspace: str, said: Definitions) -> str:
    body = EnvironmentBody(
        description=said.environment.description, config=said.config, metadata=dict(said.environment.metadata)
    )
    environment_id = new_id("env")
    name = said.environment.name
    taken = catalog.environment_names(conn, workspace)
    number = 1
    while name in taken:
        number += 1
        name = f"{said.environment.name[:240]} ({number})"
    catalog.create_environment(
        conn, now, id=environment_id, workspace_id=workspace, name=name, body=body.model_dump(mode="json")
    )
    webhooks.emit(conn, now, workspace, "environment.created", {"id": environment_id})
    return environment_id


def _object(shown: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = shown.get(name)
    if not isinstance(found, dict):
        raise InvalidRequest(f"the bundle's session has no {name}")
    return found


def _resources(document: Document) -> Sequence[Mapping[str, Any]]:
    found = document.session.get("resources")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidRequest("the bundle's session has no proper resources")
    return found


def _texts(shown: Mapping[str, Any], name: str) -> list[str]:
    found = shown.get(name)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidRequest(f"the bundle's session has no proper {name}")
    return found
