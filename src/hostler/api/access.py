"""Who may call what? One table: kind of credential, scope and endpoint. Enforced before every handler; default deny.

An endpoint is served only if it has a row here: `rule_of` raises KeyError while the routers are put together, so a new
endpoint without a row keeps the program from starting. `authorise` runs before the handler of every row
(`api.routing`), and answers:

- 403, when this kind of credential, or this API key's scopes, may never call the endpoint;
- 404, when it may, and what the path names is not its own. The two are told apart on purpose: the first is about the
  key that somebody holds, the second must not say whether somebody else's thing exists.

**How far a worker's credential reaches** is said by a `Bound` per row, and checked here from the path alone, so
handlers never repeat it. Whoever adds an endpoint for workers names its bound in the table:

- `own_environment`: `{environment_id}` of the path is the principal's.
- `own_session`: `{session_id}` of the path is the token's session; or, for an environment key, a session of its
  environment (`session_belongs`, which handlers may call for sessions that come in a body or query).
- `own_work`: `{work_id}` is about the token's session (`Reach.session_of_work`), in its environment.
- `own_skill`: `{skill_id}` is a skill of the agents of the token's session.
- `own_store`: `{memory_store_id}` is attached to the token's session; for verbs that change something, not as
  `read_only` (403, as the contract says).
- `workspace`: anything of the workspace; the handler's own query sees to that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from starlette.requests import Request

from hostler.api.context import caller_of, path_value, services_of
from hostler.api.contract import BY_METHOD
from hostler.api.own_contract import OwnEndpoint
from hostler.domain.errors import NotFound, PermissionDenied
from hostler.domain.principals import Principal, Scope
from hostler.engine.reach import Reach

Bound = Literal["own_environment", "own_session", "own_work", "own_skill", "own_store", "workspace"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call one endpoint. None: this kind of credential never may."""

    api_key: Scope | None
    """The scope that an API key needs."""
    environment_key: Bound | None = None
    session_token: Bound | None = None


_KEY, _NO_KEY = True, False

_TABLE: Final[tuple[tuple[str, str, bool, Bound | None, Bound | None], ...]] = (
    # resource, methods, API key, environment key, session token
    ("models", "retrieve list", _KEY, None, None),
    ("agents", "create retrieve update list archive", _KEY, None, None),
    ("agents.versions", "list", _KEY, None, None),
    ("environments", "create retrieve update list delete archive", _KEY, None, None),
    ("environments.work", "poll ack list", _NO_KEY, "own_environment", None),
    ("environments.work", "heartbeat stop", _KEY, "own_environment", "own_work"),
    ("environments.work", "stats", _KEY, "own_environment", None),
    ("environments.work", "retrieve update", _KEY, None, None),
    ("sessions", "retrieve", _KEY, "own_session", "own_session"),
    ("sessions", "create update list delete archive", _KEY, None, None),
    ("sessions.events", "list send stream", _KEY, "own_session", "own_session"),
    ("sessions.threads", "retrieve list", _KEY, "own_session", "own_session"),
    ("sessions.threads", "archive", _KEY, None, None),
    ("sessions.threads.events", "list stream", _KEY, "own_session", "own_session"),
    ("sessions.resources", "retrieve update list delete add", _KEY, None, None),
    ("deployments", "create retrieve update list archive pause run unpause", _KEY, None, None),
    ("deployment_runs", "retrieve list", _KEY, None, None),
    ("vaults", "create retrieve update list delete archive", _KEY, None, None),
    ("vaults.credentials", "create retrieve update list delete archive mcp_oauth_validate", _KEY, None, None),
    ("memory_stores", "retrieve", _KEY, None, "own_store"),
    ("memory_stores", "create update list delete archive", _KEY, None, None),
    ("memory_stores.memories", "create retrieve update list delete", _KEY, None, "own_store"),
    ("memory_stores.memory_versions", "retrieve list redact", _KEY, None, None),
    ("files", "list delete download retrieve_metadata upload", _KEY, None, None),
    ("skills", "retrieve", _KEY, "workspace", "own_skill"),
    ("skills", "list", _KEY, "workspace", None),
    ("skills", "create delete", _KEY, None, None),
    ("skills.versions", "retrieve list download", _KEY, "workspace", "own_skill"),
    ("skills.versions", "create delete", _KEY, None, None),
    ("user_profiles", "create retrieve update list delete create_enrollment_url", _KEY, None, None),
    ("user_profiles.action_urls", "create", _KEY, None, None),
    ("dreams", "create retrieve list archive cancel", _KEY, None, None),
    ("tunnels", "create retrieve list archive reveal_token rotate_token", _KEY, None, None),
    ("tunnels.certificates", "create retrieve list archive", _KEY, None, None),
)


def _scope(method: str, opens: bool) -> Scope | None:
    if not opens:
        return None
    return "read" if BY_METHOD[method].verb == "GET" else "operate"


RULES: Final[dict[str, Rule]] = {
    f"{resource}.{name}": Rule(_scope(f"{resource}.{name}", key), environment_key, session_token)
    for resource, names, key, environment_key, session_token in _TABLE
    for name in names.split()
}
"""The rule of every row of the contract, by its method."""


def rule_of(endpoint: str | OwnEndpoint) -> Rule:
    """The rule of a row of the contract, or of one of ours. Raises KeyError: what has no row may not be called."""
    return Rule(endpoint.scope) if isinstance(endpoint, OwnEndpoint) else RULES[endpoint]


async def authorise(request: Request, rule: Rule) -> None:
    """Raises PermissionDenied or NotFound unless the caller may call the endpoint of `rule` with this path."""
    principal = caller_of(request).principal
    match principal.kind:
        case "api_key":
            if rule.api_key is None:
                raise PermissionDenied("API keys may not call this; use an environment key")
            if rule.api_key not in principal.scopes:
                raise PermissionDenied(
                    f"this API key may not do that: it needs the scope `{rule.api_key}` and has "
                    f"`{'`, `'.join(sorted(principal.scopes))}`"
                )
        case "environment_key":
            await _within(request, principal, rule.environment_key, "an environment key")
        case "session_token":
            await _within(request, principal, rule.session_token, "a session's token")
        case other:
            assert_never(other)


async def session_belongs(reach: Reach, principal: Principal, session_id: str) -> None:
    """Raises NotFound unless the principal may see this session: its own one, one of its environment, or any for a key.

    For an API key nothing is asked: the handler's query carries the workspace.
    """
    match principal.kind:
        case "api_key":
            return
        case "session_token":
            belongs = principal.session_id == session_id
        case "environment_key":
            found = await reach.of_session(principal.workspace, session_id)
            belongs = principal.environment_id is not None and found.environment_id == principal.environment_id
        case other:
            assert_never(other)
    if not belongs:
        raise NotFound(f"session {session_id} does not exist")


# ------------------------------------------------------------------------------------------------------ the bounds


async def _within(request: Request, principal: Principal, bound: Bound | None, name: str) -> None:
    if bound is None:
        raise PermissionDenied(f"{name} may not call this; use an API key")
    await _CHECKS[bound](request, principal)


async def _own_environment(request: Request, principal: Principal) -> None:
    environment_id = path_value(request, "environment_id")
    if environment_id != principal.environment_id:
        raise NotFound(f"environment {environment_id} does not exist", code="environment_not_found")


async def _own_session(request: Request, principal: Principal) -> None:
    await session_belongs(services_of(request).reach, principal, path_value(request, "session_id"))


async def _own_work(request: Request, principal: Principal) -> None:
    await _own_environment(request, principal)
    work_id = path_value(request, "work_id")
    reach = services_of(request).reach
    session_id = await reach.session_of_work(principal.workspace, str(principal.environment_id), work_id)
    if session_id is None or session_id != principal.session_id:
        raise NotFound(f"work item {work_id} does not exist")


async def _own_skill(request: Request, principal: Principal) -> None:
    skill_id = path_value(request, "skill_id")
    found = await services_of(request).reach.of_session(principal.workspace, str(principal.session_id))
    if skill_id not in found.skills:
        raise NotFound(f"skill {skill_id} does not exist")


async def _own_store(request: Request, principal: Principal) -> None:
    store_id = path_value(request, "memory_store_id")
    found = await services_of(request).reach.of_session(principal.workspace, str(principal.session_id))
    access = found.memory_stores.get(store_id)
    if access is None:
        raise NotFound(f"memory store {store_id} does not exist")
    if request.method not in ("GET", "HEAD") and access != "read_write":
        raise PermissionDenied(f"memory store {store_id} is attached to this session as read_only")


async def _workspace(request: Request, principal: Principal) -> None:
    return


_CHECKS: Final[dict[Bound, Callable[[Request, Principal], Awaitable[None]]]] = {
    "own_environment": _own_environment,
    "own_session": _own_session,
    "own_work": _own_work,
    "own_skill": _own_skill,
    "own_store": _own_store,
    "workspace": _workspace,
}
