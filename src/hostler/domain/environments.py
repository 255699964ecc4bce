"""What is an environment: where sessions run, what they may reach and use."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field

from hostler.domain.agents import AgentName
from hostler.domain.errors import InvalidRequest
from hostler.domain.isolation import Hosting, Isolation, Limits, Preset
from hostler.domain.networking import Limited, Networking, NetworkingRequest, Unrestricted, changed_networking
from hostler.domain.packages import PackageLists, PackagesRequest, changed_packages
from hostler.domain.values import Metadata, MetadataPatch, Text, Value, problem

MAX_ENVIRONMENT_DESCRIPTION: Final = 2_048


class CloudConfigRequest(Value):
    type: Literal["cloud"]
    networking: NetworkingRequest | None = None
    packages: PackagesRequest | None = None
    isolation: Isolation | None = None
    limits: Limits | None = None
    hosting: Hosting | None = None
    preset: Preset | None = None


class CloudConfig(Value):
    """An environment's configuration as it is stored."""

    type: Literal["cloud"] = "cloud"
    networking: Networking = Unrestricted()
    packages: PackageLists = PackageLists()
    isolation: Isolation = Isolation()
    limits: Limits = Limits()
    hosting: Hosting = Hosting()
    preset: Preset | None = None
    """None: the server's."""

    def wire(self) -> dict[str, Any]:
        """The wire's object. Our extensions appear only where they were set."""
        shown: dict[str, Any] = {
            "type": "cloud",
            "networking": self.networking.wire(),
            "packages": self.packages.model_dump(mode="json"),
        }
        for name, part in (("isolation", self.isolation), ("limits", self.limits), ("hosting", self.hosting)):
            if values := part.model_dump(mode="json", exclude_none=True):
                shown[name] = values
        return shown if self.preset is None else {**shown, "preset": self.preset}


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


Part = TypeVar("Part", Isolation, Limits, Hosting)


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
    if request.networking is not None:
        networking = changed_networking(networking, request.networking)
    packages = changed_packages(stored.packages, request.packages)
    if isinstance(networking, Limited) and not networking.allow_package_managers and not packages.empty:
        raise InvalidRequest(
            "config.packages: under limited networking packages need networking.allow_package_managers to be true",
        )
    hosting = _overlaid(stored.hosting, request, "hosting")
    if (contradiction := hosting.contradiction()) is not None:
        raise InvalidRequest(f"config.hosting: {contradiction}")
    return CloudConfig(
        networking=networking,
        packages=packages,
        isolation=_overlaid(stored.isolation, request, "isolation"),
        limits=_overlaid(stored.limits, request, "limits"),
        hosting=hosting,
        preset=request.preset if "preset" in request.model_fields_set else stored.preset,
    )


def _overlaid(stored: Part, request: CloudConfigRequest, name: str) -> Part:
    if name not in request.model_fields_set:
        return stored
    sent = getattr(request, name)
    if sent is None:
        return type(stored)()
    return stored.model_copy(update={field: getattr(sent, field) for field in sent.model_fields_set})
