"""What is the base image made of? Debian packages, where they come from, and what is done to the tree afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.engine.sandbox_port import SandboxUnavailable

PACKAGES: Final = (
    *("ca-certificates", "curl", "wget", "git", "openssh-client", "netbase"),
    *("jq", "ripgrep", "less", "file", "tree", "patch", "procps", "psmisc", "socat"),
    *("unzip", "zip", "xz-utils", "bzip2"),
    *("python3", "python3-venv", "python3-pip", "python-is-python3"),
    *("nodejs", "npm"),
)
"""What agents expect to find, besides Debian's smallest system with apt."""

STEPS: Final = 1
"""Raised when `finish` changes, so that images are built anew."""

AGENT_UID: Final = 1000

ARCHIVE_KEYRINGS: Final = ("/usr/share/keyrings/debian-archive-", "/usr/share/keyrings/ubuntu-archive-")
"""Sources signed by any other key are not the distribution's own: the host has them for its own purposes."""

_OPTIONS: Final = (
    '--aptopt=Acquire::Languages "none"',
    '--aptopt=APT::Install-Recommends "false"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)

_EMPTIED: Final = (
    "dev",
    "run",
    "tmp",
    "var/tmp",
    "var/log",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
)
_REMOVED: Final = ("etc/.pwd.lock", "var/lib/dpkg/status-old", "var/lib/dpkg/available-old", "var/cache/debconf/*-old")

MOUNT_POINTS: Final = {
    "workspace": AGENT_UID,
    "home/agent": AGENT_UID,
    "home/agent/.claude": AGENT_UID,
    "mnt/session/outputs": AGENT_UID,
    "mnt/session/uploads": 0,
    "mnt/memory": 0,
    "run/hostler": 0,
    "opt/hostler": 0,
}
"""Folders of the image that sandboxes put something of a session on, and who owns them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a build of the image makes, but for the versions that the archive has that day."""

    suite: str
    """Name of the release, such as `bookworm`."""
    sources: str
    """Where apt finds its packages, in the deb822 form of `sources.list(5)`."""
    packages: tuple[str, ...] = PACKAGES

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        parts = [STEPS, self.suite, self.sources, sorted(self.packages), _OPTIONS]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def command(self, mmdebstrap: str, sources: Path, root: Path) -> list[str]:
        """What makes the tree at `root` from the text of `sources` in a file of that name."""
        include = f"--include={','.join(self.packages)}"
        form = ("--mode=root", "--variant=minbase", "--format=directory")
        return [mmdebstrap, *form, *_OPTIONS, include, self.suite, str(root), str(sources)]


def host_recipe(etc: Path = Path("/etc")) -> Recipe:
    """The recipe with the release and the sources of this host's own distribution.

    Raises SandboxUnavailable, with what to set, when the host is not one whose packages apt installs.
    """
    release = _os_release(etc / "os-release")
    suite = release.get("VERSION_CODENAME", "")
    stanzas: list[str] = []
    for file in sorted([etc / "apt" / "sources.list", *(etc / "apt" / "sources.list.d").glob("*")]):
        with suppress(OSError, UnicodeDecodeError):
            if file.suffix == ".list":
                stanzas += _one_line_sources(file.read_text(), suite)
            elif file.suffix == ".sources":
                stanzas += _deb822_sources(file.read_text(), suite)
    if not suite or not stanzas:
        raise SandboxUnavailable(
            f"{release.get('PRETTY_NAME', 'this host')} has no apt sources of its own release to build an image from; "
            "name a release and a file with sources: images.suite and images.sources"
        )
    return Recipe(suite, "\n".join(dict.fromkeys(stanzas)))


def _os_release(file: Path) -> Mapping[str, str]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip("\"'") for name, sign, value in (line.partition("=") for line in lines) if sign}


def _own(suites: Iterable[str], suite: str) -> list[str]:
    return [name for name in suites if name == suite or name.startswith((f"{suite}-", f"{suite}/"))]


def _deb822_sources(text: str, suite: str) -> list[str]:
    found = []
    for block in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')} {line.strip()}".strip()
            else:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        key = fields.get("signed-by", "")
        found += _stanza(
            fields.get("uris", ""), fields.get("suites", "").split(), fields.get("components", ""), key, suite
        )
    return found


def _one_line_sources(text: str, suite: str) -> list[str]:
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*?)\s*(?:#.*)?", line)
        if match is not None:
            key = re.search(r"signed-by=(\S+)", match[1] or "")
            found += _stanza(match[2], [match[3]], match[4], key[1] if key else "", suite)
    return found


def _stanza(uris: str, suites: Sequence[str], components: str, key: str, suite: str) -> list[str]:
    own = _own(suites, suite)
    if not own or not uris or not components or (key and not key.startswith(ARCHIVE_KEYRINGS)):
        return []
    signed = f"Signed-By: {key}\n" if key else ""
    return [f"Types: deb\nURIs: {uris}\nSuites: {' '.join(own)}\nComponents: {components}\n{signed}"]


# ------------------------------------------------------------------------------------------------- after the packages


def finish(root: Path) -> None:
    """Takes away what the host, the build or set-uid programs left in the tree, and adds what sandboxes need."""
    for folder in _EMPTIED:
        _empty(root / folder)
    for pattern in _REMOVED:
        for path in root.glob(pattern):
            path.unlink()
    _write(root / "etc/hostname", "sandbox\n")
    _write(root / "etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n")
    _write(root / "etc/resolv.conf", "")  # there is no name server: names are resolved by the egress proxy
    _write(root / "etc/machine-id", "")
    # Services must not be started where packages are installed, and an agent's own `pip install` has to work.
    _write(root / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)
    _write(root / "etc/pip.conf", "[global]\nbreak-system-packages = true\ndisable-pip-version-check = true\n")
    _append(root / "etc/passwd", f"agent:x:{AGENT_UID}:{AGENT_UID}:agent:/home/agent:/bin/bash\n")
    _append(root / "etc/group", f"agent:x:{AGENT_UID}:\n")
    _append(root / "etc/shadow", "agent:!:0:0:99999:7:::\n")
    for name, owner in MOUNT_POINTS.items():
        point = root / name
        point.mkdir(parents=True, exist_ok=True, mode=0o755)
        os.chown(point, owner, owner)
    (root / "opt/hostler/claude").touch()
    # Node looks for modules in every folder above a script, also for `import`, which doesn't know of NODE_PATH.
    (root / "node_modules").symlink_to("usr/local/lib/node_modules")
    strip_privileges(root)


def strip_privileges(root: Path) -> None:
    """No file of the tree gives anybody rights: no set-uid or set-gid bits, no file capabilities, no devices."""
    for path in walk(root):
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            continue
        if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
            path.unlink()
            continue
        if stat.S_IMODE(info.st_mode) & 0o6000:
            path.chmod(stat.S_IMODE(info.st_mode) & 0o1777)
        with suppress(OSError):
            os.removexattr(path, "security.capability", follow_symlinks=False)


def walk(root: Path) -> Iterable[Path]:
    """Everything below `root`, links not followed."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield Path(folder, name)


def installed(root: Path, run: Callable[[Sequence[str]], str]) -> dict[str, str]:
    """Name and version of every package in the tree."""
    lines = run(
        ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package}:${Architecture} ${Version}\n"]
    )
    return dict(line.split(" ", 1) for line in lines.splitlines())


def _empty(folder: Path) -> None:
    if not folder.is_dir() or folder.is_symlink():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _write(file: Path, text: str, *, mode: int = 0o644) -> None:
    file.unlink(missing_ok=True)  # a link is replaced, not followed: it would lead out of the tree
    file.write_text(text)
    file.chmod(mode)


def _append(file: Path, line: str) -> None:
    with file.open("a") as end:
        end.write(line)
