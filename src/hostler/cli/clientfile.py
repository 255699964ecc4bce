"""How do commands on this machine find the server and may speak to it? A file in the state folder, for its owner.

`client.json` has mode 0600 and holds `{"base_url": …, "api_key": …}`. The server writes it when it starts. The key
in it is an ordinary API key named `local`; whoever can read the file owns the state folder anyway.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "client.json"


@dataclass(frozen=True, slots=True)
class ClientFile:
    base_url: str
    api_key: str


def read_client_file(state_dir: Path) -> ClientFile | None:
    """What the last server of this state folder left; None when there is nothing to read."""
    try:
        content = json.loads((state_dir / FILE_NAME).read_text("utf-8"))
        return ClientFile(str(content["base_url"]), str(content["api_key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_client_file(state_dir: Path, content: ClientFile) -> Path:
    """Replace the file in one step. It is never readable by others, not even for a moment."""
    path = state_dir / FILE_NAME
    draft = state_dir / f".{FILE_NAME}.{secrets.token_hex(4)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"base_url": content.base_url, "api_key": content.api_key}, file)
            file.write("\n")
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path
