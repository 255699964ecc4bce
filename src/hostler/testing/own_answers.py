"""What do our own endpoints answer? The shapes behind `/hostler/v1/openapi.json`; a fuzz holds the server to them."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from hostler.domain.administration import CreateKey, NameWorkspace
from hostler.domain.audit_requests import RedactAudit
from hostler.domain.auditing import KINDS
from hostler.domain.budgets import CreateBudget, UpdateBudget
from hostler.domain.checkpoints import CreateCheckpoint, ForkSession, Rewind
from hostler.domain.compaction import RequestCompaction
from hostler.domain.environment_keys import CreateEnvironmentKey
from hostler.domain.policies import SuggestPolicy, TryPolicy
from hostler.domain.previews import CreatePreview
from hostler.domain.quotas import SetQuotas
from hostler.domain.rates import Kind, Scope, SetRateLimits
from hostler.domain.retention import PolicyName, RunRetention, SetRetention
from hostler.domain.routing import CompareRouting, ExplainRouting
from hostler.domain.webhooks import CreateEndpoint, RotateSecret, TestDelivery, UpdateEndpoint

T = TypeVar("T")


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Page(Answer, Generic[T]):
    data: list[T]
    next_page: str | None


class ApiKey(Answer):
    id: str
    type: Literal["api_key"]
    name: str
    workspace_id: str
    scopes: list[Literal["admin", "operate", "read"]]
    hint: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class NewApiKey(ApiKey):
    secret: str


class Workspace(Answer):
    id: str
    type: Literal["workspace"]
    name: str
    created_at: str
    archived_at: str | None


class WorkspaceQuotas(Answer):
    type: Literal["workspace_quotas"]
    workspace_id: str
    limits: dict[str, int]
    overrides: dict[str, int]
    used: dict[str, int]


class EnvironmentKey(Answer):
    id: str
    type: Literal["environment_key"]
    environment_id: str
    name: str
    hint: str
    created_at: str
    last_used_at: str | None
    revoked_at: str | None


class NewEnvironmentKey(EnvironmentKey):
    secret: str


class Dollars(Answer):
    amount: str
    currency: Literal["USD"]


class Budget(Answer):
    id: str
    type: Literal["budget"]
    scope: Literal["agent", "workspace"]
    agent_id: str | None
    period: Literal["month", "total"]
    month: str | None
    limit: Dollars
    spent_nanos: int
    uncertain_nanos: int
    reserved_nanos: int
    available_nanos: int
    warn_at: list[int]
    warned_at: int | None
    paused_sessions: int
    created_at: str
    updated_at: str


class DeletedBudget(Answer):
    id: str
    type: Literal["budget_deleted"]


class Approval(Answer):
    type: Literal["approval"]
    session_id: str
    session_title: str | None
    agent_id: str
    event_id: str
    kind: Literal["confirmation", "custom_tool"]
    tool_name: str
    input: dict[str, Any]
    waiting_since: str
    age_seconds: float


class LiveSession(Answer):
    type: Literal["live_session"]
    session_id: str
    environment_id: str
    server: str
    since: str
    idle: bool


class WaitingSession(Answer):
    type: Literal["waiting_session"]
    session_id: str
    environment_id: str
    since: str
    reason: Literal["environment_limit", "server_limit", "memory"]
    place: int
    limit: int | None
    message: str


class Actor(Answer):
    type: str
    id: str | None


class AuditEntry(Answer):
    id: str
    type: Literal["audit_entry"]
    workspace_id: str | None
    actor: Actor
    kind: str
    act: str
    target_id: str
    session_id: str | None
    details: dict[str, Any]
    redacted: bool
    seq: int | None
    hash: str | None
    created_at: str


class AuditCheckpoint(Answer):
    workspace: str
    seq: int
    hash: str
    at: str
    signer: str
    signature: str


class AuditSignerKey(Answer):
    id: str
    public_key: str
    created_at: str
    endorsed_by: str
    endorsement: str


class AuditChain(Answer):
    type: Literal["audit_chain"]
    workspace_id: str
    first_seq: int
    seq: int
    hash: str
    checkpoint: AuditCheckpoint | None
    signers: list[AuditSignerKey]


class AuditRedaction(Answer):
    type: Literal["audit_redaction"]
    workspace_id: str
    subject_id: str


class EgressDecision(Answer):
    id: str
    type: Literal["egress_decision"]
    session_id: str
    method: str
    host: str
    port: int
    path: str
    allowed: bool
    reason: str
    hint: str
    allow: dict[str, Any] | None
    created_at: str


class PastUse(Answer):
    method: str
    host: str
    port: int
    path: str
    recorded: str
    count: int
    sessions: int
    first_at: str
    last_at: str


class ChangedUse(PastUse):
    reason: str
    hint: str
    allow: dict[str, Any] | None


class Unchanged(Answer):
    allowed: int
    denied: int


class PolicyTest(Answer):
    type: Literal["policy_test"]
    environment_id: str
    since: str
    until: str
    networking: dict[str, Any]
    would_block: list[ChangedUse]
    newly_allowed: list[ChangedUse]
    unknown: list[ChangedUse]
    unchanged: Unchanged
    complete: bool


class Folded(Answer):
    wildcard: str
    hosts: list[str]


class PolicySuggestion(Answer):
    type: Literal["policy_suggestion"]
    session_id: str | None
    environment_id: str | None
    networking: dict[str, Any]
    folded: list[Folded]
    unlisted: list[str]
    covered: list[PastUse]
    denied: list[PastUse]
    complete: bool


class Preview(Answer):
    id: str
    type: Literal["preview"]
    session_id: str
    port: int
    url: str
    created_at: str
    expires_at: str
    revoked_at: str | None


class RoomSession(Answer):
    session_id: str
    name: str
    joined_at: str
    live: bool


class Room(Answer):
    id: str
    type: Literal["room"]
    environment_id: str
    name: str
    worker: str | None
    sessions: list[RoomSession]
    created_at: str


class RoomConflict(Answer):
    id: str
    type: Literal["room_conflict"]
    room_id: str
    path: str
    session_id: str
    other_session_id: str
    outcome: Literal["overwritten", "refused"]
    created_at: str


class CredentialUse(Answer):
    id: str
    type: Literal["credential_use"]
    session_id: str
    vault_id: str
    credential_id: str
    method: str
    host: str
    port: int
    place: Literal["header", "body", "url"]
    outcome: Literal["substituted", "host_not_allowed", "place_not_allowed", "read_only", "plain_http"]
    created_at: str


class HealthDatabase(Answer):
    kind: Literal["sqlite", "postgresql"]
    ok: bool


class HealthSandbox(Answer):
    technology: str
    runtime: str
    host_user: str
    kernel: str
    limits_by: str
    disk_by: str
    unlimited: list[str]
    missing: list[str]


class HealthRung(Answer):
    available: bool
    isolation: HealthSandbox | None


class HealthWorker(Answer):
    ok: bool


class Spares(Answer):
    waiting: int
    starting: int
    claimed: int
    missed: int
    failed: int


class LoopDelay(Answer):
    p50: float | None
    p99: float | None
    max: float | None


class HealthGuards(Answer):
    admits: bool
    disk_free_bytes: int | None
    memory_available_bytes: int | None
    loop_delay_ms: LoopDelay


class UpstreamTrouble(Answer):
    model: str
    state: Literal["open", "half_open", "resting"]
    reason: str
    failures: int
    since: str | None
    next_trial_at: str | None


class Upstream(Answer):
    name: str
    state: Literal["ok", "degraded"]
    order: int
    weight: int
    models: list[UpstreamTrouble]


class HealthTraces(Answer):
    sent: int
    dropped: int
    failed: int
    waiting: int
    refused: int


class Health(Answer):
    type: Literal["health"]
    status: Literal["ok", "degraded"]
    reasons: list[str]
    database: HealthDatabase
    sandbox: HealthSandbox | None
    rungs: dict[str, HealthRung]
    worker: HealthWorker | None
    spares: Spares | None
    guards: HealthGuards | None
    upstreams: list[Upstream] | None
    traces: HealthTraces | None


class WebhookEndpoint(Answer):
    id: str
    type: Literal["webhook_endpoint"]
    url: str
    name: str
    description: str
    enabled_events: list[str]
    state: Literal["enabled", "disabled"]
    disabled_reason: str
    consecutive_failures: int
    old_secret_expires_at: str | None
    created_at: str
    updated_at: str


class WebhookEndpointWithSecret(WebhookEndpoint):
    signing_secret: str


class WebhookEndpointDeleted(Answer):
    id: str
    type: Literal["webhook_endpoint_deleted"]


class WebhookAttempt(Answer):
    number: int
    at: str
    status: int | None
    error: str | None
    latency_ms: float


class WebhookDelivery(Answer):
    id: str
    type: Literal["webhook_delivery"]
    endpoint_id: str
    event_id: str
    event_type: str
    state: Literal["pending", "delivered", "failed"]
    test: bool
    next_attempt_at: str | None
    attempts: list[WebhookAttempt]
    created_at: str


class Compaction(Answer):
    id: str
    type: Literal["compaction"]
    session_id: str
    trigger: Literal["auto", "manual", "scheduled"]
    strategy: Literal["archive_everything", "smart_retention", "hybrid"] | None
    state: Literal["waiting", "running", "completed", "failed", "blocked", "skipped"]
    reason: str | None
    instructions: str | None
    archive_id: str | None
    before_tokens: int | None
    after_tokens: int | None
    summary: str | None
    summary_tokens: int | None
    kept: dict[str, int]
    requests: int
    input_tokens: int
    output_tokens: int
    due_at: str | None
    retry_at: str | None
    created_at: str
    ended_at: str | None


class ArchivesUsed(Answer):
    session_bytes: int
    session_most_bytes: int
    workspace_bytes: int
    workspace_most_bytes: int
    when_full: Literal["remove_oldest", "refuse"]


class CompactionState(Answer):
    type: Literal["compaction_state"]
    session_id: str
    policy: dict[str, Any] | None
    failures: int
    retry_at: str | None
    next_due_at: str | None
    last_due_at: str | None
    last: Compaction | None
    archives: ArchivesUsed


class Archive(Answer):
    id: str
    type: Literal["archive"]
    session_id: str
    number: int
    state: Literal["complete", "removed"]
    entries: int
    logical_bytes: int
    stored_bytes: int
    created_at: str
    removed_at: str | None


class FoundEntry(Answer):
    type: Literal["archive_entry"]
    archive_id: str
    number: int
    thread: str
    kind: str
    role: str | None
    at: str | None
    text: str
    excerpt: str


class ArchiveEntry(Answer):
    type: Literal["archive_entry"]
    archive_id: str
    number: int
    thread: str
    kind: str
    role: str | None
    at: str | None
    text: str
    entry: Any


class ArchiveWithEntries(Archive):
    data: list[ArchiveEntry]
    next_page: str | None


class UsedSoFar(Answer):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_5m_input_tokens: int
    cache_creation_1h_input_tokens: int
    web_search_requests: int
    list_cost_nanos: int
    unpriced_requests: int


class Checkpoint(Answer):
    id: str
    type: Literal["checkpoint"]
    session_id: str
    name: str | None
    reason: Literal["manual", "automatic", "rewind", "fork", "export"]
    created_at: str
    seq: int
    events: int
    transcript_entries: int
    snapshot_id: str | None
    memories: dict[str, int]
    stop_reason: dict[str, Any] | None
    agent_version: int
    usage: UsedSoFar


class CheckpointDeleted(Answer):
    id: str
    type: Literal["checkpoint_deleted"]


class MemoryRestored(Answer):
    memory_store_id: str
    path: str
    operation: Literal["created", "modified", "deleted"]


class MemoryLeft(Answer):
    memory_store_id: str
    path: str
    reason: Literal["changed_by_others", "redacted", "refused", "store_deleted"]
    message: str = ""


class RewoundMemories(Answer):
    restored: list[MemoryRestored]
    left: list[MemoryLeft]


class RewindDone(Answer):
    id: str
    type: Literal["rewind"]
    session_id: str
    checkpoint_id: str
    left_checkpoint_id: str
    from_seq: int
    to_seq: int
    memories: RewoundMemories
    created_at: str


class ForkedFrom(Answer):
    session_id: str
    checkpoint_id: str
    seq: int
    events: int


class ForkedSession(BaseModel):
    """A session as `/v1` shows it, and where it begins."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: Literal["session"]
    forked_from: ForkedFrom


class DiffSide(Answer):
    session_id: str
    point: str
    seq: int
    snapshot_id: str | None


class DiffEvents(Answer):
    added: int
    removed: int
    added_by_type: dict[str, int]
    messages: list[dict[str, Any]]
    messages_count: int


class FileChange(Answer):
    path: str
    how: Literal["added", "removed", "changed", "mode"]
    before_bytes: int | None
    after_bytes: int | None


class DiffFiles(Answer):
    changes: list[FileChange]
    count: int
    by_kind: dict[str, int]
    complete: bool


class MemoryChange(Answer):
    memory_store_id: str
    memory_id: str
    how: Literal["added", "removed", "changed"]
    path: str
    before_version_id: str | None
    after_version_id: str | None


class TextDiff(Answer):
    path: str
    unified: str


class SessionDiff(Answer):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    type: Literal["session_diff"]
    session_id: str
    before: DiffSide = Field(alias="from")
    after: DiffSide = Field(alias="to")
    events: DiffEvents
    files: DiffFiles
    memories: list[MemoryChange]
    cost: UsedSoFar
    text: TextDiff | None


class ImportedFrom(Answer):
    session_id: str
    digest: str
    producer: str
    exported_at: str
    created_at: str | None
    events: int
    usage: dict[str, int]


class ImportedSession(BaseModel):
    """A session as `/v1` shows it, and what it was made of."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: Literal["session"]
    imported_from: ImportedFrom


class LeftBehind(Answer):
    type: Literal["vault", "memory_store", "file", "token", "skill"]
    id: str
    message: str


class SessionImport(Answer):
    type: Literal["session_import"]
    id: str
    digest: str
    session: ImportedSession
    created: list[str]
    left: list[LeftBehind]


class Bytes(BaseModel):
    """Stands for a body that is no JSON: a bundle."""

    KIND: ClassVar[str] = "application/zstd"


class Lines(Bytes):
    """Stands for lines of JSON: an export of the audit log."""

    KIND: ClassVar[str] = "application/x-ndjson"


class StoreLimit(Answer):
    of: Literal["session", "workspace"]
    setting: str
    unit: Literal["bytes", "rows"]
    most: int
    used: int | None
    share: float | None


class StoreFigure(Answer):
    store: str
    rows: int
    bytes: int | None
    largest_session: str | None
    limit: StoreLimit | None


class StoreSum(Answer):
    store: str
    rows: int
    bytes: int | None


class StorageQuota(Answer):
    storage_bytes: int | None
    used_bytes: int
    share: float | None


class InstallationStorage(Answer):
    workspaces: int
    measured_at: str
    stores: list[StoreSum]


class Storage(Answer):
    type: Literal["storage"]
    workspace_id: str
    measured_at: str
    stores: list[StoreFigure]
    quota: StorageQuota
    installation: InstallationStorage | None


class LongPrice(Answer):
    input: str
    output: str
    cache_read: str
    cache_write_5m: str
    cache_write_1h: str


class ModelPrice(LongPrice):
    model: str
    since: str | None = Field(alias="from")
    long_above: int | None
    long: LongPrice | None
    source: str


class ToolPrice(Answer):
    tool: str
    since: str | None = Field(alias="from")
    usd_per_1000: str
    source: str


class PriceTable(Answer):
    type: Literal["prices"]
    version: str
    runtime_usd_per_hour: str
    models: list[ModelPrice]
    server_tools: list[ToolPrice]
    sources: dict[str, str]


class UsageRow(Answer):
    type: Literal["usage"]
    group: dict[str, str | None]
    requests: int
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_5m_input_tokens: int
    cache_creation_1h_input_tokens: int
    web_search_requests: int
    unpriced_requests: int
    result_bytes: int
    active_seconds: float
    model_cost_usd: str
    runtime_cost_usd: str
    list_cost_usd: str


class UsageMismatch(Answer):
    id: str
    type: Literal["usage_mismatch"]
    session_id: str
    kind: Literal["session_total", "runtime", "harness_tokens", "harness_cost"]
    details: dict[str, int]
    created_at: str


class RetentionPolicy(Answer):
    name: PolicyName
    removes: str
    days: int | None
    default_days: int | None
    overridden: bool


class RetentionPolicies(Answer):
    type: Literal["retention"]
    workspace_id: str
    every_seconds: float
    policies: list[RetentionPolicy]
    never_removed: list[str]


class Removed(Answer):
    policy: PolicyName
    days: int
    items: int
    bytes: int
    oldest: str | None
    sample: list[str]


class RetentionRun(Answer):
    id: str
    type: Literal["retention_run"]
    workspace_id: str
    dry_run: bool
    cause: Literal["schedule", "asked"]
    actor_id: str
    state: Literal["running", "completed", "stopped", "failed"]
    reason: str | None
    counted_from: str
    removed: list[Removed]
    items: int
    bytes: int
    created_at: str
    ended_at: str | None


class CacheCreation(Answer):
    ephemeral_5m_input_tokens: int
    ephemeral_1h_input_tokens: int


class RequestUsage(Answer):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation: CacheCreation
    web_search_requests: int


class ModelRequest(Answer):
    id: str
    type: Literal["model_request"]
    session_id: str
    request_id: str
    attempt: int
    requested_model: str
    model: str
    upstream: str
    rule: str | None
    why: str
    thread: Literal["main", "sub_agent"]
    sub_agent_id: str | None
    agent_type: str | None
    purpose: Literal["turn", "compaction", "auxiliary"]
    agent_id: str
    agent_version: int
    request_bytes: int
    status: int
    complete: bool
    stop_reason: str | None
    usage: RequestUsage
    cost_nanos: int | None
    waited_ms: float
    duration_ms: float
    first_byte_ms: float | None
    created_at: str


class LookedAt(Answer):
    rule: str
    outcome: Literal["chosen", "does not match", "passed over"]
    why: str


class RoutingExplanation(Answer):
    type: Literal["routing_explanation"]
    requested_model: str
    model: str
    fallbacks: list[str]
    rule: str | None
    why: str
    rules: list[LookedAt]


class CostOfModel(Answer):
    model: str
    attempts: int
    cost_nanos: int


class AttemptsOfRule(Answer):
    rule: str
    attempts: int


class CostOfRules(Answer):
    attempts: int
    changed: int
    cost_nanos: int
    unpriced_attempts: int
    by_model: list[CostOfModel]
    by_rule: list[AttemptsOfRule]


class RoutingComparison(Answer):
    type: Literal["routing_comparison"]
    since: str
    until: str
    attempts: int
    complete: bool
    recorded: CostOfRules
    sets: list[CostOfRules]
    without_tags: int
    caveat: str


class RateLimitNumbers(Answer):
    requests_per_minute: int | None
    input_tokens_per_minute: int | None
    output_tokens_per_minute: int | None


class AgentRateLimits(Answer):
    agent_id: str
    limits: RateLimitNumbers


class RateBucket(Answer):
    scope: Scope
    upstream: str | None
    model: str | None
    workspace_id: str | None
    agent_id: str | None
    kind: Kind
    per_minute: float | None
    configured: float | None
    learned: float | None
    learned_at: str | None
    capacity: float | None
    level: float | None
    closed_until: str | None


class RateWaiting(Answer):
    upstream: str
    workspace_id: str
    requests: int
    longest_seconds: float


class RateLimits(Answer):
    type: Literal["rate_limits"]
    workspace_id: str
    limits: RateLimitNumbers
    agents: list[AgentRateLimits]
    buckets: list[RateBucket]
    complete: bool
    waiting: list[RateWaiting]


_PAGE = {"limit": {"type": "integer"}, "page": {"type": "string"}}
_TIME = {"type": "string", "format": "date-time"}
_TEXTS = {"type": "array", "items": {"type": "string"}}

SHAPES: dict[str, tuple[type[BaseModel] | None, type[BaseModel], dict[str, dict[str, Any]]]] = {
    "keys.create": (CreateKey, NewApiKey, {}),
    "keys.list": (None, Page[ApiKey], {**_PAGE, "workspace_id": {"type": "string"}}),
    "keys.retrieve": (None, ApiKey, {}),
    "keys.revoke": (None, ApiKey, {}),
    "workspaces.create": (NameWorkspace, Workspace, {}),
    "workspaces.list": (None, Page[Workspace], {**_PAGE, "include_archived": {"type": "boolean"}}),
    "workspaces.retrieve": (None, Workspace, {}),
    "workspaces.update": (NameWorkspace, Workspace, {}),
    "workspaces.archive": (None, Workspace, {}),
    "workspaces.quotas.retrieve": (None, WorkspaceQuotas, {}),
    "workspaces.quotas.update": (SetQuotas, WorkspaceQuotas, {}),
    "environments.keys.create": (CreateEnvironmentKey, NewEnvironmentKey, {}),
    "environments.keys.list": (None, Page[EnvironmentKey], _PAGE),
    "environments.keys.revoke": (None, EnvironmentKey, {}),
    "budgets.create": (CreateBudget, Budget, {}),
    "budgets.list": (None, Page[Budget], {**_PAGE, "agent_id": {"type": "string"}}),
    "budgets.retrieve": (None, Budget, {}),
    "budgets.update": (UpdateBudget, Budget, {}),
    "budgets.delete": (None, DeletedBudget, {}),
    "approvals.list": (None, Page[Approval], _PAGE),
    "live_sessions.list": (None, Page[LiveSession], _PAGE),
    "waiting_sessions.list": (None, Page[WaitingSession], _PAGE),
    "audit.list": (
        None,
        Page[AuditEntry],
        {
            **_PAGE,
            **{f"created_at[{bound}]": _TIME for bound in ("gt", "gte", "lt", "lte")},
            **{name: {"type": "string"} for name in ("actor_id", "act", "target_id", "session_id", "workspace_id")},
            "kind[]": {"type": "array", "items": {"enum": list(KINDS)}},
        },
    ),
    "audit.chain.retrieve": (None, AuditChain, {"workspace_id": {"type": "string"}}),
    "audit.export": (None, Lines, {"workspace_id": {"type": "string"}}),
    "audit.redact": (RedactAudit, AuditRedaction, {}),
    "sessions.egress.list": (None, Page[EgressDecision], {**_PAGE, "allowed": {"type": "boolean"}}),
    "sessions.checkpoints.create": (CreateCheckpoint, Checkpoint, {}),
    "sessions.checkpoints.list": (None, Page[Checkpoint], _PAGE),
    "sessions.checkpoints.retrieve": (None, Checkpoint, {}),
    "sessions.checkpoints.delete": (None, CheckpointDeleted, {}),
    "sessions.rewind": (Rewind, RewindDone, {}),
    "sessions.rewinds.list": (None, Page[RewindDone], _PAGE),
    "sessions.fork": (ForkSession, ForkedSession, {}),
    "sessions.bundle": (None, Bytes, {"checkpoint_id": {"type": "string"}, "without[]": _TEXTS}),
    "sessions.import": (
        Bytes,
        SessionImport,
        {
            **{name: {"type": "boolean"} for name in ("keep_ids", "create")},
            **{name: {"type": "string"} for name in ("agent", "environment", "title", "digest")},
            **{f"{name}[]": _TEXTS for name in ("vault", "memory_store")},
        },
    ),
    "sessions.diff": (
        None,
        SessionDiff,
        {name: {"type": "string"} for name in ("from", "to", "path")},
    ),
    "sessions.previews.create": (CreatePreview, Preview, {}),
    "sessions.previews.list": (None, Page[Preview], {}),
    "sessions.previews.revoke": (None, Preview, {}),
    "rooms.list": (None, Page[Room], _PAGE),
    "rooms.retrieve": (None, Room, {}),
    "rooms.conflicts.list": (None, Page[RoomConflict], _PAGE),
    "policy.test": (TryPolicy, PolicyTest, {}),
    "policy.suggest": (SuggestPolicy, PolicySuggestion, {}),
    "sessions.credential_uses.list": (None, Page[CredentialUse], _PAGE),
    "sessions.compact": (RequestCompaction, Compaction, {}),
    "sessions.compaction.retrieve": (None, CompactionState, {}),
    "sessions.compactions.list": (None, Page[Compaction], _PAGE),
    "sessions.archives.list": (None, Page[Archive], _PAGE),
    "sessions.archives.search": (None, Page[FoundEntry], {**_PAGE, "q": {"type": "string"}}),
    "sessions.archives.retrieve": (None, ArchiveWithEntries, _PAGE),
    "sessions.requests.list": (None, Page[ModelRequest], _PAGE),
    "routing.explain": (ExplainRouting, RoutingExplanation, {}),
    "routing.compare": (CompareRouting, RoutingComparison, {}),
    "webhook_endpoints.create": (CreateEndpoint, WebhookEndpointWithSecret, {}),
    "webhook_endpoints.list": (None, Page[WebhookEndpoint], _PAGE),
    "webhook_endpoints.retrieve": (None, WebhookEndpoint, {}),
    "webhook_endpoints.update": (UpdateEndpoint, WebhookEndpoint, {}),
    "webhook_endpoints.delete": (None, WebhookEndpointDeleted, {}),
    "webhook_endpoints.rotate_secret": (RotateSecret, WebhookEndpointWithSecret, {}),
    "webhook_endpoints.test": (TestDelivery, WebhookDelivery, {}),
    "webhook_endpoints.deliveries.list": (
        None,
        Page[WebhookDelivery],
        {**_PAGE, "states[]": {"type": "array", "items": {"type": "string"}}},
    ),
    "webhook_endpoints.deliveries.retry": (None, WebhookDelivery, {}),
    "health.retrieve": (None, Health, {}),
    "prices.retrieve": (None, PriceTable, {}),
    "usage.list": (
        None,
        Page[UsageRow],
        {
            **_PAGE,
            "group_by[]": _TEXTS,
            **{f"created_at[{bound}]": _TIME for bound in ("gt", "gte", "lt", "lte")},
            **{
                name: {"type": "string"}
                for name in ("workspace_id", "agent_id", "environment_id", "session_id", "model", "upstream")
            },
        },
    ),
    "usage.mismatches.list": (
        None,
        Page[UsageMismatch],
        {**_PAGE, "workspace_id": {"type": "string"}, "session_id": {"type": "string"}},
    ),
    "storage.retrieve": (None, Storage, {"workspace_id": {"type": "string"}, "fresh": {"type": "boolean"}}),
    "retention.retrieve": (None, RetentionPolicies, {"workspace_id": {"type": "string"}}),
    "retention.update": (SetRetention, RetentionPolicies, {}),
    "retention.runs.create": (RunRetention, RetentionRun, {}),
    "retention.runs.list": (None, Page[RetentionRun], {**_PAGE, "workspace_id": {"type": "string"}}),
    "retention.runs.retrieve": (None, RetentionRun, {}),
    "rate_limits.retrieve": (None, RateLimits, {"workspace_id": {"type": "string"}}),
    "rate_limits.update": (SetRateLimits, RateLimits, {}),
}
"""By the name of the row: what is sent, what comes back, and the query's parameters."""
