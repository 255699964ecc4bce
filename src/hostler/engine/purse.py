"""May this request be paid, and what becomes of what was set aside for it?

Before the first attempt the worst case is set aside in every budget that counts (`store.reservations`); with the record
of the last attempt it is given back, and the cost is counted. What does not fit is made smaller in this order: the
prompt is counted, where its size was only a bound; then less output is asked for. What would fit if it were not for
what others have set aside waits for them. Only what does not fit alone is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection

from hostler.domain.clock import Clock, SystemClock
from hostler.domain.errors import HostlerError
from hostler.domain.ids import new_id
from hostler.domain.prices import Price, Prices
from hostler.domain.values import sentence
from hostler.engine import worst_case
from hostler.engine.budget import priced
from hostler.engine.model_port import Asked, BudgetReached, Caller, Count, Grant, NotBounded, Shortage, Throttled
from hostler.engine.ports import ModelRequestRecord
from hostler.engine.worst_case import Ask
from hostler.store import reservations
from hostler.store.budgets import MOST_NANOS, NANOS_OF_A_CENT
from hostler.store.database import Database
from hostler.store.reservations import Room, Subjects, Taken

log = logging.getLogger("hostler.purse")

_LOOKS: Final = 5
"""How often it is looked for what may still be set aside for somebody who was cancelled."""
_LOOK_SECONDS: Final = 0.25
"""How often somebody who waits looks for what other processes have given back."""


@dataclass(frozen=True, slots=True)
class PurseTerms:
    wait_seconds: float = 120.0
    """How long a request waits for others that have set aside what it needs."""


class StoredPurse:
    """The purse of all sessions of this process. Implements `Purse`; belongs to one event loop."""

    def __init__(
        self, database: Database, prices: Prices, terms: PurseTerms | None = None, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._prices = prices
        self._clock = clock or SystemClock()
        self._terms = terms or PurseTerms()
        self._waiting: set[asyncio.Event] = set()
        self._unreleased: dict[str, int] = {}
        """Grants that nobody has, and that could not be given back yet: how often that is still tried."""
        self._abandoned_at = float("-inf")

    # ------------------------------------------------------------------------------------------------------ set aside

    async def reserve(self, asked: Asked, models: Sequence[str], count: Count, gone: asyncio.Event) -> Grant:
        whose = subjects_of(asked.caller)
        try:
            now = self._clock.now().timestamp()
            case = _Case(asked, self._priced(models, now), self._prices.search_nanos(now))
            if case.unbounded:
                if not await self._counts(whose):
                    return Grant()
                await self._count(case, count)
        except NotBounded:
            if await self._counts(whose):
                raise
            return Grant()
        return await self._reserve(case, whose, count, gone)

    async def _reserve(self, case: _Case, whose: Subjects, count: Count, gone: asyncio.Event) -> Grant:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._terms.wait_seconds
        counted = case.is_counted
        offer = case.whole
        while True:
            grant_id = new_id("grnt")
            freed = self._listen()
            try:
                taken = await self._take(grant_id, whose, case.nanos(offer))
                if taken.fits:
                    return case.grant(grant_id, offer) if taken.rooms else Grant()
                if not counted:
                    counted = True
                    with suppress(NotBounded):  # The bound that the size gives still holds.
                        await self._count(case, count)
                    offer = case.whole
                    continue
                narrow = min(taken.rooms, key=lambda room: room.alone)
                fitting = case.lowered(narrow.alone)
                if fitting is None:
                    raise _reached(case, narrow)
                if fitting != offer:
                    offer = fitting
                    continue
                if gone.is_set():
                    return Grant()
                if loop.time() >= until:
                    last = case.lowered(min(room.now for room in taken.rooms))
                    if last is None:
                        raise Throttled(
                            f"Other requests have set aside what is left of {_name(narrow)}; ask again later.", 5.0
                        )
                    offer = last
                    continue
                await self._wait(freed, until - loop.time())
            finally:
                self._waiting.discard(freed)

    async def release(self, grant: Grant) -> None:
        if grant.id:
            self._unreleased[grant.id] = 1
            await self._give_back(grant.id)

    async def _give_back(self, grant_id: str) -> None:
        """What fails is tried again with the next look for what was left."""
        if await self._database.write(lambda conn: reservations.release(conn, grant_id)):
            self._unreleased.pop(grant_id, None)
            self.freed()
            return
        tries = self._unreleased.pop(grant_id, 1) - 1
        if tries > 0:
            self._unreleased[grant_id] = tries

    # -------------------------------------------------------------------------------------------------------- settled

    def settle_in(self, conn: Connection, now: float, record: ModelRequestRecord, workspace_id: str, cost: int) -> None:
        """Within the transaction that writes the attempt down; call `freed` after its commit.

        cost  what it has cost as far as that is known, in billionths of a dollar.
        """
        whose = Subjects(workspace_id, record.session_id, record.agent_id, 0)
        uncertain = beyond(self._prices, record, cost, now)
        over = record.last or record.may_have_cost  # Another attempt has then set aside anew.
        reservations.settle(conn, now, record.grant.id, whose, cost=cost, uncertain=uncertain, over=over)

    def freed(self) -> None:
        """Something was given back: whoever waits looks again."""
        for waiting in self._waiting:
            waiting.set()

    async def abandon(self) -> int:
        """Count what nobody will settle any more. How many reservations that was."""
        for grant_id in list(self._unreleased):
            await self._give_back(grant_id)
        count = await self._database.write(lambda c: reservations.abandon(c, self._database.now(c)))
        if count:
            log.warning("reservations_abandoned", extra={"count": count})
            self.freed()
        return count

    # ------------------------------------------------------------------------------------------------------- internal

    def _priced(self, models: Sequence[str], at: float) -> Mapping[str, Price]:
        found = {}
        for model in models:
            price = self._prices.of(model, at)
            if price is None:
                raise NotBounded(
                    f"model: {model[:128]} has no list price here, so what it costs can't be limited; ask for another "
                    "model, or give it a price in the file of `prices.file`"
                )
            found[model] = price
        return found

    async def _counts(self, whose: Subjects) -> bool:
        """Whether any budget does."""
        return bool(await self._database.read(lambda c: reservations.rooms(c, self._database.now(c), whose)))

    async def _count(self, case: _Case, count: Count) -> None:
        """Raises NotBounded when nobody counts."""
        for model in case.models:
            tokens = await count(model)
            if tokens is None:
                raise NotBounded(
                    "messages: what a picture or document at an address, or a PDF, costs is not known before it is "
                    "counted, and the model's API does not count now; send its content, or try again"
                )
            case.counted(model, tokens)

    async def _take(self, grant_id: str, whose: Subjects, nanos: int) -> Taken:
        database = self._database
        try:
            return await database.write_one(
                lambda conn: reservations.take(conn, database.now(conn), grant_id, whose, min(nanos, MOST_NANOS))
            )
        except BaseException as error:
            # Whether it was set aside is unknown, and after a cancellation it may still be.
            self._unreleased[grant_id] = 1 if isinstance(error, Exception) else _LOOKS
            if isinstance(error, Exception):
                with suppress(HostlerError, OSError):
                    await self._give_back(grant_id)
            raise

    def _listen(self) -> asyncio.Event:
        """Set with what is given back from now on. Before the look, so that nothing is missed between the two."""
        freed = asyncio.Event()
        self._waiting.add(freed)
        return freed

    async def _wait(self, freed: asyncio.Event, seconds: float) -> None:
        """Until something was given back here, or may have been in another process."""
        now = asyncio.get_running_loop().time()
        if now - self._abandoned_at >= _LOOK_SECONDS:  # one look for all who wait
            self._abandoned_at = now
            await self.abandon()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_LOOK_SECONDS, seconds)):
                await freed.wait()


class _Case:
    """What one request may cost, for each of the models that may answer it."""

    def __init__(self, asked: Asked, prices: Mapping[str, Price], search_nanos: int | None) -> None:
        """Raises NotBounded."""
        self._fields = asked.fields
        self._prices = prices
        read = worst_case.read(asked.fields, asked.size, search_nanos)
        self.whole = replace(read, prompt=None)
        """Without the prompt, which may have another length for each model."""
        self._asks: dict[str, Ask] = dict.fromkeys(prices, read)
        self.is_counted = False

    @property
    def models(self) -> Sequence[str]:
        return tuple(self._prices)

    @property
    def unbounded(self) -> bool:
        return any(ask.prompt is None for ask in self._asks.values())

    def counted(self, model: str, tokens: int) -> None:
        self._asks[model] = self._asks[model].counted(tokens)
        self.is_counted = True

    def nanos(self, offer: Ask) -> int:
        """Of the dearest model, with the output and the searches of `offer`."""
        return max(worst_case.nanos(price, self._like(model, offer)) for model, price in self._prices.items())

    def lowered(self, room: int) -> Ask | None:
        """The most of the whole that costs no more, whichever model answers."""
        offer: Ask | None = self.whole
        for model, price in self._prices.items():
            if offer is None:
                return None
            offer = worst_case.lowered(price, self._like(model, offer), room)
        return None if offer is None else replace(offer, prompt=None)

    def least(self) -> int:
        return self.nanos(self.whole.least())

    def grant(self, grant_id: str, offer: Ask) -> Grant:
        fewer = offer.output < self.whole.output
        return Grant(
            grant_id,
            self.nanos(offer),
            offer.output if fewer else None,
            worst_case.changes(self._fields, self.whole, offer),
            offer.output,
            offer.searches,
        )

    def _like(self, model: str, offer: Ask) -> Ask:
        mine = self._asks[model]
        return replace(mine, output=offer.output, searches=offer.searches)


def subjects_of(caller: Caller) -> Subjects:
    return Subjects(caller.workspace_id, caller.session_id, caller.agent_id, caller.epoch)


def beyond(prices: Prices, record: ModelRequestRecord, cost: int, now: float) -> int:
    """What the upstream may have counted besides what it said, of an answer that broke off. Billionths of a dollar."""
    grant = record.grant
    if record.complete or not grant.id:
        return 0
    most = grant.nanos
    used = record.usage
    if used.input_tokens + used.cache_read_input_tokens + used.cache_creation_5m_input_tokens and not grant.searches:
        # The prompt was counted; only the output was cut off.
        rest = max(0, grant.output_tokens - used.output_tokens)
        whole = priced(prices, record.model, replace(used, output_tokens=used.output_tokens + rest), now)
        most = min(most, whole.list_cost_nanos)
    return max(0, most - cost)


def _reached(case: _Case, room: Room) -> BudgetReached:
    needs = case.least()
    left = max(0, room.alone)
    short = Shortage(room.budget_id, room.scope, room.period, room.limit_nanos, needs)
    return BudgetReached(
        f"{sentence(_name(room))} is reached: of {_dollars(room.limit_nanos)} there are {_dollars(left)} left, and "
        f"the next model request may cost {_dollars(needs)} even when it is kept short.",
        short,
    )


def _name(room: Room) -> str:
    match room.scope, room.period:
        case "session", _:
            return "the budget of this session"
        case scope, "month":
            return f"this month's budget of the {scope} ({room.budget_id})"
        case scope, _:
            return f"the budget of the {scope} ({room.budget_id})"


def _dollars(nanos: int) -> str:
    cents, rest = divmod(nanos, NANOS_OF_A_CENT)
    return f"${cents // 100}.{cents % 100:02}" + (f"{rest:07}".rstrip("0") if rest else "")
