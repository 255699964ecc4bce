"""What does every runner of a worker share, and how does it keep its lease?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hostler.engine.attachments import Attachments
from hostler.engine.boundary import Boundary
from hostler.engine.compaction import CompactionCares
from hostler.engine.content import ContentSource
from hostler.engine.copies import Copies
from hostler.engine.denials import Allowing, Denials
from hostler.engine.hub import Hub
from hostler.engine.idle import Awake
from hostler.engine.memory import Ledger
from hostler.engine.process import Surroundings
from hostler.engine.profile import Profile
from hostler.engine.reconciling import Reconciler
from hostler.engine.records import Applied, Decide, Records
from hostler.engine.rooms import Rooms
from hostler.engine.snapshot_port import Snapshots
from hostler.engine.spares import Spares
from hostler.engine.trace_port import UNTRACED, Tracing
from hostler.engine.variables import VariableBroker
from hostler.store.sessions import SessionRow

Apply = Callable[[Decide], Awaitable[Applied]]
"""Records one step of the runner's session, under its lease."""


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How a lease is kept."""

    seconds: float = 15.0
    """Time to live."""
    margin_seconds: float = 3.0
    """A worker that could not extend stops its sandbox this long before the lease can have run out."""


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """What every runner of a worker shares."""

    records: Records
    hub: Hub
    ledger: Ledger
    around: Surroundings
    profile_of: Callable[[SessionRow], Profile]
    boundary: Boundary
    attachments: Attachments = field(default_factory=Attachments)
    content: ContentSource = field(default_factory=ContentSource)
    snapshots: Snapshots | None = None
    """Who keeps sessions' files outside of this host; None: nobody."""
    denials: Denials = field(default_factory=Denials)
    allowing: Allowing | None = None
    """Which rule would have allowed what was denied; None: nobody says."""
    variables: VariableBroker | None = None
    """Who knows the variables of sessions; None: they have none."""
    copies: Copies | None = None
    """Who knows which of a session's files count; None: those on this host, whatever other workers have done."""
    rooms: Rooms | None = None
    """Who knows the rooms that sessions share; None: there are none."""
    spares: Spares | None = None
    """Who has started sandboxes for new sessions; None: nobody."""
    compactions: CompactionCares | None = None
    """Who archives conversations before they are compacted; None: nobody."""
    reconciler: Reconciler | None = None
    """Who compares what was recorded with what the harness says; None: nobody."""
    terms: LeaseTerms = LeaseTerms()
    tracing: Tracing = UNTRACED
    awake: Awake = field(default_factory=Awake)
    """What keeps sessions awake although no turn runs."""
    background_seconds: float = 600.0
    """How long programs that tool calls have left running keep an idle session awake, after its idle timeout."""
    health_seconds: float = 30.0
    """How often a process that stays is looked at between turns."""
    interrupt_grace_seconds: float = 10.0
    """A harness that has not stopped by then is killed."""
