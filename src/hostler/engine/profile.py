"""What does an agent's definition mean for a run? From the session's snapshots to tools, policies, limits and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hostler.domain.compaction import Compaction
from hostler.domain.ids import derived_uuid
from hostler.domain.isolation import SANDBOX_LIMITS, Pattern
from hostler.domain.packages import PackageLists
from hostler.engine.egress_port import EgressRules, HostRule, McpRoute
from hostler.engine.hosted_tools import HOSTED_TOOLS
from hostler.engine.mcp import aliases, harness_servers, routes
from hostler.engine.models import spellings
from hostler.engine.permissions import Permissions, permissions
from hostler.engine.placement import Needs, PresetTerms
from hostler.engine.runs import CustomTool, McpServer, RunSpec
from hostler.engine.sandbox_port import SandboxLimits


def pattern_of(environment: Mapping[str, Any]) -> Pattern:
    """How long the process of a session lives, by the snapshot of its environment."""
    hosting = (environment.get("config") or {}).get("hosting") or {}
    pattern: Pattern = hosting.get("pattern") or "hybrid"
    return pattern


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """When a turn has gone on for long enough."""

    max_requests: int = 500
    """Model requests of one turn."""
    seconds: float = 4 * 3600.0
    """Running time of one turn, waits for people not counted."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything that a worker needs to know of one session's agent and environment."""

    model: str
    effort: str | None
    system: str | None
    permissions: Permissions
    custom_tools: tuple[CustomTool, ...]
    egress: EgressRules
    sandbox_limits: SandboxLimits
    turn_limits: TurnLimits
    idle_timeout_seconds: float | None
    """None: the process stays however long nothing happens."""
    pattern: Pattern = "hybrid"
    self_hosted: bool = False
    """True: a worker of the user's own runs the tools that touch files and run commands."""
    mcp_servers: tuple[McpServer, ...] = ()
    mcp_routes: tuple[McpRoute, ...] = ()
    needs: Needs = field(default_factory=Needs)
    """What it asks of the place that it runs in."""
    cli_version: str | None = None
    """Of `claude`. None: the bundled one."""
    packages: PackageLists = field(default_factory=PackageLists)
    """What is installed for the sandbox."""
    compaction: Compaction | None = None
    """How its agent wants the context shortened. None: as the harness does by itself."""
    attached: str = ""
    """What is laid out for the session: a process that was started for something else has to go."""
    spares: int = field(default=0, compare=False)
    """How many started sandboxes are kept ready for its environment's new sessions."""

    @property
    def model_names(self) -> frozenset[str]:
        """The model as requests name it."""
        return spellings(self.model)

    @property
    def custom_names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.custom_tools)

    @property
    def hosted_names(self) -> frozenset[str]:
        """The enabled built-in tools that a worker of a self-hosted environment runs."""
        return frozenset(HOSTED_TOOLS).intersection(self.permissions.builtin) if self.self_hosted else frozenset()

    @property
    def native_names(self) -> tuple[str, ...]:
        """The enabled built-in tools that the harness itself runs."""
        return tuple(name for name in self.permissions.builtin if name not in self.hosted_names)

    @property
    def one_call_at_a_time(self) -> bool:
        """True when a call may have to wait for somebody: then no two calls may be under way at once."""
        return bool(self.custom_tools) or bool(self.hosted_names) or self.permissions.can_wait

    def run_spec(self, session_id: str, *, resume: bool, settings: Mapping[str, str]) -> RunSpec:
        hosted = self.hosted_names
        return RunSpec(
            transcript_id=transcript_id(session_id),
            resume=resume,
            model=self.model,
            effort=self.effort,
            system=self.system,
            tools=self.native_names,
            custom_tools=(*(tool for name, tool in HOSTED_TOOLS.items() if name in hosted), *self.custom_tools),
            mcp_servers=self.mcp_servers,
            hidden_tools=tuple(
                (alias, key)
                for alias, server in self.permissions.servers.items()
                for key, (_, rule) in server.tools.items()
                if not rule.enabled
            ),
            plan_only=self.permissions.mode == "plan",
            compact_at_tokens=None if self.compaction is None else self.compaction.threshold_tokens,
            compact_at_percent=None if self.compaction is None else self.compaction.threshold_percent,
            settings=settings,
        )


def transcript_id(session_id: str) -> str:
    """The UUID under which the harness knows the session's conversation."""
    return derived_uuid("transcript", session_id)


def profile(
    agent: Mapping[str, Any],
    environment: Mapping[str, Any],
    *,
    idle_timeout_seconds: float,
    sandbox_limits: SandboxLimits,
    turn_limits: TurnLimits,
    presets: PresetTerms | None = None,
    attached: str = "",
    told: str | None = None,
) -> Profile:
    """Read the snapshots of a session. The keyword arguments are what counts where the environment says nothing.

    `told` is what the model is told besides the agent's own system prompt.
    """
    model = agent["model"]
    config = environment["config"]
    self_hosted = config["type"] == "self_hosted"
    presets = presets or PresetTerms()
    preset = environment.get("preset") or presets.default
    production = preset == "production"
    asks = production and presets.approvals == "required"
    rules = replace(permissions(agent, aliases(agent)), writing_asks=asks)
    effort = model.get("effort")
    limits = config.get("limits") or {}
    hosting = config.get("hosting") or {}
    pattern = pattern_of(environment)
    idle = hosting.get("idle_timeout_seconds")  # null when the environment says nothing
    return Profile(
        model=model["id"],
        effort=effort.get("type") if isinstance(effort, Mapping) else effort,
        system="\n\n".join(text for text in (agent.get("system"), told) if text) or None,
        permissions=rules,
        custom_tools=tuple(
            CustomTool(tool["name"], tool["description"], tool["input_schema"])
            for tool in agent.get("tools") or ()
            if tool["type"] == "custom"
        ),
        egress=_egress_of_web_tools(rules, production) if self_hosted else egress_rules(config.get("networking")),
        sandbox_limits=_sandbox_limits(limits, sandbox_limits),
        turn_limits=TurnLimits(
            limits.get("max_turns") or turn_limits.max_requests, limits.get("turn_seconds") or turn_limits.seconds
        ),
        idle_timeout_seconds=_idle_timeout(pattern, idle_timeout_seconds if idle is None else idle),
        pattern=pattern,
        self_hosted=self_hosted,
        needs=Needs(
            preset,
            (config.get("isolation") or {}).get("technology"),
            frozenset(name for name in SANDBOX_LIMITS if limits.get(name) is not None),
        ),
        cli_version=hosting.get("cli_version"),
        mcp_servers=harness_servers(agent),
        mcp_routes=routes(agent),
        packages=PackageLists.model_validate(config.get("packages") or {}),
        compaction=None if agent.get("compaction") is None else Compaction.model_validate(agent["compaction"]),
        attached=attached,
        spares=hosting.get("spares") or 0,
    )


def _idle_timeout(pattern: Pattern, seconds: float) -> float | None:
    return {"ephemeral": 0.0, "hybrid": seconds, "long_running": None}[pattern]


def _egress_of_web_tools(rules: Permissions, production: bool) -> EgressRules:
    """In a self-hosted environment nothing else runs beside the harness, so nothing else may reach out.

    It has no list of hosts, and production takes no network without one.
    """
    open_ = "web_fetch" in rules.builtin and not production
    return EgressRules("public") if open_ else EgressRules("listed", mcp_servers=True)


def egress_rules(networking: Mapping[str, Any] | None) -> EgressRules:
    """What the `networking` of an environment, as it is stored, allows."""
    if networking is not None and networking["type"] == "limited":
        hosts = tuple(networking.get("allowed_hosts") or ())
        return EgressRules(
            "listed",
            hosts,
            mcp_servers=bool(networking.get("allow_mcp_servers")),
            rules=tuple(
                HostRule(
                    rule["host"],
                    frozenset(rule.get("ports") or ()),
                    frozenset(rule.get("methods") or ()),
                    tuple(rule.get("paths") or ()),
                )
                for rule in networking.get("rules") or ()
            ),
            package_managers=bool(networking.get("allow_package_managers")),
        )
    return EgressRules("public")


def _sandbox_limits(limits: Mapping[str, Any], default: SandboxLimits) -> SandboxLimits:
    memory, disk = limits.get("memory_mb"), limits.get("disk_mb")
    return replace(
        default,
        memory_bytes=memory << 20 if memory else default.memory_bytes,
        cpus=limits.get("cpus") or default.cpus,
        pids=limits.get("pids") or default.pids,
        disk_bytes=disk << 20 if disk else default.disk_bytes,
        open_files=limits.get("open_files") or default.open_files,
    )
