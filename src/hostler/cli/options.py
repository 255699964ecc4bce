"""Which options do many commands share, and what do they come to? The settings of this host, or a server's address."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from hostler.cli.problem import WRONG, Problem, Refused

if TYPE_CHECKING:
    from hostler.cli.client import Address
    from hostler.config import Settings

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", metavar="FOLDER", help="State folder. Default: HOSTLER_STATE_DIR, then ~/.local/state/hostler."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration file (TOML). Default: HOSTLER_CONFIG.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store-url", metavar="URL", help="Database. Default: HOSTLER_STORE__URL, then SQLite in the state folder."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Host = Annotated[
    str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on. Default: 127.0.0.1.")
]
Port = Annotated[
    int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 takes a free one. Default: 8420.")
]
Rehearse = Annotated[bool, typer.Option("--rehearse", help="The rehearsal model answers, even if there is a key.")]
LogLevel = Annotated[str, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")]


def settings_of(
    state_dir: Path | None,
    config: Path | None,
    store_url: str | None = None,
    host: str | None = None,
    port: int | None = None,
    rehearse: bool = False,
) -> Settings:
    from hostler.config import load
    from hostler.domain.errors import InvalidRequest

    try:
        return load(
            file=config,
            state_dir=None if state_dir is None else str(state_dir),
            store__url=store_url,
            server__host=host,
            server__port=port,
            model__rehearse=rehearse or None,
        )
    except InvalidRequest as error:
        raise Problem(error.message, next_command="hostler serve --help", code=WRONG) from error


def log_level_of(name: str) -> str:
    if name not in ("debug", "info", "warning", "error"):
        raise Problem(f"--log-level {name!r} is none", next_command="--log-level debug|info|warning|error", code=WRONG)
    return name


Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Server. Default: HOSTLER_URL, then the one of the state folder."),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help="Default: HOSTLER_API_KEY, then that of the state folder."),
]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="Id of the session (sesn_…).")]


def address_of(url: str | None, api_key: str | None, state_dir: Path | None) -> Address:
    from hostler.cli.client import find_address
    from hostler.config import default_state_dir

    folder = state_dir or Path(os.environ.get("HOSTLER_STATE_DIR") or default_state_dir(os.environ))
    return find_address(url, api_key, folder.expanduser())


@dataclass(frozen=True, slots=True)
class Server:
    """Which server a command speaks to, as said on its command line."""

    url: Url
    api_key: ApiKey
    state_dir: StateDir

    def address(self) -> Address:
        """Raises Problem when no server or no key is known."""
        return address_of(self.url, self.api_key, self.state_dir)


Done = TypeVar("Done")


def speaks_to_a_server(command: Callable[..., Done]) -> Callable[..., Done]:
    """Give a command with a keyword `server: Server` the options --url, --api-key and --state-dir in its place."""
    hints = get_type_hints(command, include_extras=True)
    shown = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name == "server":
            for option, kind in get_type_hints(Server, include_extras=True).items():
                shown.append(parameter.replace(name=option, annotation=kind, default=None))
        else:
            shown.append(parameter.replace(annotation=hints[name]))

    # Typer gives a command one context at most: that of its own, if it asks for one.
    own = next((parameter.name for parameter in shown if parameter.annotation is typer.Context), None)
    if own is None:
        shown.append(inspect.Parameter("called", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @functools.wraps(command)
    def run(*args: Any, url: Url, api_key: ApiKey, state_dir: StateDir, **others: Any) -> Done:
        called: typer.Context = others.pop("called") if own is None else others[own]
        try:
            return command(*args, server=Server(url, api_key, state_dir), **others)
        except Refused as problem:
            problem.by(called.command_path)
            raise

    # Typer reads both: the order and the defaults from the one, the types from the other.
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    del run.__wrapped__
    return run
