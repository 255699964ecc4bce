"""Who are we at Google Cloud? Needs google-auth (`hostler[vertex]`).

The token comes from Google's own chain (application default credentials): a key file, the login of `gcloud`, the
identity of a machine or of a workload.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import google.auth
from google.auth.credentials import TokenState
from google.auth.environment_vars import NO_GCE_CHECK as _NO_SERVER
from google.auth.exceptions import DefaultCredentialsError
from google.auth.transport.requests import Request

from hostler.gateway.renewal import Age

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_AGES: dict[Any, Age] = {TokenState.FRESH: "fresh", TokenState.STALE: "stale", TokenState.INVALID: "dead"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it was at one moment, and where the next one comes from."""

    value: str = field(repr=False)
    source: Any = field(repr=False)


class Chain:
    """Google's application default credentials."""

    def __init__(self) -> None:
        self._source: Any = None

    def look_up(self) -> Token:
        """A new token. Blocks: may read files, run programs and ask servers. Raises what google-auth does."""
        source = self._source
        if source is None:
            source, _ = google.auth.default(scopes=_SCOPES)
            self._source = source
        source.refresh(Request())
        return Token(source.token, source)

    def forget(self) -> None:
        """The next look-up begins from nothing: a file may have another key."""
        self._source = None


def at_hand() -> str:
    """Of which kind the credentials are, found without asking a server. Empty: there are none in files.

    Raises what google-auth does, for a file that can't be read, say. Changes the process's environment meanwhile.
    """
    before = os.environ.get(_NO_SERVER)
    os.environ[_NO_SERVER] = "true"
    try:
        source, _ = google.auth.default(scopes=_SCOPES)
    except DefaultCredentialsError:
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise
        return ""
    finally:
        del os.environ[_NO_SERVER]
        if before is not None:
            os.environ[_NO_SERVER] = before
    return str(type(source).__module__.rpartition(".")[2]).replace("_", " ")


def age_of(token: Token) -> Age:
    return _AGES[token.source.token_state]
