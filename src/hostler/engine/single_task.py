"""What is the end of a task in a session that keeps nothing?

In an environment of the pattern `ephemeral` each message is a task: when its turn has ended, and what it has put out
was taken, its files and its conversation are removed. The next message begins with neither, and the session says so.
A task that ends without a worker (somebody interrupts or archives it while it waits for an answer) makes the session
want one, which clears it. A crash between the two leaves them to the begin of the next task.
"""

from __future__ import annotations

from hostler.domain import events as ev
from hostler.domain.errors import Busy
from hostler.engine.copies import Copies
from hostler.engine.lodging import Lodging
from hostler.engine.memory import Memory
from hostler.engine.profile import Profile
from hostler.engine.runner_parts import Apply
from hostler.engine.state import Step
from hostler.store.homes import HomeRow
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease

BEGAN_ANEW = (
    "In this environment (hosting.pattern is ephemeral) each message is a task of its own: the agent begins this one "
    "with an empty workspace and does not know what was said before. Earlier outputs are files of the API."
)


class SingleTask:
    """For one session under one lease."""

    def __init__(self, lease: Lease, copies: Copies, lodging: Lodging, memory: Memory, apply: Apply) -> None:
        self._lease = lease
        self._copies = copies
        self._lodging = lodging
        self._memory = memory
        self._apply = apply
        self._owes = False
        """What a task has put out was not taken, or may not have been."""

    async def begin(self, session: SessionRow, profile: Profile, *, anew: bool) -> None:
        """Nothing of an earlier task is there. `anew`: say so, if there was one."""
        before = await self.clear(session, profile)
        if before is not None and (anew or not before.cleared):
            await self._apply(lambda s, at, totals, _: Step(s, (ev.notice(at.text, "began_anew", BEGAN_ANEW, {}),)))

    async def clear(self, session: SessionRow, profile: Profile) -> HomeRow | None:
        """Ends an earlier task that was not ended by whoever ran it. What was known of its files before; None: none.

        Raises Busy while what that has put out can't be taken.
        """
        before = await self._copies.left_of_a_task(session.id)
        if before is not None and not before.cleared:
            self._owes = True  # until its files were entered
            await self._lodging.enter(session, profile)
            self._owes = False
            if not await self.end(session):
                raise Busy("what the task before has put out can't be taken now, and would be lost; try again later")
        return before

    async def end(self, session: SessionRow) -> bool:
        """Its outputs are taken, and then nothing of it is left. False: what can't be taken keeps the rest."""
        if self._owes:  # `clear` enters its files again
            return False
        if await self._lodging.leave(session):
            await self._memory.forget()
            await self._copies.clear(self._lease)
        else:
            self._owes = True
        return not self._owes
