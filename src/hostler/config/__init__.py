"""What can an operator set, and to what? One frozen tree: defaults, then a TOML file, then the environment.

`HOSTLER_SERVER__PORT=9000` sets `server.port`. Unknown names are errors, so a typing mistake never goes unnoticed.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from hostler.config.attempts import Attempts
from hostler.config.audit import Audit
from hostler.config.guards import GuardSettings
from hostler.config.metrics import MetricSettings
from hostler.config.prices import Prices
from hostler.config.rates import Rates
from hostler.config.routing import Routing
from hostler.config.section import Section
from hostler.config.telemetry import Logs, Telemetry
from hostler.config.upstreams import UpstreamList, different_names
from hostler.domain.errors import InvalidRequest

PREFIX = "HOSTLER_"
_SHORTEST_SECRET = 8
"""Characters: less is an ordinary word in other places."""
_LISTS = frozenset(
    {
        "allowed_hosts",
        "blocked_ports",
        "directories",
        "extra_packages",
        "package_hosts",
        "previous_keys",
        "private_allowed",
    }
)
"""Options that are lists: separated by commas where they are one text."""
_NOT_SETTINGS = frozenset({"HOSTLER_CONFIG", "HOSTLER_URL", "HOSTLER_API_KEY", "HOSTLER_PYTHON", "HOSTLER_COMMAND"})
"""Names with our prefix that say something else."""


class Server(Section):
    """Where the API listens."""

    host: str = Field("127.0.0.1", description="Address to listen on. Beyond loopback only when an API key exists.")
    port: int = Field(8420, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Host names that requests may be addressed to, besides the loopback names and `host`."
    )


class Store(Section):
    """Where state is kept."""

    url: str = Field(
        "",
        description="`postgresql://user:password@host/name` or `sqlite:////path`. Empty: SQLite in the state folder.",
    )
    durable: bool = Field(
        False, description="SQLite: survive a power cut without losing the last transactions, at about 0.1 ms each."
    )
    pool_size: int = Field(10, ge=1, le=200, description="PostgreSQL: connections kept open.")


class Model(Section):
    """The road to the model."""

    base_url: str = Field("https://api.anthropic.com", description="A server that speaks the Messages API.")
    api_key: SecretStr = Field(
        SecretStr(""), description="Key for it. Empty: ANTHROPIC_API_KEY; without that, the rehearsal model answers."
    )
    auth: Literal["x-api-key", "bearer"] = Field("x-api-key", description="How the key is sent.")
    rehearse: bool = Field(False, description="Use the rehearsal model even if there is a key.")
    retries: int = Field(
        20,
        ge=0,
        le=100,
        description="How often a failed model request is asked again at most, all upstreams together, before the turn "
        "ends.",
    )


class Models(Section):
    """Which models agents are offered."""

    file: str = Field("", description="JSON file with the catalogue that `/v1/models` shows. Empty: the built-in one.")


class Docker(Section):
    """Where Docker is."""

    socket: str = Field("/var/run/docker.sock", description="Unix socket of its Engine API.")


class Podman(Section):
    """Where Podman's service is."""

    socket: str = Field(
        "",
        description="Unix socket of its Engine API. "
        "Empty: `/run/podman/podman.sock` for root, the user's own below `XDG_RUNTIME_DIR` otherwise.",
    )


class Gvisor(Section):
    """How gVisor makes sandboxes."""

    engine: Literal["", "docker", "podman"] = Field(
        "", description="A container engine that has gVisor as a runtime, and makes the sandboxes. Empty: none."
    )
    runtime: str = Field("runsc", description="Name of that runtime in the engine's configuration.")
    runsc: str = Field("runsc", description="Its program: a name on the PATH, or a path.")
    platform: Literal["auto", "systrap", "ptrace", "kvm"] = Field(
        "auto",
        description="How it gets at system calls. `auto`: systrap, else ptrace, whichever runs a trial sandbox. "
        "`kvm` is never chosen by itself.",
    )


class Microvm(Section):
    """How machines of their own are made."""

    qemu: str = Field("qemu-system-x86_64", description="QEMU's program: a name on the PATH, or a path.")
    kernel: str = Field(
        "/", description="Folder with `boot/vmlinuz-…` and `lib/modules/…` of Debian's kernel (not a cloud kernel)."
    )
    acceleration: Literal["auto", "tcg"] = Field(
        "auto",
        description="`auto`: KVM, where a machine really boots with it. `tcg`: no acceleration, ten times slower.",
    )
    firecracker: str = Field("", description="Refused when set: there is no adapter for Firecracker.")


class Sandbox(Section):
    """What a sandbox gets when its environment says nothing."""

    technology: Literal["", "bubblewrap", "docker", "podman", "gvisor", "microvm"] = Field(
        "", description="What makes sandboxes. Empty: the strongest that this host gives."
    )
    memory_mb: int = Field(2048, ge=256, le=1 << 20, description="Memory of one sandbox, in MiB.")
    cpus: float = Field(2.0, gt=0, le=1024, description="Processors of one sandbox.")
    pids: int = Field(256, ge=32, le=1 << 16, description="Processes and threads of one sandbox.")
    disk_mb: int = Field(
        5120, ge=64, le=1 << 24, description="What is kept of one session (workspace, outputs, state), in MiB."
    )
    volumes: bool = Field(
        True, description="Put what is kept of each session on a file system of its own, which limits it to `disk_mb`."
    )
    disk_write_mb_per_second: int = Field(
        200,
        ge=0,
        le=1 << 20,
        description="How fast one session's volume writes to the host's disk at most, in MiB a second. 0: no limit.",
    )
    first_uid: int = Field(300_000, ge=1000, description="First host uid for sandboxes, when the worker runs as root.")
    uids: int = Field(65_536, ge=1, description="How many uids from there.")
    docker: Docker = Docker()
    podman: Podman = Podman()
    gvisor: Gvisor = Gvisor()
    microvm: Microvm = Microvm()


class Presets(Section):
    """What the presets of environments mean here."""

    default: Literal["development", "production"] = Field(
        "development", description="Preset of environments that name none, and of self-hosted ones."
    )
    production_minimum: Literal["bubblewrap", "docker", "podman", "gvisor", "microvm"] = Field(
        "gvisor", description="Weakest technology that production takes; the others of its rung will do, too."
    )
    production_approvals: Literal["required", "agent"] = Field(
        "required",
        description="`required`: in production a person is asked about every call that may change something. "
        "`agent`: the agent's own policies count.",
    )
    production_limits: Literal["enforced", "any"] = Field(
        "enforced", description="`any`: production runs where a limit (memory, disk, …) can't be enforced, too."
    )
    production_attacks: Literal["held", "any"] = Field(
        "held", description="`any`: production runs where the attack corpus failed or was never run, too."
    )


class Claude(Section):
    """Which versions of `claude` there are besides the one that Hostler brings along."""

    directories: tuple[str, ...] = Field(
        (), description="Folders with a program `claude` in each, of a version that environments may pin."
    )


class Files(Section):
    """What clients send, what sessions put out, and what is cloned for them."""

    max_file_mb: int = Field(500, ge=1, le=1 << 20, description="One file, in MiB: an upload, or an output.")
    uploads_downloadable: bool = Field(
        False, description="Let clients download what was uploaded; else only what sessions have put out."
    )
    max_outputs: int = Field(1000, ge=0, le=100_000, description="Files that one session may put out.")
    max_outputs_mb: int = Field(2048, ge=0, le=1 << 24, description="All of them together, in MiB.")
    cache_mb: int = Field(
        10_240, ge=1, le=1 << 30, description="Copies of what is in the object store (`objects.url`), in MiB."
    )
    clone_seconds: float = Field(300.0, gt=0, description="How long cloning one repository may take.")
    clone_mb: int = Field(2048, ge=1, le=1 << 20, description="Room that one cloned repository may take, in MiB.")


class Egress(Section):
    """The road to everything but the model."""

    private_allowed: tuple[str, ...] = Field(
        (), description="Private addresses of this network that sessions may reach if their rules allow the name."
    )
    package_hosts: tuple[str, ...] = Field(
        (),
        description="Registries of package managers: what `allow_package_managers` allows, and all that installers "
        "reach. Empty: the public ones of apt, cargo, gem, go, npm and pip.",
    )
    ca_bundle: str = Field(
        "",
        description="PEM file with authorities of your own network, trusted besides this host's: by the proxy where it "
        "makes the request itself (to MCP servers, and to hosts whose TLS it ends), by programs in sandboxes, and by "
        "installers of packages.",
    )
    blocked_ports: tuple[int, ...] = Field(
        (23, 25, 53, 135, 137, 138, 139, 445, 853), description="Ports that no rule opens."
    )
    connections: int = Field(256, ge=1, le=10_000, description="Open connections of one session.")
    head_kb: int = Field(64, ge=8, le=1024, description="Head of a request or an answer, in KiB.")
    head_seconds: float = Field(30.0, gt=0, description="How long a head, or a TLS handshake, may take.")
    connect_seconds: float = Field(10.0, gt=0, description="How long connecting to one address may take.")
    idle_seconds: float = Field(600.0, gt=0, description="After that a connection that moves nothing is closed.")
    connection_mb: int = Field(
        0, ge=0, le=1 << 24, description="MiB that one connection may move, both directions together. 0: no bound."
    )
    session_mb: int = Field(
        0,
        ge=0,
        le=1 << 24,
        description="MiB that a session may move while its process lives, both directions together. 0: no bound.",
    )


class Packages(Section):
    """What is installed for environments, once, in a sandbox of its own."""

    seconds: float = Field(900.0, gt=0, description="How long installing the packages of one environment may take.")
    layer_mb: int = Field(4096, ge=16, le=1 << 20, description="Room for what installers write, in MiB.")
    total_mb: int = Field(
        20_480, ge=16, le=1 << 24, description="All that is kept, in MiB; what was unused for longest is removed."
    )
    memory_mb: int = Field(2048, ge=256, le=1 << 20, description="Memory of installers, in MiB.")
    first_uid: int = Field(
        400_000, ge=1000, description="First of 65,536 host user and group ids that nothing else has, for installers."
    )


class Images(Section):
    """The base image that packages are installed on, and that containers and machines run."""

    suite: str = Field("", description="Release of the distribution, such as `bookworm`. Empty: the host's own.")
    sources: str = Field(
        "", description="File with apt sources (deb822) for it. Empty: the host's, of its own distribution."
    )
    extra_packages: tuple[str, ...] = Field((), description="Debian packages besides the usual ones.")


class Secrets(Section):
    """What stored secrets are sealed with."""

    key_file: str = Field(
        "",
        description="File with the master keys, made at first use. "
        "Empty: `secrets/master-keys.json` in the state folder.",
    )
    command: str = Field(
        "",
        description="Program that guards the keys of the file: `<command> wrap` and `<command> unwrap`. "
        "Empty: the file holds them as they are.",
    )
    key: SecretStr = Field(
        SecretStr(""),
        description="Master key, 32 bytes in base64, instead of a file: for servers that share a database.",
    )
    previous_keys: tuple[SecretStr, ...] = Field(
        (), description="Master keys that older secrets are sealed with, until `hostler secrets rotate` has run."
    )


class Previews(Section):
    """Links to ports that the programs of sessions open."""

    enabled: bool = Field(True, description="Listen for them.")
    host: str = Field("", description="Address to listen on. Empty: that of the API.")
    port: int = Field(
        0, ge=0, le=65535, description="TCP port. 0: the one after the API's, or a free one if that is taken."
    )
    url: str = Field(
        "",
        description="How links begin, with `{label}` as the first word of the host name, such as "
        "`https://{label}.preview.example.com`. Empty: `http://{label}.localhost:<port>`.",
    )


class Objects(Section):
    """Where the bytes are kept that must outlive every host: what sessions keep in their folders."""

    url: str = Field(
        "",
        description="`s3://bucket/prefix`, or `file:///folder` that all hosts mount. Empty: `objects` in the state "
        "folder, which only this host reads.",
    )
    endpoint: str = Field("", description="Address of a server that speaks S3, when it isn't Amazon's.")
    region: str = Field("", description="Region of the bucket. Empty: `AWS_REGION`, else `us-east-1`.")
    access_key_id: str = Field(
        "",
        description="Empty: what the environment has (`AWS_ACCESS_KEY_ID`, a web identity, the role of the machine).",
    )
    secret_access_key: SecretStr = Field(SecretStr(""), description="Goes with `access_key_id`.")


class Snapshots(Section):
    """What is kept of sessions' folders."""

    keep: int = Field(
        3, ge=2, le=1000, description="How many of one session stay, besides those that checkpoints need."
    )
    max_entries: int = Field(
        200_000, ge=1000, le=5_000_000, description="Files, folders and links that one session may keep."
    )
    max_mb: int = Field(20_480, ge=1, le=1 << 24, description="What is in them, in MiB.")


class BundleSettings(Section):
    """Sessions that are exported to a file, or imported from one."""

    max_mb: int = Field(20_480, ge=1, le=1 << 20, description="What one bundle may hold, unpacked, in MiB.")
    max_members: int = Field(250_000, ge=100, le=2_000_000, description="Files, folders and links in it.")
    max_ratio: int = Field(
        1_000, ge=10, le=1_000_000, description="How much smaller it may be than what is in it, beyond 256 MiB."
    )


class Sessions(Section):
    """How large one session may grow. What is full takes no more messages, and says how to go on."""

    max_events: int = Field(200_000, ge=100, le=10_000_000, description="Events of one session.")
    max_log_mb: int = Field(512, ge=1, le=1 << 20, description="What they say, in MiB.")
    max_transcript_mb: int = Field(
        512, ge=1, le=1 << 20, description="What `claude` remembers of one session, sub-agents included, in MiB."
    )
    max_cut_mb: int = Field(
        256,
        ge=1,
        le=1 << 20,
        description="What a session has cut off by going back and can still come back to, in MiB.",
    )
    max_egress_decisions: int = Field(
        1_000_000,
        ge=1000,
        le=1 << 30,
        description="Requests to the network of one session, allowed or denied, that are written down. Then it gets "
        "none.",
    )


class Retention(Section):
    """What is removed after how many days. 0: never. A workspace may have days of its own."""

    every_minutes: int = Field(
        60, ge=0, le=10_080, description="How often to look for what is over, and to take figures. 0: never by itself."
    )
    archived_sessions_days: int = Field(
        0, ge=0, le=36_500, description="Sessions with everything that belongs to them, after they were archived."
    )
    automatic_checkpoints_days: int = Field(
        0, ge=0, le=36_500, description="Checkpoints that nobody asked for by hand."
    )
    archived_logs_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description="Events and transcripts of sessions without a checkpoint, after they were archived. "
        "The session and its bill stay.",
    )
    archived_files_days: int = Field(
        0, ge=0, le=36_500, description="Snapshots of the folders of sessions, after they were archived."
    )
    cut_entries_days: int = Field(
        30,
        ge=0,
        le=36_500,
        description="What sessions cut off of their transcripts by going back, and no checkpoint leads to. Harmless.",
    )
    compaction_archives_days: int = Field(
        0, ge=0, le=36_500, description="What conversations were before they were compacted."
    )
    outputs_days: int = Field(0, ge=0, le=36_500, description="Files that sessions have put out.")
    ephemeral_outputs_days: int = Field(
        0, ge=0, le=36_500, description="Files that sessions of the pattern `ephemeral` have put out."
    )
    egress_decisions_days: int = Field(
        0, ge=0, le=36_500, description="Where sessions went in the network, and what was denied."
    )
    credential_uses_days: int = Field(
        0, ge=0, le=36_500, description="What became of placeholders of vaults' variables."
    )
    audit_entries_days: int = Field(0, ge=0, le=36_500, description="Entries of the audit log.")
    webhook_deliveries_days: int = Field(
        30, ge=0, le=36_500, description="The log of webhook deliveries that have ended. Harmless."
    )
    work_items_days: int = Field(
        0, ge=0, le=36_500, description="Work items of self-hosted environments that have stopped."
    )
    previews_days: int = Field(1, ge=0, le=36_500, description="Links to ports that have expired. Harmless.")


class Turns(Section):
    """When a turn has gone on for long enough, unless its environment says otherwise."""

    max_turns: int = Field(500, ge=1, description="Model requests of one turn.")
    turn_seconds: float = Field(4 * 3600.0, gt=0, description="Running time of one turn, in seconds.")
    idle_timeout_seconds: float = Field(60.0, ge=0, description="How long an idle session keeps its process.")
    background_seconds: float = Field(
        600.0, ge=0, description="How much longer programs that were left running keep an idle session's process."
    )
    health_seconds: float = Field(
        30.0, gt=0, description="How often a process of the pattern `long_running` is looked at between turns."
    )
    interrupt_grace_seconds: float = Field(10.0, gt=0, description="After that an interrupted process is killed.")


class Compaction(Section):
    """What is kept of conversations that were compacted."""

    session_archive_mb: int = Field(1024, ge=1, le=1 << 20, description="Archives of one session, compressed, in MiB.")
    workspace_archive_mb: int = Field(
        20_480, ge=1, le=1 << 24, description="Archives of one workspace, compressed, in MiB."
    )
    when_full: Literal["remove_oldest", "refuse"] = Field(
        "remove_oldest", description="`refuse`: nothing is compacted any more until there is room."
    )
    look_seconds: float = Field(30.0, gt=0, description="How often to look for sessions that are due by a schedule.")


class Webhooks(Section):
    """Where webhooks may be sent."""

    allow_http: bool = Field(False, description="Also to http:// addresses: for a network of your own.")
    private_allowed: tuple[str, ...] = Field(
        (), description="Addresses or networks that are not public and may be told all the same, such as 10.1.0.0/16."
    )
    most_endpoints: int = Field(20, ge=1, description="Endpoints of one workspace.")
    deadline_seconds: float = Field(15.0, gt=0, description="After that an endpoint has not answered.")
    retry_seconds: float = Field(5.0, gt=0, description="Pause before the second of three attempts.")
    disable_after: int = Field(20, ge=1, description="Failed deliveries in a row after which an endpoint is disabled.")


class Worker(Section):
    """The part that runs sessions."""

    name: str = Field(
        "", description="Its name in the store. Two must not share one. Empty: one made for the state folder."
    )
    slots: int = Field(16, ge=1, le=1000, description="Sessions with a process at the same time.")
    poll_seconds: float = Field(
        2.0, gt=0, description="How often to look for sessions that nothing told of, such as those of a dead worker."
    )
    lease_seconds: float = Field(15.0, ge=1, description="After that long without news a worker counts as dead.")
    drain_seconds: float = Field(30.0, ge=0, description="How long running turns may go on after the first SIGTERM.")
    cache_mb: int = Field(
        20_480,
        ge=0,
        le=1 << 30,
        description="Room for the files of sessions that nobody is in, in MiB. What is over is removed, used longest "
        "ago first, once it is in the object store; the same when the disk has less than 5 % free.",
    )
    cache_look_seconds: float = Field(60.0, gt=0, description="How often that is looked at.")


class Admission(Section):
    """When a session that has something to do gets a process, and how long it waits for one."""

    notice_seconds: float = Field(1.0, gt=0, description="A session that waits for longer says so.")
    hold_seconds: float = Field(
        10.0,
        ge=0,
        description="A session whose messages follow each other at once keeps its process for this long while others "
        "wait for one.",
    )
    longest_wait_seconds: float = Field(
        600.0, gt=0, description="After that a turn that waits for a process ends with an error."
    )
    memory_mb: int = Field(
        0,
        ge=0,
        le=1 << 26,
        description="Memory that sandboxes may use together, in MiB. 0: what the host has, or the control group that "
        "the server is in.",
    )
    reserve_mb: int = Field(
        0,
        ge=0,
        le=1 << 24,
        description="Memory that stays free, in MiB: below it no process is begun, and idle ones are ended. 0: a "
        "twentieth of all, and at least 128.",
    )


class Spares(Section):
    """Started sandboxes for sessions of environments with `hosting.spares`."""

    most: int = Field(16, ge=0, le=1000, description="On this server, of all environments together. 0: none.")
    keep_seconds: float = Field(
        1800.0, gt=0, description="Spares that no session has asked for in this time end, in seconds."
    )
    rest_seconds: float = Field(
        30.0,
        ge=0,
        description="A spare that has waited for this long is stopped: from then on it takes no processor time, and "
        "some tens of milliseconds more when a session gets it.",
    )
    free_memory_mb: int = Field(
        512,
        ge=0,
        le=1 << 30,
        description="With less memory than this for new sessions there are no spares, in MiB.",
    )


class Queue(Section):
    """The work queue of self-hosted environments."""

    lease_seconds: int = Field(
        300, ge=2, le=3600, description="After that long without a heartbeat a worker has lost its session, in seconds."
    )
    release_idle_seconds: float = Field(
        75.0, ge=1, description="A worker is asked to leave a session that has been idle for this long, in seconds."
    )


class Quotas(Section):
    """How much one workspace may have, unless it has limits of its own. 0: what the preset says."""

    preset: Literal["unlimited", "contract"] = Field(
        "unlimited", description="`contract`: 300 changing and 1,200 reading requests a minute. `unlimited`: no limits."
    )
    create_requests_per_minute: int = Field(0, ge=0, description="Requests that change something (POST, DELETE).")
    read_requests_per_minute: int = Field(0, ge=0, description="Requests that read (GET), opened streams included.")
    sessions_per_day: int = Field(0, ge=0, description="Sessions made on one day (UTC).")
    live_sessions: int = Field(0, ge=0, description="Sessions that are not archived.")
    storage_bytes: int = Field(0, ge=0, description="Bytes of files, and of memories with their versions.")


class Settings(Section):
    """Everything."""

    state_dir: Path = Field(description="Folder for the database, workspaces and sockets of this host.")
    organization_id: str = Field("org_hostler", description="Shown in response headers; clients put it in traces.")
    server: Server = Server()
    store: Store = Store()
    model: Model = Model()
    upstreams: UpstreamList = Field(
        (), description="Who is asked for models, in place of `model`: a list of tables, `[[upstreams]]`, see below."
    )
    attempts: Attempts = Attempts()
    models: Models = Models()
    prices: Prices = Prices()
    routing: Routing = Routing()
    sandbox: Sandbox = Sandbox()
    presets: Presets = Presets()
    claude: Claude = Claude()
    files: Files = Files()
    egress: Egress = Egress()
    packages: Packages = Packages()
    images: Images = Images()
    secrets: Secrets = Secrets()
    audit: Audit = Audit()
    previews: Previews = Previews()
    objects: Objects = Objects()
    snapshots: Snapshots = Snapshots()
    bundles: BundleSettings = BundleSettings()
    sessions: Sessions = Sessions()
    retention: Retention = Retention()
    turns: Turns = Turns()
    compaction: Compaction = Compaction()
    webhooks: Webhooks = Webhooks()
    worker: Worker = Worker()
    admission: Admission = Admission()
    guards: GuardSettings = GuardSettings()
    metrics: MetricSettings = MetricSettings()
    spares: Spares = Spares()
    queue: Queue = Queue()
    quotas: Quotas = Quotas()
    rates: Rates = Rates()
    telemetry: Telemetry = Telemetry()
    logs: Logs = Logs()

    @property
    def store_url(self) -> str:
        return self.store.url or f"sqlite:///{self.state_dir / 'hostler.db'}"

    @property
    def secrets_known(self) -> tuple[str, ...]:
        """Every secret in here, and in what follows from it: for those who must not show them."""
        return tuple(secret for secret in _secrets_in(self) if len(secret) >= _SHORTEST_SECRET)

    @property
    def upstream_key(self) -> str:
        """The key for the model; empty means that the rehearsal model answers."""
        return "" if self.model.rehearse else self.model.api_key.get_secret_value()

    @property
    def rehearsing(self) -> bool:
        """Whether the rehearsal model answers: when asked for, or when there is neither a key nor a server of yours."""
        own_server = self.model.base_url != Model.model_fields["base_url"].default
        return self.model.rehearse or not (self.upstreams or self.upstream_key or own_server)

    @model_validator(mode="after")
    def _one_list_of_upstreams(self) -> Settings:
        different_names(self.upstreams)
        plain = Model()
        if self.upstreams and (self.model.base_url, self.model.auth) != (plain.base_url, plain.auth):
            raise ValueError("model.base_url and model.auth say nothing where there are upstreams: make it one of them")
        return self


def _secrets_in(section: BaseModel) -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, SecretStr):
                secret = one.get_secret_value()
                yield secret
                yield from (unquote(part.partition("=")[2]) for part in secret.split(","))  # headers have one each
            elif isinstance(one, BaseModel):
                yield from _secrets_in(one)
    if isinstance(section, Store):
        yield unquote(urlsplit(section.url).password or "")


def default_state_dir(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/root")) / ".local" / "state")
    return Path(base) / "hostler"


def load(environ: Mapping[str, str] | None = None, file: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings. `overrides` are dotted names with `__`, as the command line gives them; None is left out.

    Raises InvalidRequest that names the option and what it may be.
    """
    env = os.environ if environ is None else environ
    tree: dict[str, Any] = {"state_dir": str(default_state_dir(env))}
    path = file or (Path(env["HOSTLER_CONFIG"]) if env.get("HOSTLER_CONFIG") else None)
    if path is not None:
        try:
            _merge(tree, tomllib.loads(path.read_text()))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InvalidRequest(f"configuration file {path}: {error}") from error
    if env.get("ANTHROPIC_API_KEY"):
        _merge(tree, {"model": {"api_key": env["ANTHROPIC_API_KEY"], **tree.get("model", {})}})
    for name, value in env.items():
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            _put(tree, name.removeprefix(PREFIX).lower(), value)
    for name, value in overrides.items():
        if value is not None:
            _put(tree, name, value)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        option = ".".join(str(part) for part in found["loc"]) or "upstreams"
        raise InvalidRequest(f"option {option}: {_said(found)} (see docs/reference/configuration.md)") from None
    return settings.model_copy(update={"state_dir": settings.state_dir.expanduser().resolve()})


def _said(finding: ErrorDetails) -> str:
    """What is wrong, in words about options: the validator's own are about its models."""
    context = finding.get("ctx", {})
    match finding["type"]:
        case "extra_forbidden":
            return "there is no such option"
        case "missing":
            return "is needed"
        case "union_tag_invalid":
            return f"has kind {context.get('tag')!r}; use one of {context.get('expected_tags')}"
        case "union_tag_not_found":
            return "needs a kind"
        case _:
            return finding["msg"].removeprefix("Value error, ")


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.split("__")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = [part for part in value.split(",") if part] if name in _LISTS and isinstance(value, str) else value


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
