"""What are vaults and credentials, as clients send them? Everything that is secret is of the type `Secret`.

No message of a validator here repeats what was sent in a secret field.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from hostler.domain.clock import parse_rfc3339
from hostler.domain.networking import host_rule
from hostler.domain.values import Identifier, Items, Metadata, MetadataPatch, Text, Value, problem
from hostler.domain.variables import steers

MAX_CREDENTIALS: Final = 20
"""Of one vault, archived ones not counted."""
MAX_SESSION_VAULTS: Final = 20
MAX_SECRET: Final = 16_384
MAX_URL: Final = 2_048
MAX_CREDENTIAL_HOSTS: Final = 16
MAX_SCOPE_IDS: Final = 16

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


# ---------------------------------------------------------------------------------------------------------- secrets


def _secret(text: str) -> str:
    # It will stand in a header or a form: what ends a line there would begin something else.
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise problem("holds a control character or a line break; send the secret alone")
    return text


def _token(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise problem("holds characters that can't be sent in a header; send the token alone, without `Bearer`")
    return text


class Discreet(Value):
    """A value that holds secrets: it can be printed, by mistake too, and says nothing."""

    def __repr_args__(self) -> Any:
        return []


Secret = Annotated[str, Field(min_length=1, max_length=MAX_SECRET), AfterValidator(_secret)]
Token = Annotated[str, Field(min_length=1, max_length=MAX_SECRET), AfterValidator(_token)]
"""What stands behind `Authorization: Bearer`."""


# -------------------------------------------------------------------------------------------------------------- URLs


def _web_url(text: str) -> str:
    if len(text) > MAX_URL:
        raise problem(f"is longer than {MAX_URL} characters")
    if not text.isascii() or not text.isprintable() or any(char in text for char in ' "<>\\^`{|}'):
        raise problem("is not a URL: write it in ASCII, with other characters percent-encoded")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise problem("is not a URL; write it like https://mcp.example.com/mcp") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or port == 0:
        raise problem("is not a web address; write it like https://mcp.example.com/mcp")
    if "@" in parts.netloc:
        raise problem("holds a user or a password; keep them out of the URL")
    if parts.fragment or "#" in text:
        raise problem("has a #fragment; remove it")
    return text


def normalised_url(url: str) -> str:
    """`url` in the form in which two are compared: scheme and host in lower case, without default port and last slash.

    Raises ValueError for what is no URL.
    """
    parts: SplitResult = urlsplit(url)
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    if not scheme or not host:
        raise ValueError("not a web address")
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None and parts.port != {"http": 80, "https": 443}.get(scheme):
        host = f"{host}:{parts.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{host}{parts.path.rstrip('/')}{query}"


Url = Annotated[str, AfterValidator(_web_url)]


# ------------------------------------------------------------------------------------------------------------ moments


def _moment(value: object) -> object:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return parse_rfc3339(value)
    except (ValueError, OverflowError):
        pass
    raise problem("is not an RFC 3339 time; write it like 2027-01-02T03:04:05Z")


Moment = Annotated[datetime | None, BeforeValidator(_moment)]


def _fixed(value: object) -> object:
    raise problem("can't be changed; make another credential")


Fixed = Annotated[None, BeforeValidator(_fixed)]


# ------------------------------------------------------------------------------------------------------------- vaults

VaultName = Annotated[Text, Field(min_length=1, max_length=255)]


class CreateVault(Value):
    """The body of `POST /v1/vaults`."""

    display_name: VaultName
    metadata: Metadata = Field(default_factory=dict)


class UpdateVault(Value):
    """The body of `POST /v1/vaults/{id}`. What was left out, and a name of null, stays."""

    display_name: VaultName | None = None
    metadata: MetadataPatch = Field(default_factory=dict)


def _distinct(ids: tuple[str, ...] | None) -> tuple[str, ...]:
    if ids is None:
        return ()
    if len(set(ids)) != len(ids):
        raise problem("names a vault twice; name each once, in the order in which they are asked")
    return ids


VaultIds = Annotated[
    Annotated[Items[Identifier], Field(max_length=MAX_SESSION_VAULTS)] | None, AfterValidator(_distinct)
]
"""The vaults of a session, the first one with a match wins."""


# ------------------------------------------------------------------------------------------------- OAuth, as it is sent


class NoClientAuth(Value):
    type: Literal["none"]


class BasicClientAuth(Discreet):
    type: Literal["client_secret_basic"]
    client_secret: Secret


class PostClientAuth(Discreet):
    type: Literal["client_secret_post"]
    client_secret: Secret


ClientId = Annotated[Secret, Field(max_length=2_048)]
Scope = Annotated[Text, Field(max_length=4_096), AfterValidator(_secret)]


class RefreshRequest(Discreet):
    client_id: ClientId
    refresh_token: Secret
    token_endpoint: Url
    token_endpoint_auth: Annotated[NoClientAuth | BasicClientAuth | PostClientAuth, Field(discriminator="type")]
    resource: Url | None = None
    scope: Scope | None = None


class BasicClientAuthUpdate(Discreet):
    type: Literal["client_secret_basic"]
    client_secret: Secret | None = None


class PostClientAuthUpdate(Discreet):
    type: Literal["client_secret_post"]
    client_secret: Secret | None = None


class RefreshUpdate(Discreet):
    refresh_token: Secret | None = None
    scope: Scope | None = None
    token_endpoint_auth: Annotated[BasicClientAuthUpdate | PostClientAuthUpdate, Field(discriminator="type")] | None = (
        None
    )
    client_id: Fixed = None
    token_endpoint: Fixed = None
    resource: Fixed = None


# ------------------------------------------------------------------------------------- variables, as they are sent


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise problem("is not the name of a variable; use letters, digits and _, such as GITHUB_TOKEN")
    if steers(name):
        raise problem(f"{name} steers programs in the sandbox and can't hold a secret; choose another name")
    return name


def _credential_host(rule: str) -> str:
    try:
        return str(ipaddress.IPv4Address(rule))
    except ValueError:
        return host_rule(rule)


def _credential_hosts(rules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_credential_host(rule) for rule in rules))


class AnyHost(Value):
    type: Literal["unrestricted"]


class ListedHosts(Value):
    type: Literal["limited"]
    allowed_hosts: Annotated[
        Items[str], Field(min_length=1, max_length=MAX_CREDENTIAL_HOSTS), AfterValidator(_credential_hosts)
    ]


Networking = Annotated[AnyHost | ListedHosts, Field(discriminator="type")]


class Injection(Value):
    """Where the value may be put in. A field that is left out of the object is off."""

    header: bool = False
    body: bool = False


def _not_null(value: object) -> object:
    if value is None:
        raise problem("can't be null; leave it out, or switch header or body on")
    return value


Access = Literal["read", "read_write"]
"""`read`: only requests with the methods GET, HEAD and OPTIONS may carry the value."""
ScopeIds = Annotated[Items[Identifier], Field(min_length=1, max_length=MAX_SCOPE_IDS)]


class WorkspaceScope(Value):
    """Every session that has the vault."""

    type: Literal["workspace"] = "workspace"
    access: Access = "read_write"


class AgentScope(Value):
    """Sessions of these agents only, whatever their version."""

    type: Literal["agent"]
    agent_ids: ScopeIds
    access: Access = "read_write"


class SessionScope(Value):
    """These sessions only."""

    type: Literal["session"]
    session_ids: ScopeIds
    access: Access = "read_write"


CredentialScope = Annotated[WorkspaceScope | AgentScope | SessionScope, Field(discriminator="type")]
"""Our extension: which of the sessions with the vault have the variable, and what they may do with it."""


def _scope_not_null(value: object) -> object:
    if value is None:
        raise problem('can\'t be null; leave it out, or send {"type": "workspace"} to lift every restriction')
    return value


ScopeField = Annotated[CredentialScope | None, BeforeValidator(_scope_not_null)]


# -------------------------------------------------------------------------------------------------------- credentials


class StaticBearerRequest(Discreet):
    type: Literal["static_bearer"]
    mcp_server_url: Url
    token: Token


class McpOauthRequest(Discreet):
    type: Literal["mcp_oauth"]
    mcp_server_url: Url
    access_token: Token
    expires_at: Moment = None
    refresh: RefreshRequest | None = None


class EnvironmentVariableRequest(Discreet):
    type: Literal["environment_variable"]
    secret_name: Annotated[str, AfterValidator(_variable)]
    secret_value: Secret
    networking: Networking
    injection_location: Annotated[Injection | None, BeforeValidator(_not_null)] = None
    scope: ScopeField = None


AuthRequest = Annotated[StaticBearerRequest | McpOauthRequest | EnvironmentVariableRequest, Field(discriminator="type")]


class CreateCredential(Value):
    """The body of `POST /v1/vaults/{id}/credentials`."""

    auth: AuthRequest
    display_name: Annotated[Text, Field(max_length=255)] | None = None
    metadata: Metadata = Field(default_factory=dict)


class StaticBearerUpdate(Discreet):
    type: Literal["static_bearer"]
    token: Token | None = None
    mcp_server_url: Fixed = None


class McpOauthUpdate(Discreet):
    type: Literal["mcp_oauth"]
    access_token: Token | None = None
    expires_at: Moment = None
    """Null: it isn't known any more. Left out: the stored one stays, for a new token too."""
    refresh: RefreshUpdate | None = None
    mcp_server_url: Fixed = None


class EnvironmentVariableUpdate(Discreet):
    type: Literal["environment_variable"]
    secret_value: Secret | None = None
    networking: Networking | None = None
    injection_location: Annotated[Injection | None, BeforeValidator(_not_null)] = None
    scope: ScopeField = None
    """Replaces the stored one as a whole."""
    secret_name: Fixed = None


AuthUpdate = Annotated[StaticBearerUpdate | McpOauthUpdate | EnvironmentVariableUpdate, Field(discriminator="type")]


class UpdateCredential(Value):
    """The body of `POST /v1/vaults/{id}/credentials/{id}`. A display name of null clears it."""

    auth: AuthUpdate | None = None
    display_name: VaultName | None = None
    metadata: MetadataPatch = Field(default_factory=dict)


def stored_injection(stored: dict[str, Any] | None, sent: Injection | None) -> dict[str, bool]:
    """What `sent` makes of what is stored (None on create). The caller refuses when neither place is left."""
    if sent is None:
        return dict(stored) if stored is not None else {"header": True, "body": True}
    merged = {"header": False, "body": False, **(stored or {})}
    merged.update({name: getattr(sent, name) for name in sent.model_fields_set})
    return merged
