"""What grows here, with what, and what limits it? Every table, folder and object, with nothing left out.

A test compares this list with the tables that there are, so that a new one can't be forgotten. The page
`docs/explanation/what-grows.md` is made of it: `python -m hostler.store.growth` writes it, `--check` only compares.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.domain.retention import HARMLESS, PolicyName
from hostler.generated import keep_up, with_table
from hostler.store.measures import MEASURES

PAGE: Final = Path("docs/explanation/what-grows.md")
BEGIN: Final = "<!-- made by scripts/generate-docs from hostler.store.growth -->"
END: Final = "<!-- end of what is made -->"


@dataclass(frozen=True, slots=True)
class Store:
    """Something that grows."""

    name: str
    """As `hostler storage` calls it, when it has figures (`store.measures`)."""
    tables: tuple[str, ...]
    """Empty: it is no table."""
    grows: str
    """With what."""
    limit: str
    """What keeps one session, or one workspace, from making it grow without end."""
    policies: tuple[PolicyName, ...] = ()
    seen: str = ""
    """Where its size can be seen, besides `hostler storage`."""


STORES: Final[tuple[Store, ...]] = (
    # ---------------------------------------------------------------------------------------------------- sessions
    Store(
        "sessions",
        (
            "sessions",
            "session_memory_stores",
            "sequences",
            "work",
            "waiting_calls",
            "session_homes",
            "session_tokens",
            "session_placeholders",
            "session_skills",
            "resource_secrets",
            "orders",
            "rewinds",
        ),
        "one row for each session, and a few beside it",
        "quotas `live_sessions` and `sessions_per_day`; rewinds: 500 of a session",
        ("archived_sessions",),
    ),
    Store(
        "rooms",
        ("rooms", "room_members", "room_conflicts"),
        "sessions that share a sandbox, and what one overwrites of another's",
        "one room for each name in an environment, `hosting.shared.max_sessions` members; 1,000 conflicts of a room",
        (),
        "`/hostler/v1/rooms`",
    ),
    Store(
        "events",
        ("events", "cut_events"),
        "everything that happens in a session",
        "`sessions.max_events` and `sessions.max_log_mb` of a session: then it takes no more messages",
        ("archived_logs", "archived_sessions"),
    ),
    Store(
        "transcripts",
        ("transcripts", "transcript_entries"),
        "every turn; a compaction doesn't make them smaller, because checkpoints lead to what was before",
        "`sessions.max_transcript_mb` of a session: then it takes no more messages; one append: 64 MiB",
        ("archived_logs", "archived_sessions"),
    ),
    Store(
        "cut_entries",
        ("cut_transcript_entries",),
        "every time a session goes back",
        "`sessions.max_cut_mb` of a session: what no checkpoint leads to goes, then it can't go back any more",
        ("cut_entries", "archived_logs", "archived_sessions"),
    ),
    Store(
        "checkpoints",
        ("checkpoints",),
        "checkpoints by hand and automatic ones",
        "100 by hand of a session; `hosting.checkpoints.keep` automatic ones",
        ("automatic_checkpoints", "archived_sessions"),
    ),
    Store(
        "archives",
        ("archives", "archive_chunks", "compactions", "compaction_schedules"),
        "every compaction keeps what was before",
        "`compaction.session_archive_mb`, `compaction.workspace_archive_mb`, 1,000 archives of a session; "
        "the oldest makes room, or nothing is compacted (`compaction.when_full`). 200 rows about compactions",
        ("compaction_archives", "archived_sessions"),
        "`/hostler/v1/sessions/{id}/compaction`",
    ),
    Store(
        "snapshots",
        ("snapshots", "snapshot_objects", "snapshot_uses", "snapshot_pieces"),
        "every turn that changed files",
        "`snapshots.keep` of a session, and those that checkpoints need; `snapshots.max_mb` and "
        "`snapshots.max_entries` of one; same pieces once in a workspace",
        ("archived_files", "archived_sessions"),
    ),
    Store(
        "previews",
        ("previews",),
        "links to ports that are made",
        "20 open ones of a session",
        ("previews",),
        "`/hostler/v1/sessions/{id}/previews`",
    ),
    # ------------------------------------------------------------------------------------------------------- files
    Store(
        "files",
        ("files", "session_outputs", "blob_objects"),
        "uploads, what sessions mount, what they put out",
        "quota `storage_bytes`; `files.max_file_mb`; of a session `files.max_outputs` and `files.max_outputs_mb`",
        ("outputs", "ephemeral_outputs", "archived_sessions"),
        "quotas",
    ),
    Store("skills", ("skills", "skill_versions"), "versions of skills", "quota `storage_bytes`", (), "quotas"),
    Store(
        "memories",
        ("memory_stores", "memories", "memory_versions"),
        "every change of a memory keeps the version before",
        "quota `storage_bytes`, which counts every version; 100 KiB of one memory",
        (),
        "quotas",
    ),
    # ----------------------------------------------------------------------------------------- what was written down
    Store(
        "model_requests",
        ("model_requests", "request_tools"),
        "every request to the model, and the tools that it was for: the bill",
        "none, and nothing removes them; budgets and `turns.max_turns` limit requests",
        (),
        "usage of sessions",
    ),
    Store(
        "runtime",
        ("runtime_spans", "usage_mismatches"),
        "every time a session is worked on: the bill; and what did not agree in it",
        "one span from a message to idle, and nothing removes them; 100 mismatches of a session",
        (),
        "`hostler usage`",
    ),
    Store(
        "budgets",
        ("budgets", "reservations", "budget_pauses"),
        "one row for each session with a budget and for each budget of an agent or workspace; a row for each model "
        "request under way",
        "1,000 budgets of a workspace besides those of sessions, which go with them; reservations go with their "
        "request, or when its server is gone",
        ("archived_sessions",),
        "`/hostler/v1/budgets`",
    ),
    Store(
        "egress_decisions",
        ("egress_decisions",),
        "every request of a session to the network, allowed or denied",
        "`sessions.max_egress_decisions` of a session: then it gets none. The oldest never make room: whoever is "
        "watched must not be able to push out what was written down",
        ("egress_decisions",),
        "`/hostler/v1/sessions/{id}/egress`",
    ),
    Store(
        "credential_uses",
        ("credential_uses",),
        "every placeholder of a secret that was seen in a request",
        "the limit of egress decisions: no request without one",
        ("credential_uses",),
        "`/hostler/v1/sessions/{id}/credential_uses`",
    ),
    Store(
        "audit_entries",
        ("audit_entries", "audit_subjects", "audit_chains", "audit_checkpoints", "audit_signers"),
        "every act of an administrator, approval, end of a tool call and change of a budget; what one transaction "
        "decides about a session's requests; a checkpoint of every `audit.checkpoint_entries`",
        "rates of requests (`quotas.create_requests_per_minute`); for what agents do, the limits of sessions' logs and "
        "of egress decisions",
        ("audit_entries",),
        "`hostler audit status`, `/hostler/v1/audit`",
    ),
    Store(
        "webhook_deliveries",
        ("webhook_endpoints", "webhook_deliveries", "webhook_attempts"),
        "every event for each endpoint that wants it",
        "`webhooks.most_endpoints`; an endpoint that 50,000 deliveries wait for is disabled",
        ("webhook_deliveries",),
        "`/hostler/v1/webhook_endpoints/{id}/deliveries`",
    ),
    Store(
        "work_items",
        ("work_items", "work_pollers"),
        "every time a self-hosted session wants a worker; workers that poll",
        "one live item of a session; pollers that are gone are forgotten",
        ("work_items", "archived_sessions"),
        "`/v1/environments/{id}/work`",
    ),
    Store(
        "retention",
        ("retention_runs", "workspace_retention"),
        "every run that removed something, or was asked for",
        "200 runs of a workspace",
        (),
        "`hostler retention history`",
    ),
    Store(
        "rate_buckets",
        ("rate_buckets",),
        "every rate limit that was asked for room lately: of upstreams, models, workspaces and agents",
        "four of each; those that upstreams tell of are 400 at most. One that nobody asked for a day is removed, and "
        "those of archived agents and workspaces",
        (),
        "`hostler limits show`",
    ),
    # --------------------------------------------------------------------------------------- what people set up
    Store(
        "configuration",
        (
            "workspaces",
            "workspace_quotas",
            "rate_limits",
            "api_keys",
            "environment_keys",
            "agents",
            "agent_versions",
            "environments",
            "vaults",
            "credentials",
        ),
        "what people and their programs set up",
        "rates of requests (`quotas.create_requests_per_minute`)",
        (),
        "their lists",
    ),
    # ------------------------------------------------------------------------------------------ folders and objects
    Store(
        "homes: `<state_dir>/sessions/`, `volumes/`, `homes/`, `attached/`",
        (),
        "workspace, outputs, clones and `claude`'s own files of each session, its debug logs included",
        "`sandbox.disk_mb` of a session; `worker.cache_mb` of those that nobody is in, and the last twentieth of the "
        "disk stays free",
        ("archived_sessions",),
        "`df`",
    ),
    Store(
        "blobs: `<state_dir>/blobs/`, or objects",
        (),
        "bytes of files and skills, each content once",
        "those of the files and skills that refer to them; others go after an hour. Copies of a bucket: "
        "`files.cache_mb`",
        (),
        "as `files` and `skills`",
    ),
    Store(
        "objects: `<state_dir>/objects/`, or the bucket below `snapshots/`",
        (),
        "packs and manifests of snapshots",
        "those that a snapshot uses; others go after six hours",
        (),
        "as `snapshots`",
    ),
    Store(
        "`<state_dir>/snapshots/`",
        (),
        "what a snapshot may take for unchanged: one file for each session with snapshots",
        "goes with the last snapshot of its session",
        (),
        "`du`",
    ),
    Store(
        "`<state_dir>/layers/` and images",
        (),
        "packages that environments ask for",
        "`packages.layer_mb`, `packages.total_mb`: what was unused for longest goes",
        (),
        "`hostler image list`",
    ),
    Store(
        "`<state_dir>/skills/`, `run/`, `sandbox/`, `microvm/`, staging folders",
        (),
        "what living sandboxes need",
        "removed with the sandbox, and at the next start",
        (),
        "`du`",
    ),
    Store(
        "`<state_dir>/attacks/`",
        (),
        "results of `hostler doctor --attack`",
        "one result for each technology: a new one takes the place of the one before",
        (),
        "`hostler doctor`",
    ),
    Store("logs", (), "lines on standard error", "whoever keeps them: Hostler writes no log file", (), "journal"),
)


def table() -> str:
    lines = [
        "| what | tables | grows with | limit | removed after | seen in |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for store in STORES:
        tables = ", ".join(f"`{name}`" for name in store.tables) or "—"
        removed = "<br>".join(_removed(name) for name in store.policies) or "—"
        figures = "`hostler storage`" if store.name in MEASURES else ""
        seen = "; ".join(part for part in (figures, store.seen) if part) or "—"
        lines.append(f"| {store.name} | {tables} | {store.grows} | {store.limit} | {removed} | {seen} |")
    return "\n".join(lines)


def _removed(name: PolicyName) -> str:
    days = HARMLESS[name]
    return f"`{name}`: " + (f"{days} d" if days else "never, unless set")


def page(text: str) -> str:
    """`text` with the table as it is now. Raises ValueError for a page without a place for it."""
    return with_table(text, BEGIN, END, table())


if __name__ == "__main__":
    sys.exit(keep_up(PAGE, page))
