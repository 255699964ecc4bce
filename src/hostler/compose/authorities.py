"""Whom does the operator trust in their own network, besides those that this host trusts?"""

from __future__ import annotations

import ssl
from pathlib import Path

from hostler.config import Settings
from hostler.domain.errors import InvalidRequest


def own_authorities(settings: Settings) -> bytes:
    """Certificates, PEM, in ASCII; perhaps none. Raises InvalidRequest when they can't be read."""
    bundle = settings.egress.ca_bundle
    if not bundle:
        return b""
    try:
        place = Path(bundle).expanduser()
        ssl.create_default_context().load_verify_locations(place)
        return (
            place.read_bytes().decode("ascii", "replace").encode("ascii", "replace")
        )  # comments may be in any language
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(f"egress.ca_bundle: {bundle} can't be read as PEM ({error})") from error


def trusting(authorities: bytes) -> ssl.SSLContext:
    """What a client of ours trusts: these, and those of this host."""
    context = ssl.create_default_context()
    if authorities:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    return context
