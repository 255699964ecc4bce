"""May a tool call run, and who is asked first? Policies and the permission mode of an agent in, an evaluation out.

A policy belongs to a tool, the mode to the agent. The mode can make an answer stricter, and it is the judge of `auto`
policies, for which this server has no other. It never opens what a policy says to ask about or to deny:

    policy ↓     default  acceptEdits         plan               dontAsk  auto  bypassPermissions
    always_allow  allow    allow              reading: allow      allow   allow  allow
    auto          ask      files: allow       reading: ask        deny    ask    allow
    always_ask    ask      ask                reading: ask        deny    ask    ask
    deny          deny     deny               deny                deny    deny   deny

In `plan` every other tool is denied, MCP tools too: what they do is known to nobody here. Custom tools are the
client's, under every mode: the client decides by answering or not.

The preset `production` is stricter than both: whatever isn't a reading tool asks a person where this table says allow
(`writing_asks`), so `always_allow` is the same as `always_ask` there, and `dontAsk` denies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hostler.domain.events import Body
from hostler.domain.tools import mcp_tool_key

BUILTIN_TOOLS = ("bash", "read", "write", "edit", "glob", "grep", "web_fetch", "web_search")
TOOLSET = "agent_toolset_20260401"
MCP_TOOLSET = "mcp_toolset"
FILE_TOOLS = frozenset({"read", "write", "edit", "glob", "grep"})
READING_TOOLS = frozenset({"read", "glob", "grep", "web_fetch", "web_search"})

Permission = Literal["allow", "ask", "deny"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is decided about a call."""

    permission: Permission
    body: Body | None
    """The wire's `evaluation`; None when the agent has no such tool, so that no policy applied."""
    message: str = ""
    """With `deny`: what the model is told."""


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What is said about one tool."""

    enabled: bool
    policy: str
    """`always_allow`, `always_ask`, `auto` or `deny`."""


@dataclass(frozen=True, slots=True)
class ServerRules:
    """What is said about the tools of one MCP server."""

    name: str
    """The server's name on the wire."""
    default: ToolRule
    tools: Mapping[str, tuple[str, ToolRule]] = field(default_factory=dict)
    """By `mcp_tool_key`: the tool's name as the agent has it, and its rule."""

    def of(self, tool: str) -> ToolRule:
        named = self.tools.get(mcp_tool_key(tool))
        return self.default if named is None else named[1]

    def tool_name(self, tool: str) -> str:
        """The tool's name on the wire: the harness may know it in another spelling."""
        named = self.tools.get(mcp_tool_key(tool))
        return tool if named is None else named[0]


@dataclass(frozen=True, slots=True)
class Permissions:
    """The rules of one agent."""

    mode: str = "default"
    builtin: Mapping[str, str] = field(default_factory=dict)
    """Enabled built-in tools by wire name, with their policy."""
    servers: Mapping[str, ServerRules] = field(default_factory=dict)
    """By the alias under which the harness knows the server."""
    writing_asks: bool = False
    """Whether a person is asked about every call that could change something, whatever the policy of its tool is."""

    def evaluate(self, name: str, server: str | None = None) -> Evaluation:
        """A call of the built-in tool `name`, or of that tool of the MCP server with the alias `server`."""
        policy = self._policy(name, server)
        if policy is None:
            return Evaluation("deny", None, f"This agent has no tool {name}.")
        return self._judged(policy, None if server else name)

    def offers(self, name: str, server: str) -> bool:
        """Whether the model may be shown this tool of an MCP server."""
        rules = self.servers.get(server)
        return rules is not None and rules.of(name).enabled

    @property
    def can_wait(self) -> bool:
        """Whether any call may have to wait for somebody."""
        if any(self._judged(policy, name).permission == "ask" for name, policy in self.builtin.items()):
            return True
        rules = [rule for server in self.servers.values() for rule in (server.default, *_rules(server))]
        return any(rule.enabled and self._judged(rule.policy, None).permission == "ask" for rule in rules)

    def _policy(self, name: str, server: str | None) -> str | None:
        if server is None:
            return self.builtin.get(name)
        rules = self.servers.get(server)
        if rules is None:
            return None
        rule = rules.of(name)
        return rule.policy if rule.enabled else None

    def _judged(self, policy: str, builtin: str | None) -> Evaluation:
        """`builtin`: the name of a built-in tool; None for a tool of an MCP server."""
        judged = self._by_policy(policy, builtin)
        if judged.permission == "allow" and self.writing_asks and builtin not in READING_TOOLS:
            return self._by_policy("always_ask", builtin)
        return judged

    def _by_policy(self, policy: str, builtin: str | None) -> Evaluation:
        if policy == "deny":
            judgement = {"type": "deny", "reason_code": "policy"}
            return Evaluation(
                "deny",
                {"type": "auto", "evaluated_permission": judgement},
                "The policy of this agent denies this tool.",
            )
        if self.mode == "plan" and builtin not in READING_TOOLS:
            text = "This agent only plans: it may read and search, and nothing else."
            return _evaluated(policy, "deny", "plan_mode", text)
        if policy == "always_allow":
            return _evaluated(policy, "allow")
        if self.mode == "dontAsk":
            text = "This call would need somebody's permission, and this agent doesn't ask for any."
            return _evaluated(policy, "deny", "dont_ask_mode", text)
        if policy == "auto" and (
            self.mode == "bypassPermissions" or (self.mode == "acceptEdits" and builtin in FILE_TOOLS)
        ):
            return _evaluated(policy, "allow")
        return _evaluated(policy, "ask", "indeterminate")


def _rules(server: ServerRules) -> list[ToolRule]:
    return [rule for _, rule in server.tools.values()]


def _evaluated(policy: str, permission: Permission, reason: str = "", message: str = "") -> Evaluation:
    body: Body = {"type": policy}
    if policy == "auto":
        judgement = {"type": permission}
        body["evaluated_permission"] = judgement if permission == "allow" else {**judgement, "reason_code": reason}
    return Evaluation(permission, body, message)


def permissions(agent: Mapping[str, Any], aliases: Mapping[str, str]) -> Permissions:
    """The rules that a session's snapshot of an agent holds. `aliases`: of its MCP servers, by name."""
    builtin: dict[str, str] = {}
    servers: dict[str, ServerRules] = {}
    for toolset in agent.get("tools") or ():
        default = _rule(toolset.get("default_config") or {}, ToolRule(True, _DEFAULT.get(toolset["type"], "")))
        configs = {config["name"]: _rule(config, default) for config in toolset.get("configs") or ()}
        if toolset["type"] == TOOLSET:
            rules = {name: configs.get(name, default) for name in BUILTIN_TOOLS}
            builtin |= {name: rule.policy for name, rule in rules.items() if rule.enabled}
        elif toolset["type"] == MCP_TOOLSET:
            name = toolset["mcp_server_name"]
            named = {mcp_tool_key(tool): (tool, rule) for tool, rule in configs.items()}
            servers[aliases[name]] = ServerRules(name, default, named)
    return Permissions(agent.get("permission_mode") or "default", builtin, servers)


_DEFAULT = {TOOLSET: "always_allow", MCP_TOOLSET: "always_ask"}


def _rule(config: Mapping[str, Any], default: ToolRule) -> ToolRule:
    enabled, policy = config.get("enabled"), config.get("permission_policy")
    kind = default.policy if policy is None else "deny" if policy.get("verdict") == "deny" else policy["type"]
    return ToolRule(default.enabled if enabled is None else enabled, kind)


__all__ = ["BUILTIN_TOOLS", "Evaluation", "Permission", "Permissions", "ServerRules", "ToolRule", "permissions"]
