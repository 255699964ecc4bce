"""What does `hostler doctor` find out about upstreams?

Without `--probe` nothing is asked of any server, not even of the one that gives a machine its credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hostler.config import Settings
    from hostler.config.upstreams import UpstreamSettings
    from hostler.gateway.channel import Channel

Found = tuple[Literal["ok", "warn", "fail"], str, str]
"""Verdict, what was found, what to do."""


def look_at(upstream: UpstreamSettings, settings: Settings, *, probe: bool) -> Found:
    from hostler.compose.upstreams import entry_of, open_channel
    from hostler.domain.errors import InvalidRequest

    models = entry_of(upstream).models
    what = f"{_where(upstream)}, {'any model' if models is None else f'{len(models)} models'}"
    try:
        channel = open_channel(upstream, settings)
    except InvalidRequest as error:
        return "fail", what, error.message
    if probe:
        why = _reach(channel)
        if why:
            return "fail", f"{what}: {why}", "check its credentials and the network"
        return "ok", f"{what}: can be reached, with its credentials", ""
    return _credentials(upstream, settings, what)


def reach_model(settings: Settings) -> str:
    """Why the only upstream, `[model]`, can't be reached. Empty: it can."""
    from hostler.gateway import MessagesChannel, Upstream

    return _reach(MessagesChannel(Upstream(settings.model.base_url, "none")))


def _where(upstream: UpstreamSettings) -> str:
    from hostler.config.upstreams import AnthropicUpstream, BedrockUpstream, VertexUpstream

    match upstream:
        case AnthropicUpstream():
            return upstream.url
        case BedrockUpstream():
            return f"Bedrock in {upstream.region}" + (f" at {upstream.base_url}" if upstream.base_url else "")
        case VertexUpstream():
            return f"Vertex AI in {upstream.region}, project {upstream.project}" + (
                f" at {upstream.base_url}" if upstream.base_url else ""
            )


def _credentials(upstream: UpstreamSettings, settings: Settings, what: str) -> Found:
    from hostler.compose.upstreams import key_of
    from hostler.config.upstreams import AnthropicUpstream, BedrockUpstream

    key = key_of(upstream, settings)
    if key or isinstance(upstream, AnthropicUpstream):
        return "ok", f"{what}, {'with a key' if key else 'without a key'}", ""
    try:
        if isinstance(upstream, BedrockUpstream):
            from hostler.gateway import aws

            found = aws.at_hand(upstream.profile)
        else:
            from hostler.gateway import google

            found = google.at_hand()
    except Exception as error:  # Whatever the clouds' libraries raise about files that are wrong.
        return "fail", f"{what}: {type(error).__name__}: {error}", "repair that, or the settings"
    if found:
        return "ok", f"{what}, credentials: {found}", ""
    advice = "hostler doctor --probe asks the server that gives this machine its own, if there is one"
    return "warn", f"{what}: no credentials in the environment or in files", advice


def _reach(channel: Channel) -> str:
    import asyncio

    from hostler.gateway.upstream import UpstreamUnreachable

    async def reach() -> str:
        try:
            await channel.probe()
        except UpstreamUnreachable as error:
            return str(error)
        finally:
            await channel.close()
        return ""

    return asyncio.run(reach())
