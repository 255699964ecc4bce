"""What do the settings say about limits of sessions, about what is removed, and about what is shown of both?"""

from __future__ import annotations

from hostler.config import Settings
from hostler.domain.retention import POLICIES
from hostler.engine.measures import Most
from hostler.engine.retention import RetentionTerms
from hostler.engine.session_bounds import SessionLimits


def session_limits(settings: Settings) -> SessionLimits:
    wanted = settings.sessions
    return SessionLimits(
        wanted.max_events, wanted.max_log_mb << 20, wanted.max_transcript_mb << 20, wanted.max_cut_mb << 20
    )


def retention_terms(settings: Settings) -> RetentionTerms:
    days = {name: getattr(settings.retention, f"{name}_days") or None for name in POLICIES}
    return RetentionTerms(days, settings.retention.every_minutes * 60.0)


def shown_limits(settings: Settings) -> dict[str, Most]:
    """By store, what is no quota of the workspace."""
    wanted = settings.sessions
    return {
        "events": Most("session", "sessions.max_log_mb", bytes=wanted.max_log_mb << 20),
        "transcripts": Most("session", "sessions.max_transcript_mb", bytes=wanted.max_transcript_mb << 20),
        "cut_entries": Most("session", "sessions.max_cut_mb", bytes=wanted.max_cut_mb << 20),
        "archives": Most(
            "workspace", "compaction.workspace_archive_mb", bytes=settings.compaction.workspace_archive_mb << 20
        ),
    }
