"""Which started sandboxes are kept ready for sessions that are new or wake up, and who gets one?

An environment with `hosting.spares` has that many on each server. A spare is started with everything that a session's
process is started with, so it serves for one *kind* of session only: new or not, workspace, environment, agent,
version, and all that the two mean for a process (`Profile`). Kinds are those that were asked for lately; a session asks
when it gets a process that a spare could have been, whether one is there or not. What a spare can't be given afterwards
keeps a session from getting one (`hindrance`): it starts the ordinary way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Final, Literal

from sqlalchemy import Connection

from hostler.domain.errors import NotFound
from hostler.domain.ids import new_id
from hostler.engine.attachments import Attachments
from hostler.engine.copies import Copies
from hostler.engine.egress_port import SessionVariables
from hostler.engine.environments import body_of
from hostler.engine.process import Surroundings
from hostler.engine.profile import Profile
from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.engine.spare_process import PREFIX, SpareProcess, warm_up
from hostler.store import catalog
from hostler.store.database import Database
from hostler.store.sessions import SessionRow

log = logging.getLogger("hostler.spares")

LOOK_SECONDS: Final = 2.0
"""How soon a spare that has ended is noticed, and whatever else nobody tells of."""
PAUSE_SECONDS: Final = 1.0
"""After a spare was claimed: the session's first request is more urgent than the next spare."""
FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 300.0
KINDS: Final = 200
"""That are remembered."""

Count = Literal["claimed", "missed", "failed"]


@dataclass(frozen=True, slots=True)
class SpareTerms:
    """What the operator makes of spares."""

    most: int = 16
    """On this server, of all environments together."""
    keep_seconds: float = 1800.0
    """How long spares are kept that no session has asked for."""
    rest_seconds: float = 30.0
    """A spare that has waited for so long is stopped: it takes no processor time, and some milliseconds longer."""


def hindrance(session: SessionRow, profile: Profile, variables: SessionVariables | None) -> str | None:
    """Why a session can't have a spare, in a word; None: it can, if it has no process and no files yet."""
    if profile.spares < 1 or profile.self_hosted:
        return "none"
    if profile.shared is not None:
        return "room"
    if session.resources:
        return "resources"
    if variables is not None and variables.placeholders:
        return "variables"
    if profile.mcp_servers:
        return "mcp_servers"
    if any(rule.looks_inside for rule in profile.egress.rules):
        return "rules"
    return None


@dataclass(slots=True)
class _Kind:
    """Sessions that one spare would serve as well as another."""

    model: SessionRow
    """The session that has asked last, without anything of its own."""
    profile: Profile
    asked_at: float
    resuming: bool
    """Sessions that wake up; else new ones."""
    waiting: list[SpareProcess] = field(default_factory=list)
    starting: int = 0
    failures: int = 0
    not_before: float = 0.0

    def serves(self, session: SessionRow, profile: Profile, *, resuming: bool) -> bool:
        return _whose(self.model) == _whose(session) and self.profile == profile and self.resuming == resuming

    @property
    def environment(self) -> tuple[str, str]:
        return self.model.workspace_id, self.model.environment_id


def _whose(session: SessionRow) -> tuple[str, str, str, int]:
    return session.workspace_id, session.environment_id, session.agent_id, session.agent_version


class Spares:
    """Of one server. `run` once, beside the worker; the rest from the same loop."""

    def __init__(
        self,
        database: Database,
        around: Surroundings,
        attachments: Attachments,
        copies: Copies,
        pressed: Callable[[], bool],
        terms: SpareTerms | None = None,
    ) -> None:
        """`pressed`: whether memory, or room for sessions, is short now: then there are none. Doesn't block."""
        self._database = database
        self._around = around
        self._attachments = attachments
        self._copies = copies
        self._pressed = pressed
        self._terms = terms or SpareTerms()
        self._kinds: list[_Kind] = []
        self._ending: list[SpareProcess] = []
        self._look = asyncio.Event()
        self._drained = False
        self._counts: Counter[Count] = Counter()

    # ------------------------------------------------------------------------------------------------- from sessions

    def ask(self, session: SessionRow, profile: Profile, *, resuming: bool = False) -> None:
        """A session of this kind begins, or wakes up: there may soon be another one."""
        kind = next((kind for kind in self._kinds if kind.serves(session, profile, resuming=resuming)), None)
        model = replace(session, title=None, metadata_json="{}", vault_ids_json="[]", state="", budget_json=None)
        if kind is None:
            self._kinds.append(kind := _Kind(model, profile, monotonic(), resuming))
        kind.model, kind.profile, kind.asked_at = model, profile, monotonic()
        self._look.set()

    async def claim(self, session: SessionRow, profile: Profile, *, resuming: bool = False) -> SpareProcess | None:
        """One that was well a moment ago and belongs to the caller from now on: nobody else gets it, ever."""
        place = await self._around.placement.place(profile.needs)
        kind = next((kind for kind in self._kinds if kind.serves(session, profile, resuming=resuming)), None)
        while kind is not None and kind.waiting and not self._drained:
            spare = kind.waiting.pop(0)
            kind.not_before = max(kind.not_before, monotonic() + PAUSE_SECONDS)
            try:
                well = spare.technology == place.technology and await self._well(spare)
            except BaseException:  # whoever wanted it is cancelled
                self._end(spare)
                raise
            if well:
                self._counts["claimed"] += 1
                return spare
            self._failed(kind, "the spare was not well when it was wanted")
            self._end(spare)
        self._counts["missed"] += 1
        return None

    async def _well(self, spare: SpareProcess) -> bool:
        try:
            return await spare.well()
        except Exception:
            log.exception("spare_not_well", extra={"spare": spare.name})
            return False

    def figures(self) -> dict[str, int]:
        """How many there are now, and what became of others since this server started."""
        return {
            "waiting": sum(len(kind.waiting) for kind in self._kinds),
            "starting": sum(kind.starting for kind in self._kinds),
            "claimed": self._counts["claimed"],
            "missed": self._counts["missed"],
            "failed": self._counts["failed"],
        }

    def drain(self) -> None:
        """All of them end, and there will be no more."""
        self._drained = True
        self._look.set()

    # ------------------------------------------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Until it is cancelled: then none is left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                making: asyncio.Task[None] | None = None
                while True:
                    self._look.clear()
                    await self._look_round()
                    due = None if self._drained or (making and not making.done()) else self._due()
                    if due is not None:
                        making = tasks.create_task(self._make(due))
                    elif making is not None and self._drained:
                        making.cancel()
                    await self._wait()
        finally:
            await self._clear()

    async def _wait(self) -> None:
        soon = [kind.not_before - monotonic() for kind in self._kinds]
        pause = min([LOOK_SECONDS, *(seconds for seconds in soon if seconds > 0)])
        try:
            async with asyncio.timeout(max(0.01, pause)):
                await self._look.wait()
        except TimeoutError:
            return

    async def _look_round(self) -> None:
        """Once, at everything."""
        try:
            await self._drop_outdated()
            pressed = self._drained or self._pressed()
            wanted = {} if pressed else self._wanted()
            for kind in self._kinds:
                while len(kind.waiting) > wanted.get(id(kind), 0):
                    self._end(kind.waiting.pop())
                for spare in list(kind.waiting):
                    await self._look_at(kind, spare)
        except Exception:  # whatever it is: a server without spares serves its sessions all the same
            log.exception("spares_not_looked_after")
        await self._end_discarded()

    async def _look_at(self, kind: _Kind, spare: SpareProcess) -> None:
        try:
            gone = await spare.gone()
            due = not spare.stopped and monotonic() - spare.ready_at >= self._terms.rest_seconds
            if due and not gone and spare in kind.waiting:  # else it was claimed meanwhile
                await spare.rest()
        except Exception:
            log.exception("spare_not_looked_at", extra={"spare": spare.name})
            gone = True
        if gone and spare in kind.waiting:  # else it was claimed meanwhile
            kind.waiting.remove(spare)
            self._failed(kind, "the spare ended while it waited")
            self._end(spare)

    async def _drop_outdated(self) -> None:
        """Kinds that no new session can have, or that none has asked for."""
        now = monotonic()
        kinds = sorted(self._kinds, key=lambda kind: kind.asked_at, reverse=True)[:KINDS]
        kinds = [kind for kind in kinds if now - kind.asked_at < self._terms.keep_seconds]
        if kinds:
            current = await self._database.read(lambda c: [_is_current(c, kind) for kind in kinds])
            kinds = [kind for kind, yes in zip(kinds, current, strict=True) if yes]
        for kind in self._kinds:
            if kind not in kinds and kind.asked_at <= now:
                self._ending += kind.waiting
                kind.waiting = []
        self._kinds = [kind for kind in self._kinds if kind in kinds or kind.asked_at > now]

    def _wanted(self) -> dict[int, int]:
        """How many of each kind: an environment's are shared out among those that were asked for last.

        Every second one is for sessions that wake up, when some have lately.
        """
        wanted: Counter[int] = Counter()
        latest = sorted(self._kinds, key=lambda kind: kind.asked_at, reverse=True)
        for environment in dict.fromkeys(kind.environment for kind in latest):
            here = [kind for kind in latest if kind.environment == environment]
            most = max(0, min(here[0].profile.spares, self._terms.most - wanted.total()))
            waking = [kind for kind in here if kind.resuming]
            new = [kind for kind in here if not kind.resuming]
            for kinds, count in ((new, most - (most // 2 if waking else 0)), (waking, most // 2)):
                if kinds:
                    wanted.update(id(kinds[number % len(kinds)]) for number in range(count))
        return wanted

    def _due(self) -> _Kind | None:
        """What is lacking most urgently, and may be made now."""
        wanted, now = self._wanted(), monotonic()
        lacking = [k for k in self._kinds if k.not_before <= now and len(k.waiting) + k.starting < wanted[id(k)]]
        if not lacking or self._pressed():
            return None
        return max(lacking, key=lambda kind: kind.asked_at)

    async def _make(self, kind: _Kind) -> None:
        kind.starting += 1
        name = new_id(PREFIX)
        try:
            spare = await self._started(kind, name)
        except Exception as error:
            if not isinstance(error, SandboxUnavailable):
                log.exception("spare_not_started", extra={"spare": name})
            self._failed(kind, str(error))
        else:
            kind.failures = 0
            if kind in self._kinds and not self._drained:
                kind.waiting.append(spare)
            else:
                self._end(spare)
        finally:
            kind.starting -= 1
            self._look.set()

    async def _started(self, kind: _Kind, name: str) -> SpareProcess:
        profile, layers = kind.profile, self._around.layers
        mounts = await self._attachments.lay_out(replace(kind.model, id=name), self._around.homes.of(name))
        layer = None
        if not profile.packages.empty and layers is not None:
            layer = await layers.acquire(profile.packages)
        # Inside of a stay, or its home would be taken for one that nobody has.
        inside = self._copies.staying(name)
        return await warm_up(self._around, name, profile, mounts, layer, inside, resuming=kind.resuming)

    # ------------------------------------------------------------------------------------------------------- endings

    def _failed(self, kind: _Kind, why: str) -> None:
        kind.failures += 1
        pause = min(FIRST_RETRY_SECONDS * 2 ** (kind.failures - 1), LAST_RETRY_SECONDS)
        kind.not_before = monotonic() + pause
        self._counts["failed"] += 1
        log.warning("spare_failed", extra={"environment": kind.model.environment_id, "reason": why, "pause": pause})

    def _end(self, spare: SpareProcess) -> None:
        self._ending.append(spare)
        self._look.set()

    async def _end_discarded(self) -> None:
        while self._ending:
            spare = self._ending[-1]
            try:
                await spare.discard()
            except Exception:
                log.exception("spare_not_ended", extra={"spare": spare.name})
            self._ending.remove(spare)

    async def _clear(self) -> None:
        for kind in self._kinds:
            self._ending += kind.waiting
            kind.waiting = []
        await self._end_discarded()


def _is_current(conn: Connection, kind: _Kind) -> bool:
    """Whether a session that is made now could be of this kind."""
    model = kind.model
    try:
        environment = catalog.get_environment(conn, model.workspace_id, model.environment_id)
        agent = catalog.get_agent(conn, model.workspace_id, model.agent_id)
    except NotFound:
        return False
    if environment.archived_at is not None or agent.archived_at is not None:
        return False
    config: Any = body_of(environment).config.model_dump(mode="json")
    if config != model.environment["config"]:
        return False
    # A version of before may be asked for by its number: then it is of use for as long as it is.
    return agent.version == model.agent_version or agent.updated_at <= model.created_at
