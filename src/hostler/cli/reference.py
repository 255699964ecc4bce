"""Which pages of the reference come from the code? Those of the command line and of the configuration.

`python -m hostler.cli.reference` writes them below `docs/reference`; with `--check` it only says which are stale, with
exit code 1. Run it from the top of the repository, as `scripts/generate-docs` does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from hostler.cli.main import app
from hostler.config import PREFIX, Settings
from hostler.config.upstreams import KINDS

FOLDER = Path("docs/reference")
_NOTE = "<!-- Made by scripts/generate-docs. Change the code, not this page. -->\n"

_KEY = (
    '"id", "type": "api_key", "name", "workspace_id", "scopes": [], "hint", "created_at", "expires_at", '
    '"last_used_at", "revoked_at"'
)
_WORKSPACE = '"id", "type": "workspace", "name", "created_at", "archived_at"'
_IMAGE = '"digest", "current", "suite", "built_at", "packages", "bytes", "rootfs"'
_LAYER = '"key", "image", "packages", "built_at", "bytes", "entries"'
_ENVIRONMENT_KEY = '"id", "type", "environment_id", "name", "hint", "created_at", "last_used_at", "revoked_at"'

_CHECKPOINT = (
    '"id", "type": "checkpoint", "session_id", "name", "reason", "created_at", "seq", "events", "transcript_entries", '
    '"snapshot_id", "memories", "stop_reason", "agent_version", "usage"'
)
_RETENTION = (
    '"type": "retention", "workspace_id", "every_seconds", "policies": [{"name", "removes", "days", "default_days", '
    '"overridden"}, …], "never_removed": []'
)
_USAGE = (
    '"type": "usage", "group": {}, "requests", "input_tokens", "output_tokens", "cache_read_input_tokens", '
    '"cache_creation_5m_input_tokens", "cache_creation_1h_input_tokens", "web_search_requests", "unpriced_requests", '
    '"result_bytes", "active_seconds", "model_cost_usd", "runtime_cost_usd", "list_cost_usd"'
)
_MISMATCH = '"id", "type": "usage_mismatch", "session_id", "kind", "details": {}, "created_at"'
_PRICES = (
    '"type": "prices", "version", "runtime_usd_per_hour", "models": [{"model", "from", "input", "output", '
    '"cache_read", "cache_write_5m", "cache_write_1h", "long_above", "long", "source"}, …], '
    '"server_tools": [{"tool", "from", "usd_per_1000", "source"}, …], "sources": {}'
)
_RATES = (
    '"type": "rate_limits", "workspace_id", "limits": {"requests_per_minute", "input_tokens_per_minute", '
    '"output_tokens_per_minute"}, "agents": [{"agent_id", "limits"}, …], "buckets": [{"scope", "upstream", "model", '
    '"workspace_id", "agent_id", "kind", "per_minute", "configured", "learned", "learned_at", "capacity", "level", '
    '"closed_until"}, …], "complete", "waiting": [{"upstream", "workspace_id", "requests", "longest_seconds"}, …]'
)
_RUN = (
    '"id", "type": "retention_run", "workspace_id", "dry_run", "cause", "actor_id", "state", "reason", "counted_from", '
    '"removed": [{"policy", "days", "items", "bytes", "oldest", "sample": []}, …], "items", "bytes", "created_at", '
    '"ended_at"'
)
_WEBHOOK = (
    '"id", "type": "webhook_endpoint", "url", "name", "description", "enabled_events", "state", "disabled_reason", '
    '"consecutive_failures", "old_secret_expires_at", "created_at", "updated_at"'
)
_BUDGET = (
    '"id", "type": "budget", "scope", "agent_id", "period", "month", "limit": {"amount", "currency"}, "spent_nanos", '
    '"uncertain_nanos", "reserved_nanos", "available_nanos", "warn_at": [], "warned_at", "paused_sessions", '
    '"created_at", "updated_at"'
)
_PREVIEW = '"id", "type": "preview", "session_id", "port", "url", "created_at", "expires_at", "revoked_at"'
_DELIVERY = (
    '"id", "type": "webhook_delivery", "endpoint_id", "event_id", "event_type", "state", "test", "next_attempt_at", '
    '"attempts": [{"number", "at", "status", "error", "latency_ms"}, …], "created_at"'
)

SHAPES: dict[str, str] = {
    "hostler serve": '`{"type": "serving", "base_url", "model": {"rehearsal", "base_url", "upstreams": '
    '[{"name", "kind"}, …]}, "isolation": {"technology", "host_user", "limits_by", "missing": []}, "state_dir"}`, one '
    "line, as soon as it listens. Logs are JSON lines on "
    "standard error.",
    "hostler start": "The line of `hostler serve`; then one line for each event of the demo session, as the API "
    'shows it; at its end `{"type": "demo.result", "session_id", "stop_reason", "usage", "ok"}`.',
    "hostler run": "One line for each event, as the API shows it; at the end "
    '`{"type": "run.result", "session_id", "stop_reason", "usage", "ok"}`.',
    "hostler sessions list": '`{"sessions": [<session of the API>, …]}`, newest first.',
    "hostler sessions show": "The session, as the API shows it.",
    "hostler sessions tail": 'One line for each event: `{"seq", "event": <event of the API>}`. `seq` is null for input '
    "that still waits for its turn.",
    "hostler sessions denials": '`{"denials": [{"method", "host", "port", "path", "reason", "hint", "allow", "count", '
    '"last_at"}, …]}`, the newest first; alike ones are one.',
    "hostler sessions checkpoints": f'`{{"checkpoints": [{{{_CHECKPOINT}}}, …]}}`, newest first; with `--delete`, '
    '`{"id", "type": "checkpoint_deleted"}`.',
    "hostler sessions checkpoint": f"`{{{_CHECKPOINT}}}`",
    "hostler sessions rewind": '`{"id", "type": "rewind", "session_id", "checkpoint_id", "left_checkpoint_id", '
    '"from_seq", "to_seq", "memories": {"restored": [], "left": []}, "created_at"}`.',
    "hostler sessions fork": "The new session, as the API shows it, with `forked_from`.",
    "hostler sessions diff": '`{"type": "session_diff", "session_id", "from", "to", "events", "files", "memories", '
    '"cost", "text"}`.',
    "hostler sessions export": '`{"session_id", "file", "bytes", "digest"}`',
    "hostler sessions import": '`{"type": "session_import", "id", "digest", "session": <session of the API>, '
    '"created": [id, …], "left": [{"type", "id", "message"}, …]}`.',
    "hostler sessions verify-bundle": '`{"file", "digest", "producer", "session_id", "events", "files", "members", '
    '"bytes", "left_out"}`',
    "hostler sessions live": '`{"live": [{"type": "live_session", "session_id", "environment_id", "server", "since", '
    '"idle"}, …]}`, longest first.',
    "hostler sessions waiting": '`{"waiting": [{"type": "waiting_session", "session_id", "environment_id", "since", '
    '"reason": "environment_limit" | "server_limit" | "memory", "place", "limit", "message"}, …]}`, longest first.',
    "hostler sessions interrupt": '`{"id", "done": "interrupt"}`',
    "hostler sessions archive": '`{"id", "done": "archive"}`',
    "hostler sessions delete": '`{"id", "done": "delete"}`',
    "hostler sessions compact": "The compaction, as the API shows it: `waiting`, or with --wait how it ended.",
    "hostler sessions compactions": '`{"state": {"policy", "failures", "retry_at", "next_due_at", "last_due_at", '
    '"last", "archives", …}, "compactions": [<compaction of the API>, …]}`, newest first.',
    "hostler sessions archives": '`{"archives": [<archive of the API>, …]}`, newest first; with --archive or --search '
    '`{"entries": [{"archive_id", "number", "thread", "kind", "role", "at", "text", …}, …]}`.',
    "hostler storage": '`{"type": "storage", "workspace_id", "measured_at", "stores": [{"store", "rows", "bytes", '
    '"largest_session", "limit"}, …], "quota": {"storage_bytes", "used_bytes", "share"}, "installation"}`. '
    "`installation` has the sums of all workspaces, for an admin key of the default one.",
    "hostler usage": f'`{{"usage": [{{{_USAGE}}}, …], "more"}}`; with `--mismatches` '
    f'`{{"mismatches": [{{{_MISMATCH}}}, …]}}`. Dollars are texts with nine decimals.',
    "hostler prices": f"`{{{_PRICES}}}`",
    "hostler retention show": f"`{{{_RETENTION}}}`",
    "hostler retention set": f"`{{{_RETENTION}}}`, as it is from now on.",
    "hostler retention run": f"`{{{_RUN}}}`",
    "hostler retention history": f'`{{"runs": [{{{_RUN}}}, …]}}`, newest first.',
    "hostler limits show": f"`{{{_RATES}}}`",
    "hostler limits set": f"`{{{_RATES}}}`, as it is from now on.",
    "hostler key create": f'`{{{_KEY}, "secret"}}`',
    "hostler key list": f'`{{"keys": [{{{_KEY}}}, …]}}`',
    "hostler key revoke": "The key, as in the list.",
    "hostler environment list": '`{"environments": [<environment of the API>, …]}`, newest first.',
    "hostler environment key create": f'`{{{_ENVIRONMENT_KEY}, "secret"}}`',
    "hostler environment key list": f'`{{"keys": [{{{_ENVIRONMENT_KEY}}}, …]}}`',
    "hostler environment key revoke": "The key, as in the list.",
    "hostler environment build": f'`{{"environment_id", "layer": {{{_LAYER}}}}}`; the layer is null without packages.',
    "hostler image build": f"`{{{_IMAGE}}}`",
    "hostler image list": f'`{{"images": [{{{_IMAGE}}}, …], "layers": [{{{_LAYER}}}, …]}}`',
    "hostler image remove": '`{"removed": "<digest>", "layers": ["<key>", …]}`',
    "hostler workspace create": f"`{{{_WORKSPACE}}}`",
    "hostler workspace list": f'`{{"workspaces": [{{{_WORKSPACE}}}, …]}}`',
    "hostler budget create": f"`{{{_BUDGET}}}`",
    "hostler budget list": f'`{{"budgets": [{{{_BUDGET}}}, …]}}`, newest first.',
    "hostler budget show": f"`{{{_BUDGET}}}`",
    "hostler budget change": f"`{{{_BUDGET}}}`",
    "hostler budget remove": '`{"id", "type": "budget_deleted"}`',
    "hostler webhook create": f'`{{{_WEBHOOK}, "signing_secret"}}`',
    "hostler webhook list": f'`{{"webhooks": [{{{_WEBHOOK}}}, …]}}`, newest first.',
    "hostler webhook test": f"`{{{_DELIVERY}}}`",
    "hostler webhook deliveries": f'`{{"deliveries": [{{{_DELIVERY}}}, …]}}`, newest first.',
    "hostler webhook rotate": f'`{{{_WEBHOOK}, "signing_secret"}}`',
    "hostler advise": '`{"pattern", "why", "environment"}`; `environment` is the body of a request that makes it. With '
    "`--create`: the environment as the API shows it.",
    "hostler sessions preview": f"`{{{_PREVIEW}}}`; `url` has the secret in it, this once.",
    "hostler sessions previews": f'`{{"previews": [{{{_PREVIEW}}}, …]}}`',
    "hostler sessions requests": '`{"requests": [<model request of the API>, …]}`, newest first. `cost_nanos` is in '
    "billionths of a US dollar, null where nobody knows the price.",
    "hostler routing explain": '`{"type": "routing_explanation", "requested_model", "model", "fallbacks", "rule", '
    '"why", "rules": [{"rule", "outcome", "why"}, …]}`',
    "hostler routing compare": '`{"type": "routing_comparison", "since", "until", "attempts", "complete", "recorded": '
    '{"attempts", "changed", "cost_nanos", "unpriced_attempts", "by_model", "by_rule"}, "sets": [as `recorded`, …], '
    '"without_tags", "caveat"}`',
    "hostler policy test": '`{"type": "policy_test", "environment_id", "since", "until", "networking", "would_block", '
    '"newly_allowed", "unknown", "unchanged": {"allowed", "denied"}, "complete"}`.',
    "hostler policy suggest": '`{"type": "policy_suggestion", "session_id", "environment_id", "networking", "folded", '
    '"unlisted", "covered", "denied", "complete"}`.',
    "hostler approvals": '`{"approvals": [{"type": "approval", "session_id", "session_title", "agent_id", "event_id", '
    '"kind": "confirmation" | "custom_tool", "tool_name", "input", "waiting_since", "age_seconds"}, …]}`',
    "hostler audit": '`{"audit": [{"id", "type": "audit_entry", "workspace_id", "actor": {"type", "id"}, "kind", '
    '"act", "target_id", "session_id", "details", "redacted", "seq", "hash", "created_at"}, …]}`',
    "hostler audit status": '`{"type": "audit_chain", "workspace_id", "first_seq", "seq", "hash", "checkpoint": '
    '{"workspace", "seq", "hash", "at", "signer", "signature"} | null, "signers": [{"id", "public_key", "created_at", '
    '"endorsed_by", "endorsement"}, …]}`',
    "hostler audit export": '`{"file", "workspace_id", "entries", "bytes", "anchor"}`',
    "hostler audit verify": '`{"intact", "workspace_id", "entries", "first_seq", "seq", "anchor", "checkpoints", '
    '"signed_seq", "rows", "unverifiable_rows", "signers": [{"id", "public_key"}, …], "pinned", "findings": [{"what", '
    '"where", "message"}, …], "more_findings"}`. The exit code is 1 unless it is intact.',
    "hostler audit redact": '`{"type": "audit_redaction", "workspace_id", "subject_id"}`',
    "hostler audit rotate-key": '`{"key", "public_key", "older": [id, …]}`',
    "hostler secrets status": '`{"keys": [{"id", "current", "here", "secrets"}, …]}`. `here`: whether this server has '
    "the key; `secrets`: how many are sealed with it.",
    "hostler secrets rotate": '`{"key", "rewrapped", "kept": [id, …]}`',
    "hostler secrets prune": '`{"removed": [id, …]}`',
    "hostler doctor": '`{"ok", "findings": [{"check", "verdict": "ok" | "off" | "warn" | "fail", "found", '
    '"advice"}, …], "rungs": {"gvisor": {"available", "why", "isolation"}, …}}`',
    "hostler rehearse": '`{"type": "serving", "base_url"}`, one line, as soon as it listens.',
    "hostler version": '`{"hostler", "claude", "agent_sdk", "client", "python"}`',
}
"""What `--json` prints, by command."""


def pages() -> dict[str, str]:
    """File name and content of every generated page."""
    return {"cli.md": cli_page(), "configuration.md": configuration_page()}


# -------------------------------------------------------------------------------------------------- the command line


def cli_page() -> str:
    lines = [
        "# Command line",
        _NOTE,
        "Exit codes: 0 it worked; 1 it failed; 2 the command or the configuration is wrong as it stands; 130 you "
        "interrupted it. An error is a message and the next command to try, on standard error; with `--json` it is "
        '`{"type": "error", "error": {"message", "next"}}`.',
        "",
        "Environment: `HOSTLER_URL` and `HOSTLER_API_KEY` name the server for `run` and `sessions`. Without them, the "
        "file `client.json` that a server leaves in its state folder (mode 0600) does. `HOSTLER_CONFIG` names the "
        "configuration file, `HOSTLER_STATE_DIR` the state folder; every other `HOSTLER_…` name is a "
        "[setting](configuration.md).",
    ]
    for name, command in _commands(typer.main.get_command(app), "hostler"):
        lines += ["", f"## {name}", "", *_paragraphs(command.help or "")]
        rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            lines += ["", "| | | default |", "|---|---|---|", *rows]
        if name in SHAPES:
            lines += ["", f"With `--json`: {SHAPES[name]}"]
    return "\n".join(lines) + "\n"


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        if command.invoke_without_command:
            yield name, command
        for part, inner in command.commands.items():
            yield from _commands(inner, f"{name} {part}")
    else:
        yield name, command


def _paragraphs(text: str) -> list[str]:
    paragraphs = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return "\n\n".join(paragraphs).split("\n")


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        shown = f"`{parameter.metavar}`"
    else:
        takes = "" if parameter.is_flag else f" {parameter.metavar or 'TEXT'}"
        shown = f"`{', '.join(parameter.opts)}{takes}`"
    repeated = " Can be given several times." if getattr(parameter, "multiple", False) else ""
    default = parameter.default
    quiet = default is None or default is False or callable(default) or parameter.required or default in ("", (), [])
    value = "" if quiet else f"`{default}`"
    return f"| {shown} | {_cell((parameter.help or '') + repeated)} | {value} |"


# -------------------------------------------------------------------------------------------------- the configuration


def configuration_page() -> str:
    lines = [
        "# Configuration",
        _NOTE,
        "Defaults, then a TOML file (`--config`, or `HOSTLER_CONFIG`), then the environment, then the command line. In "
        "the file, `server.port` is `port` in the table `[server]`; in the environment it is `HOSTLER_SERVER__PORT`. "
        "Unknown names are errors.",
        "",
        "```toml",
        'state_dir = "/var/lib/hostler"',
        "",
        "[server]",
        'host = "0.0.0.0"',
        'allowed_hosts = ["agents.example.com"]',
        "",
        "[store]",
        'url = "postgresql://hostler@db.example.com/hostler"',
        "```",
        *_section(Settings, ""),
        *_upstreams(),
    ]
    return "\n".join(lines) + "\n"


def _section(model: type[BaseModel], path: str) -> Iterator[str]:
    parts = {name: found for name, found in model.model_fields.items() if _model(found) is not None}
    rows = [_setting(f"{path}{name}", found) for name, found in model.model_fields.items() if name not in parts]
    title, said = (
        (f"{path.rstrip('.')}: ", model.__doc__ or "") if path else ("top level: ", "Everything else is below.")
    )
    yield from (
        "",
        f"## {title}{_lower(said.strip())}",
        "",
        "| option | type | default | |",
        "|---|---|---|---|",
        *rows,
    )
    for name, found in parts.items():
        inner = _model(found)
        assert inner is not None
        yield from _section(inner, f"{path}{name}.")


def _upstreams() -> Iterator[str]:
    yield from (
        "",
        "## upstreams: who is asked for models",
        "",
        "One table `[[upstreams]]` for each, with its `kind`. In the environment, `HOSTLER_UPSTREAMS` is a JSON list "
        "of objects. [How to use them](../how-to/use-other-upstreams.md).",
    )
    for kind in KINDS:
        (name,) = get_args(kind.model_fields["kind"].annotation)
        yield from ("", f'### kind = "{name}": {(kind.__doc__ or "").strip().rstrip(".")}', "")
        yield from ("| option | type | default | |", "|---|---|---|---|")
        for option, found in kind.model_fields.items():
            if option != "kind":
                default = found.get_default()
                shown = "required" if found.is_required() else f"`{default}`" if isinstance(default, int) else ""
                shown = f"`{default}`" if option == "auth" else shown
                yield f"| `{option}` | {_upstream_type(option, found)} | {shown} | {_cell(found.description or '')} |"


def _upstream_type(option: str, found: FieldInfo) -> str:
    return {"models": "table of text", "betas": "list of text"}.get(option) or _type(found)


def _model(found: FieldInfo) -> type[BaseModel] | None:
    kind = found.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _setting(path: str, found: FieldInfo) -> str:
    if path == "upstreams":
        return f"| `{path}`<br>`{PREFIX}UPSTREAMS` | list of tables | | {_cell(found.description or '')} |"
    variable = PREFIX + path.upper().replace(".", "__")
    if found.is_required():
        value = "`~/.local/state/hostler`"
    elif isinstance(found.default, SecretStr):
        value = ""
    else:
        value = f"`{found.default}`" if found.default not in ("", (), {}) else ""
    return f"| `{path}`<br>`{variable}` | {_type(found)} | {value} | {_cell(found.description or '')} |"


def _type(found: FieldInfo) -> str:
    kind = found.annotation
    choices = get_args(kind)
    if choices and all(isinstance(choice, str) for choice in choices):
        return " or ".join(f"`{choice}`" for choice in choices)
    if get_origin(kind) is dict:
        return "table of tables"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", SecretStr: "secret"}
    shown = names.get(kind, "list of text")  # type: ignore[arg-type]
    limits = []
    for limit in found.metadata:
        match limit:
            case Ge():
                limits.append(f"≥ {limit.ge}")
            case Gt():
                limits.append(f"> {limit.gt}")
            case Le():
                limits.append(f"≤ {limit.le}")
            case Lt():
                limits.append(f"< {limit.lt}")
    return " ".join([shown, ", ".join(limits)]).strip()


def _lower(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ------------------------------------------------------------------------------------------------------------ writing


def main(arguments: list[str]) -> int:
    stale = [
        name
        for name, content in pages().items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text("utf-8") != content
    ]
    if "--check" in arguments:
        for name in stale:
            print(f"{FOLDER / name} is stale; run scripts/generate-docs", file=sys.stderr)
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(pages()[name], "utf-8")
        print(f"wrote {FOLDER / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
