"""What is an environment: where sessions run, what they may reach and use."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from hostler.domain.agents import AgentName
from hostler.domain.errors import InvalidRequest
from hostler.domain.values import Items, Metadata, MetadataPatch, Text, Value, problem

MAX_ENVIRONMENT_DESCRIPTION: Final = 2_048
MAX_ALLOWED_HOSTS: Final = 256
PACKAGE_MANAGERS: Final = ("apt", "cargo", "gem", "go", "npm", "pip")

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PRIVATE_SUFFIXES = ("localhost", "local", "internal", "lan", "home.arpa", "localdomain")


def host_rule(rule: str) -> str:
    """`rule` in the one form that is compared: lower case. Raises a problem when it is not a plain name or `*.name`.

    A rule that could be read in two ways is refused rather than repaired (A2, A3): ports, paths, addresses, a
    trailing dot and characters outside ASCII have each been a way around somebody's allow-list.
    """
    name = rule.lower()
    if "://" in name:
        raise problem(f"has {rule!r}, which names a scheme; give the bare host name")
    if "/" in name or "?" in name or "#" in name:
        raise problem(f"has {rule!r}, which names a path; give the bare host name")
    if "@" in name:
        raise problem(f"has {rule!r}, which names a user; give the bare host name")
    bare = name.removeprefix("*.")
    try:
        ipaddress.ip_address(bare.strip("[]"))
    except ValueError:
        pass
    else:
        raise problem(f"has {rule!r}, which is an address; give a host name")
    if ":" in name:
        raise problem(f"has {rule!r}, which names a port; give the bare host name")
    if not name.isascii():
        raise problem(f"has {rule!r}; write international names in their xn-- form")
    if "*" in bare:
        raise problem(f"has {rule!r}; a wildcard is only allowed as *. at the start")
    labels = bare.split(".")
    if len(bare) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise problem(f"has {rule!r}, which is not a host name")
    if len(labels) < 2 or labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        raise problem(f"has {rule!r}, which is not a public host name; give one such as api.example.com")
    if any(bare == suffix or bare.endswith("." + suffix) for suffix in _PRIVATE_SUFFIXES):
        raise problem(f"has {rule!r}, which is a private name; sandboxes reach public hosts only")
    return name


def _host_rules(rules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(host_rule(rule) for rule in rules))


def _must_be_false(value: object) -> object:
    if value is True:
        raise problem("true is not supported by this server yet; leave it out and list the hosts in allowed_hosts")
    return value


class Unrestricted(Value):
    """Every public host."""

    type: Literal["unrestricted"] = "unrestricted"


class Limited(Value):
    """The listed hosts, and no other."""

    type: Literal["limited"] = "limited"
    allowed_hosts: tuple[str, ...] = ()
    allow_mcp_servers: bool = False
    allow_package_managers: Literal[False] = False


class LimitedRequest(Value):
    type: Literal["limited"]
    allowed_hosts: Annotated[Items[str], Field(max_length=MAX_ALLOWED_HOSTS), AfterValidator(_host_rules)] | None = None
    allow_mcp_servers: bool | None = None
    allow_package_managers: Annotated[bool | None, BeforeValidator(_must_be_false)] = None


class UnrestrictedRequest(Value):
    type: Literal["unrestricted"]


def _no_packages(value: object) -> object:
    if isinstance(value, dict):
        unknown = sorted(set(value) - {*PACKAGE_MANAGERS, "type"})
        if unknown:
            raise problem(f"has the unknown key {unknown[0]}; remove it")
        wanted = [manager for manager in PACKAGE_MANAGERS if value.get(manager)]
        if wanted:
            raise problem(
                f"lists {wanted[0]} packages, which this server can't install yet; leave `packages` out and install "
                "them in a session instead"
            )
        return None
    return value


class Limits(Value):
    """Our extension: what one session may use. What is absent follows the server's defaults."""

    memory_mb: Annotated[int, Field(ge=256, le=1_048_576)] | None = None
    """Memory of the sandbox, in MiB."""
    cpus: Annotated[float, Field(gt=0, le=1024)] | None = None
    """Share of processor time, in whole processors."""
    pids: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """Processes and threads together."""
    max_turns: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Model requests that one user message may cause."""
    turn_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = None
    """Running time of one run, in seconds: a wait for a person ends it, the next run counts anew."""


class Hosting(Value):
    """Our extension: how a session is kept."""

    idle_timeout_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = None
    """How long an idle session keeps its processes, in seconds; 0 ends them at once."""


class CloudConfigRequest(Value):
    type: Literal["cloud"]
    networking: Annotated[UnrestrictedRequest | LimitedRequest, Field(discriminator="type")] | None = None
    packages: Annotated[None, BeforeValidator(_no_packages)] = None
    limits: Limits | None = None
    hosting: Hosting | None = None


class CloudConfig(Value):
    """An environment's configuration as it is stored."""

    type: Literal["cloud"] = "cloud"
    networking: Annotated[Unrestricted | Limited, Field(discriminator="type")] = Unrestricted()
    limits: Limits = Limits()
    hosting: Hosting = Hosting()

    def wire(self) -> dict[str, Any]:
        """The wire's object. Our extensions appear only where they were set."""
        shown: dict[str, Any] = {
            "type": "cloud",
            "networking": self.networking.model_dump(mode="json"),
            "packages": {"type": "packages", **{manager: [] for manager in PACKAGE_MANAGERS}},
        }
        for name, part in (("limits", self.limits), ("hosting", self.hosting)):
            if values := part.model_dump(mode="json", exclude_none=True):
                shown[name] = values
        return shown


class SelfHostedConfigRequest(Value):
    """Tools run on machines of the user's own, which take their work from the environment's queue."""

    type: Literal["self_hosted"]


class SelfHostedConfig(Value):
    """A self-hosted environment's configuration as it is stored: there is nothing to configure here."""

    type: Literal["self_hosted"] = "self_hosted"

    def wire(self) -> dict[str, Any]:
        return {"type": "self_hosted"}


Config = Annotated[CloudConfig | SelfHostedConfig, Field(discriminator="type")]


def _organization(value: object) -> object:
    if value == "account":
        raise problem("account is not supported: every environment belongs to its workspace; send organization")
    return value


ConfigRequest = Annotated[CloudConfigRequest | SelfHostedConfigRequest, Field(discriminator="type")]
OrganizationScope = Annotated[Literal["organization"] | None, BeforeValidator(_organization)]
Description = Annotated[Text, Field(max_length=MAX_ENVIRONMENT_DESCRIPTION)]


class CreateEnvironment(Value):
    """The body of `POST /v1/environments`."""

    name: AgentName
    config: ConfigRequest | None = None
    description: Description | None = None
    metadata: Metadata = Field(default_factory=dict)
    scope: OrganizationScope = None


class UpdateEnvironment(Value):
    """The body of `POST /v1/environments/{id}`. What was left out keeps its value, inside `config` too."""

    name: AgentName | None = None
    config: ConfigRequest | None = None
    description: Description | None = None
    metadata: MetadataPatch = Field(default_factory=dict)
    scope: OrganizationScope = None


Part = TypeVar("Part", Limits, Hosting)


def new_config(request: CloudConfigRequest | SelfHostedConfigRequest | None) -> CloudConfig | SelfHostedConfig:
    """The configuration of a new environment; None asks for the default, cloud and unrestricted."""
    match request:
        case SelfHostedConfigRequest():
            return SelfHostedConfig()
        case CloudConfigRequest():
            return _changed_cloud(CloudConfig(), request)
        case None:
            return CloudConfig()


def changed_config(
    stored: CloudConfig | SelfHostedConfig, request: CloudConfigRequest | SelfHostedConfigRequest
) -> CloudConfig | SelfHostedConfig:
    """`stored` with what `request` says. Raises InvalidRequest when that would be an environment of another type.

    Null keeps a value too, except in our own extensions, where it goes back to the server's default.
    """
    if isinstance(stored, CloudConfig) and isinstance(request, CloudConfigRequest):
        return _changed_cloud(stored, request)
    if stored.type != request.type:
        raise InvalidRequest(
            f"config.type: can't be changed from {stored.type} to {request.type}; create another environment",
            code="invalid_config_type_change",
        )
    return stored


def _changed_cloud(stored: CloudConfig, request: CloudConfigRequest) -> CloudConfig:
    networking = stored.networking
    match request.networking:
        case UnrestrictedRequest():
            networking = Unrestricted()
        case LimitedRequest(allowed_hosts=hosts, allow_mcp_servers=servers):
            kept = networking if isinstance(networking, Limited) else Limited()
            networking = Limited(
                allowed_hosts=kept.allowed_hosts if hosts is None else hosts,
                allow_mcp_servers=kept.allow_mcp_servers if servers is None else servers,
            )
        case None:
            pass
    return CloudConfig(
        networking=networking,
        limits=_overlaid(stored.limits, request, "limits"),
        hosting=_overlaid(stored.hosting, request, "hosting"),
    )


def _overlaid(stored: Part, request: CloudConfigRequest, name: str) -> Part:
    if name not in request.model_fields_set:
        return stored
    sent = getattr(request, name)
    if sent is None:
        return type(stored)()
    return stored.model_copy(update={field: getattr(sent, field) for field in sent.model_fields_set})
