"""How do channels follow from the settings of the upstreams?

The clouds' modules are loaded only where one is used: they need libraries that not everybody installs.
"""

from __future__ import annotations

import os

from hostler.config import Settings
from hostler.config.upstreams import CLAUDE_API, AnthropicUpstream, BedrockUpstream, UpstreamSettings, VertexUpstream
from hostler.domain.errors import InvalidRequest
from hostler.gateway import MessagesChannel, Upstream
from hostler.gateway.channel import Channel
from hostler.gateway.roster import Entry
from hostler.gateway.spellings import on_bedrock, on_vertex

_BEDROCK_KEY = "AWS_BEARER_TOKEN_BEDROCK"
"""Where AWS's own tools look for a key of Bedrock."""


def entry_of(upstream: UpstreamSettings) -> Entry:
    models = upstream.models
    if models is None and isinstance(upstream, BedrockUpstream):
        models = on_bedrock(upstream.inference_profiles)
    elif models is None and isinstance(upstream, VertexUpstream):
        models = on_vertex()
    return Entry(upstream.name, upstream.order, upstream.weight, models)


def key_of(upstream: UpstreamSettings, settings: Settings) -> str:
    """Empty: it has none, or credentials of its cloud. Raises InvalidRequest where one is needed and not there."""
    if isinstance(upstream, VertexUpstream):
        return ""
    key = upstream.own_key()
    if isinstance(upstream, BedrockUpstream) and not key and not upstream.profile:
        key = os.environ.get(_BEDROCK_KEY, "")
    if isinstance(upstream, AnthropicUpstream) and not key and upstream.url == CLAUDE_API:
        key = settings.model.api_key.get_secret_value()
        if not key:
            raise InvalidRequest(
                f"upstream {upstream.name}: the Claude API needs a key: set api_key_file or api_key_env, or "
                "ANTHROPIC_API_KEY in the environment"
            )
    return key


def open_channel(upstream: UpstreamSettings, settings: Settings) -> Channel:
    """Reaches nothing yet. Raises InvalidRequest that says what to set or to install."""
    key, ca_file = key_of(upstream, settings), upstream.ca_file or None
    try:
        match upstream:
            case AnthropicUpstream():
                address = Upstream(upstream.url, key or "none", upstream.auth, ca_file)
                return MessagesChannel(address, name=upstream.name, betas=upstream.betas)
            case BedrockUpstream():
                from hostler.gateway import bedrock

                return bedrock.BedrockChannel(
                    upstream.name,
                    upstream.region,
                    profile=upstream.profile,
                    api_key=key,
                    base_url=upstream.base_url,
                    ca_file=ca_file,
                    betas=bedrock.BETAS if upstream.betas is None else upstream.betas,
                )
            case VertexUpstream():
                from hostler.gateway import vertex

                return vertex.VertexChannel(
                    upstream.name,
                    upstream.project,
                    upstream.region,
                    base_url=upstream.base_url,
                    ca_file=ca_file,
                    betas=vertex.BETAS if upstream.betas is None else upstream.betas,
                )
    except ImportError as error:
        raise InvalidRequest(
            f"upstream {upstream.name}: {error.name} is not installed: pip install 'hostler[{upstream.kind}]'"
        ) from error
    except OSError as error:
        raise InvalidRequest(f"upstream {upstream.name}: ca_file can't be read: {error}") from error


def upstream_keys(settings: Settings) -> list[str]:
    """Every key for a model that this server has: none of them may leave it."""
    if not settings.upstreams or settings.rehearsing:
        return [settings.upstream_key] if settings.upstream_key else []
    return [key for key in (key_of(upstream, settings) for upstream in settings.upstreams) if key]


def reaches_clouds(settings: Settings) -> bool:
    """Whether requests may go to somebody who doesn't take all that the Claude API does."""
    return not settings.rehearsing and any(
        not isinstance(one, AnthropicUpstream) or one.betas is not None for one in settings.upstreams
    )
