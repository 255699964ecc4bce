"""What is installed for an environment's sessions? The `packages` of its configuration.

Each entry becomes an argument of a package manager. It is a name, perhaps with a version, in that manager's own
spelling, and nothing that the manager could read as an option, a place, a file or a second word (D1).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from hostler.domain.values import Items, Value, problem

PACKAGE_MANAGERS: Final = ("apt", "cargo", "gem", "go", "npm", "pip")
MAX_PACKAGES: Final = 128
"""Of one manager."""
MAX_PACKAGE_LENGTH: Final = 200

_PIP_CLAUSE: Final = r"(?:===|==|~=|!=|<=|>=|<|>)[0-9A-Za-z][0-9A-Za-z.+!*_-]*"
_NPM_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SPELLINGS: Final = {
    "apt": (r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](?:=[0-9A-Za-z][0-9A-Za-z.+~:-]*)?", "ripgrep or ripgrep=13.0.0-4"),
    "cargo": (r"[A-Za-z][A-Za-z0-9_-]*(?:@[~^=]?[0-9][0-9A-Za-z.+-]*)?", "ripgrep or ripgrep@14.1.1"),
    "gem": (r"[A-Za-z0-9][A-Za-z0-9_.-]*(?::(?:~>|>=|<=|=|>|<)?[0-9][0-9A-Za-z.]*)?", "rake or rake:13.2.1"),
    "go": (
        r"[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)+(?:/[A-Za-z0-9_~][A-Za-z0-9._~-]*)+(?:@[0-9A-Za-z][0-9A-Za-z.+_-]*)?",
        "golang.org/x/tools/cmd/goimports@v0.30.0",
    ),
    "npm": (
        rf"(?:@{_NPM_NAME}/)?{_NPM_NAME}(?:@(?:(?:\^|~|>=|<=|>|<|=)?[0-9*][0-9A-Za-z.+*-]*|[A-Za-z][0-9A-Za-z.-]*))?",
        "typescript or @types/node@22.1.0",
    ),
    "pip": (
        r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[A-Za-z0-9._-]+(?:,[A-Za-z0-9._-]+)*\])?"
        rf"(?:{_PIP_CLAUSE}(?:,{_PIP_CLAUSE})*)?",
        "pandas, pandas==2.3.1 or requests[socks]>=2.31,<3",
    ),
}
_FILES: Final = (".tgz", ".tar", ".gz", ".bz2", ".xz", ".zip", ".whl", ".gem", ".deb", ".crate")
"""Endings that make a manager look for a file instead of a package."""


def _checker(manager: str) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    pattern, example = re.compile(_SPELLINGS[manager][0]), _SPELLINGS[manager][1]

    def check(wanted: tuple[str, ...]) -> tuple[str, ...]:
        for entry in wanted:
            if len(entry) > MAX_PACKAGE_LENGTH:
                raise problem(f"has an entry of {len(entry)} characters; at most {MAX_PACKAGE_LENGTH} are taken")
            if not pattern.fullmatch(entry) or entry.lower().endswith(_FILES) or ".." in entry:
                raise problem(f"has {entry!r}, which is not a {manager} package; write it like {example}")
        return tuple(dict.fromkeys(wanted))

    return check


class PackageLists(Value):
    """What is installed, as it is stored: the entries as they were sent, each once."""

    type: Literal["packages"] = "packages"
    apt: Items[str] = ()
    cargo: Items[str] = ()
    gem: Items[str] = ()
    go: Items[str] = ()
    npm: Items[str] = ()
    pip: Items[str] = ()

    def of(self, manager: str) -> tuple[str, ...]:
        found: tuple[str, ...] = getattr(self, manager)
        return found

    @property
    def empty(self) -> bool:
        return not any(self.of(manager) for manager in PACKAGE_MANAGERS)

    @property
    def digest(self) -> str:
        """The same for lists that ask for the same packages in another order. 64 hexadecimal digits."""
        text = json.dumps([[manager, sorted(self.of(manager))] for manager in PACKAGE_MANAGERS])
        return hashlib.sha256(text.encode()).hexdigest()


_Listed = Annotated[Items[str], Field(max_length=MAX_PACKAGES)]


class PackagesRequest(Value):
    """What a client sends: null and what was left out keep their value."""

    type: Literal["packages"] | None = None
    apt: Annotated[_Listed, AfterValidator(_checker("apt"))] | None = None
    cargo: Annotated[_Listed, AfterValidator(_checker("cargo"))] | None = None
    gem: Annotated[_Listed, AfterValidator(_checker("gem"))] | None = None
    go: Annotated[_Listed, AfterValidator(_checker("go"))] | None = None
    npm: Annotated[_Listed, AfterValidator(_checker("npm"))] | None = None
    pip: Annotated[_Listed, AfterValidator(_checker("pip"))] | None = None


def changed_packages(stored: PackageLists, request: PackagesRequest | None) -> PackageLists:
    """`stored` with the lists of `request`; an empty list takes all away."""
    if request is None:
        return stored
    sent = {manager: wanted for manager in PACKAGE_MANAGERS if (wanted := getattr(request, manager)) is not None}
    return stored.model_copy(update=sent)
