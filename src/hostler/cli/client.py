"""How does a command speak to a running server? With the official client, at the address and with the key it can find.

Looked for in this order: `--url` and `--api-key`; HOSTLER_URL and HOSTLER_API_KEY; the file that a server left in the
state folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hostler.cli.clientfile import read_client_file
from hostler.cli.problem import WRONG, Problem, Refused
from hostler.cli.terminal import plain_line

if TYPE_CHECKING:
    from anthropic import Anthropic


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    api_key: str


def find_address(url: str | None, api_key: str | None, state_dir: Path) -> Address:
    """Where the server is. Raises Problem when nothing says so."""
    url = url or os.environ.get("HOSTLER_URL")
    api_key = api_key or os.environ.get("HOSTLER_API_KEY")
    left = read_client_file(state_dir)
    if url is None and left is None:
        raise Problem(
            f"no server known: {state_dir / 'client.json'} is not there, and HOSTLER_URL is not set",
            next_command="hostler serve   (or: scripts/start, or name a server with --url and --api-key)",
        )
    if left is not None and (url is None or url.rstrip("/") == left.base_url):
        # The saved key is for the saved server only: it must not be sent to another one.
        url, api_key = left.base_url, api_key or left.api_key
    assert url is not None
    if not url.startswith(("http://", "https://")):
        raise Problem(f"the address {url!r} has no scheme", next_command=f"--url http://{url}", code=WRONG)
    if not api_key:
        raise Problem(
            f"no API key for {url}",
            next_command="hostler key create my-app   (then: export HOSTLER_API_KEY=…)",
            code=WRONG,
        )
    return Address(url.rstrip("/"), api_key)


@contextmanager
def connected(address: Address) -> Iterator[Anthropic]:
    """The official client. What it raises inside the block becomes a Problem."""
    import anthropic
    import httpx2  # what the client is made of; it lets errors in the middle of a stream through

    with anthropic.Anthropic(base_url=address.url, api_key=address.api_key) as client:
        try:
            yield client
        except anthropic.AuthenticationError as error:
            raise Problem(
                f"{address.url} does not know this API key", next_command="hostler key create my-app"
            ) from error
        except anthropic.APIStatusError as error:
            said = said_by(error)
            # Of all that a command can name, sessions are what is listed most easily.
            kind = Problem if said.startswith("session ") else Refused
            raise kind(said, next_command="hostler sessions list") from error
        except anthropic.APIConnectionError as error:
            raise Problem(
                f"no server answers at {address.url}", next_command="hostler serve   (or: scripts/start)"
            ) from error
        except httpx2.TransportError as error:
            raise Problem(
                f"the connection to {address.url} broke; sessions go on without it",
                next_command="hostler sessions list",
            ) from error


def said_by(error: Exception) -> str:
    """What the server said, on one line."""
    body = getattr(error, "body", None)
    detail = body.get("error") if isinstance(body, dict) else None
    message = detail.get("message") if isinstance(detail, dict) else None
    request = getattr(error, "request_id", None)
    return plain_line(str(message or error), 500) + (f" (request {request})" if request else "")
