"""Which names may objects have?"""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def checked(name: str) -> str:
    """The name. Raises ValueError for one that could mean something else in a file system or in a URL."""
    if not all(_WORD.fullmatch(word) for word in name.split("/")):
        raise ValueError(f"{name!r} is no name of an object: words of letters, digits, '.', '_' and '-', with '/'")
    return name
