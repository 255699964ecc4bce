"""Who are we at AWS, and how does a request prove it? Needs botocore (`hostler[bedrock]`).

The keys come from AWS's own chain: environment, profiles, single sign-on, roles of containers and machines. Signing
needs no network and no file, so it happens where the request is made; finding the keys may need both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from hostler.gateway.http1 import Headers
from hostler.gateway.renewal import Age

_SOON = 60
"""Seconds before their end at which keys are not used any more."""


_ASKING = ("container-role", "custom-process", "iam-role")
"""Providers that ask a server or run a program as soon as they are looked at."""


class NoKeys(Exception):
    """AWS's chain has no keys for us."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys as they were at one moment, and where the next ones come from."""

    frozen: Any
    source: Any

    def __repr__(self) -> str:
        return "Keys()"


class Chain:
    """AWS's chain of providers, for a profile or the default one (empty)."""

    def __init__(self, profile: str = "") -> None:
        self._profile = profile
        self._source: Any = None

    def look_up(self) -> Keys:
        """Blocks: may read files, run programs and ask servers. Raises what botocore does, or NoKeys."""
        source = self._source
        if source is None:
            source = botocore.session.Session(profile=self._profile or None).get_credentials()
            if source is None:
                raise NoKeys("AWS's chain of providers has no credentials")
            self._source = source
        return Keys(source.get_frozen_credentials(), source)

    def forget(self) -> None:
        """The next look-up begins from nothing: a file may have new keys."""
        self._source = None


def at_hand(profile: str = "") -> str:
    """Which of AWS's providers has keys, found without asking a server or running a program. Empty: none of those.

    Raises what botocore does, for a profile that isn't there, say.
    """
    session = botocore.session.Session(profile=profile or None)
    if session.get_scoped_config().get("credential_process"):
        return "custom-process"
    for provider in session.get_component("credential_provider").providers:
        if provider.METHOD not in _ASKING and provider.load() is not None:
            return str(provider.METHOD)
    return ""


def age_of(keys: Keys) -> Age:
    refresh_needed = getattr(keys.source, "refresh_needed", None)
    if refresh_needed is None or not refresh_needed():
        return "fresh"
    return "dead" if refresh_needed(_SOON) else "stale"


def sign(keys: Keys, region: str, url: str, headers: Headers, body: bytes) -> Headers:
    """`headers` (all are signed, `host` among them) with those that prove who asks. Signature Version 4."""
    fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    request = AWSRequest("POST", url, headers=fields, data=body)
    SigV4Auth(keys.frozen, "bedrock", region).add_auth(request)
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()]
