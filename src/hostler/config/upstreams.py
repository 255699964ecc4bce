"""What can be set about each of several upstreams?

A list of tables, `[[upstreams]]`, one for each upstream, by kind. In the environment it is JSON: the list of objects.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from hostler.config.section import Section
from hostler.domain.errors import InvalidRequest

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]*\Z")
CLAUDE_API = "https://api.anthropic.com"


class _Upstream(Section):
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="In records, limits and messages. Each has another."
    )
    order: int = Field(0, ge=0, le=1000, description="Those with the lowest are asked first.")
    weight: int = Field(1, ge=1, le=1_000_000, description="Share of the requests among those of the same order.")
    base_url: str = Field("", description="Where it is, when not at its usual place.")
    ca_file: str = Field("", description="PEM file with the authorities that sign its certificate, when not public.")
    models: Mapping[str, str] | None = Field(
        None, description="The models that it has: our name = its name. Only these are asked of it."
    )

    @field_validator("base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
            raise ValueError("write http://host[:port][/prefix] or https://host[:port][/prefix]")
        return value

    @field_validator("models")
    @classmethod
    def _models(cls, value: Mapping[str, str] | None) -> Mapping[str, str] | None:
        if value is None:
            return None
        if not value:
            raise ValueError("name at least one model, or leave it out")
        wrong = next((name for name in value.values() if not _MODEL.match(name) or ".." in name), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is no name of a model")
        return dict(value)


class _Keyed(_Upstream):
    api_key: SecretStr = Field(SecretStr(""), description="The key itself. Better in a file or the environment.")
    api_key_file: str = Field("", description="File whose first line is the key, read at the start.")
    api_key_env: str = Field("", description="Name of the environment variable that holds the key.")

    @model_validator(mode="after")
    def _one_key(self) -> _Keyed:
        if sum(bool(given) for given in (self.api_key.get_secret_value(), self.api_key_file, self.api_key_env)) > 1:
            raise ValueError("give one of api_key, api_key_file and api_key_env")
        return self

    def own_key(self, environ: Mapping[str, str] | None = None) -> str:
        """Empty: none is set. Raises InvalidRequest when what is set can't be read."""
        key = self.api_key.get_secret_value()
        if self.api_key_env:
            key = (os.environ if environ is None else environ).get(self.api_key_env, "").strip()
            if not key:
                raise InvalidRequest(f"upstream {self.name}: the environment variable {self.api_key_env} is not set")
        if self.api_key_file:
            try:
                key = Path(self.api_key_file).read_text("utf-8").partition("\n")[0].strip()
            except (OSError, ValueError) as error:
                raise InvalidRequest(f"upstream {self.name}: api_key_file can't be read: {error}") from error
            if not key:
                raise InvalidRequest(f"upstream {self.name}: the first line of {self.api_key_file} is empty")
        if not key.isprintable() or not key.isascii():
            raise InvalidRequest(f"upstream {self.name}: the key holds characters that can't be sent in a header")
        return key


class AnthropicUpstream(_Keyed):
    """The Claude API, or a server that speaks the Messages API."""

    kind: Literal["anthropic"]
    auth: Literal["x-api-key", "bearer"] = Field("x-api-key", description="How the key is sent.")
    betas: tuple[str, ...] | None = Field(
        None, description="Betas that are passed on, for a server that refuses those it does not know. Left out: all."
    )

    @property
    def url(self) -> str:
        return self.base_url or CLAUDE_API


class BedrockUpstream(_Keyed):
    """Amazon Bedrock. Without a key: AWS's own chain of credentials, and signed requests."""

    kind: Literal["bedrock"]
    region: str = Field(pattern=r"^[a-z0-9-]+$", description="AWS region, such as `eu-central-1`.")
    profile: str = Field("", description="Profile of AWS's configuration files. Empty: the default one.")
    inference_profiles: str = Field(
        "",
        pattern=r"^([a-z-]+)?$",
        description="Prefix of the inference profiles, such as `eu`, `us` or `global`, when `models` is left out.",
    )
    betas: tuple[str, ...] | None = Field(
        None, description="Betas that are passed on, in place of those that are known to work there."
    )

    @model_validator(mode="after")
    def _names(self) -> BedrockUpstream:
        if (self.models is None) == (not self.inference_profiles):
            raise ValueError('say what the models are called there: either models = {"ours" = "theirs"}, or '
                             'inference_profiles = "eu" (or "us", "global", …) for the usual names')  # fmt: skip
        if self.profile and self.own_key_set:
            raise ValueError("give a key or a profile, not both")
        return self

    @property
    def own_key_set(self) -> bool:
        return bool(self.api_key.get_secret_value() or self.api_key_file or self.api_key_env)


class VertexUpstream(_Upstream):
    """Google's Vertex AI. Credentials: Google's own chain (application default credentials)."""

    kind: Literal["vertex"]
    project: str = Field(pattern=r"^[a-z0-9:.-]+$", description="Id of the Google Cloud project.")
    region: str = Field(pattern=r"^[a-z0-9-]+$", description="Region, `global`, or a multi-region (`us`, `eu`).")
    betas: tuple[str, ...] | None = Field(
        None, description="Betas that are passed on, in place of those that are known to work there."
    )


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return ()
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError("in the environment, write the upstreams as a JSON list of objects") from error


UpstreamSettings: TypeAlias = AnthropicUpstream | BedrockUpstream | VertexUpstream
KINDS: tuple[type[_Upstream], ...] = (AnthropicUpstream, BedrockUpstream, VertexUpstream)

UpstreamList: TypeAlias = Annotated[
    tuple[Annotated[UpstreamSettings, Field(discriminator="kind")], ...], BeforeValidator(_json)
]


def different_names(upstreams: Sequence[UpstreamSettings]) -> None:
    """Raises ValueError."""
    names = [upstream.name for upstream in upstreams]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two upstreams are called {twice}")
