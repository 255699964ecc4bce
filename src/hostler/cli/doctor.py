"""`hostler doctor`: what can this host give, what is missing, and what to do about it?

Looks and tries; changes nothing but a trial sandbox that is gone afterwards. Exit code 1 when something failed, 0 when
there are only warnings.
"""

from __future__ import annotations

import asyncio
import ctypes.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from hostler.cli import terminal, words
from hostler.cli.bundled import bundled_claude
from hostler.cli.clientfile import read_client_file
from hostler.cli.problem import FAILED
from hostler.cli.terminal import plain

if TYPE_CHECKING:
    from hostler.config import Settings
    from hostler.domain.isolation import Preset, Technology
    from hostler.engine.sandbox_port import IsolationLabel

    Rungs = dict[Technology, IsolationLabel | str]

OLDEST_PYTHON = (3, 11)
TOOL_SECONDS = 30.0

Verdict = Literal["ok", "off", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `off`: this host doesn't give it, and nothing needs it.

    JSON of the command: `{"ok": bool, "findings": [{"check", "verdict", "found", "advice"}, …], "rungs": {"gvisor":
    {"available": bool, "why": str | null, "isolation": {…} | null}, …}}`.
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""
    """What to do; empty when there is nothing to do."""


def doctor(settings: Settings, *, probe: bool, as_json: bool) -> int:
    """probe: upstreams are connected to, and credentials fetched."""
    findings: list[Finding] = []
    rungs: Rungs = {}
    console = terminal.out()
    for finding in examine(settings, rungs, probe=probe):
        findings.append(finding)
        if not as_json:
            style = {"ok": "green", "off": "dim", "warn": "yellow", "fail": "bold red"}[finding.verdict]
            line = Text(f"{finding.verdict:<5}", style=style)
            line.append(f"{finding.check}: ", style="bold")
            line.append(plain(finding.found))
            console.print(line)
            if finding.advice:
                console.print(Text(f"     → {plain(finding.advice)}", style=style))
    failed = any(finding.verdict == "fail" for finding in findings)
    if as_json:
        shown = {name: _rung(found) for name, found in rungs.items()}
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings], "rungs": shown}))
    return FAILED if failed else 0


def _rung(found: IsolationLabel | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"available": False, "why": found, "isolation": None}
    return {"available": True, "why": None, "isolation": words.isolation_facts(found)}


def examine(settings: Settings, rungs: Rungs, *, probe: bool = False) -> Iterator[Finding]:
    """All checks, in the order in which one would repair. `rungs` is filled with what was found of them."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        lambda: _program("bwrap", "bubblewrap"),
        lambda: _program("socat", "socat"),
        _seccomp,
        _namespaces,
        _cgroups,
        _claude,
    )
    for check in checks:
        yield check()
    yield _state_folder(settings)
    yield _database(settings)
    yield from _upstreams(settings, probe)
    yield from _sandbox(settings, rungs)
    yield _packages(settings)
    yield _server(settings)


def _packages(settings: Settings) -> Finding:
    """Whether environments can have packages here: tried, with an installer that does nothing."""
    from hostler.compose.packages import base_images, layer_folder
    from hostler.compose.terminable import run
    from hostler.domain.errors import InvalidRequest
    from hostler.engine.layers import LayerFailed

    if os.geteuid() != 0:
        return Finding("packages", "off", "environments can't have packages", "run Hostler as root")
    image = base_images(settings).current_image()
    if image is None:
        return Finding("packages", "off", "there is no base image to install packages on", "hostler image build")
    try:
        run(layer_folder(settings).probe())
    except (LayerFailed, InvalidRequest) as error:
        return Finding("packages", "warn", str(error), "environments with packages get no sessions here")
    return Finding("packages", "ok", f"base image {image.digest[:12]}: {image.suite}, {len(image.packages)} packages")


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("python", "fail", found, "install Python 3.11 or newer")
    return Finding("python", "ok", found)


def _program(name: str, package: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding(name, "fail", "not found", f"scripts/setup, or: apt-get install {package}")
    said = _said(path, "--version" if name == "bwrap" else "-V")
    number = re.search(r"\d+\.\d+[\d.]*", said or "")
    return Finding(name, "ok", f"{path} {number.group(0) if number else ''}".strip())


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _seccomp() -> Finding:
    library = ctypes.util.find_library("seccomp")
    if library is None:
        return Finding("seccomp", "fail", "libseccomp was not found", "apt-get install libseccomp2")
    kernel = Path("/proc/sys/kernel/seccomp/actions_avail")
    if not kernel.exists():
        return Finding(
            "seccomp", "fail", "this kernel filters no system calls", "use a kernel with CONFIG_SECCOMP_FILTER"
        )
    return Finding("seccomp", "ok", f"{library}, and the kernel filters system calls")


def _namespaces() -> Finding:
    most = _number("/proc/sys/user/max_user_namespaces")
    if most == 0:
        advice = "sysctl user.max_user_namespaces=10000"
        return Finding("user namespaces", "fail", "switched off (user.max_user_namespaces is 0)", advice)
    if os.geteuid() != 0 and _number("/proc/sys/kernel/unprivileged_userns_clone") == 0:
        advice = "sysctl kernel.unprivileged_userns_clone=1, or run Hostler as root"
        return Finding("user namespaces", "fail", "only for root", advice)
    if os.geteuid() != 0 and _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1:
        advice = "allow bwrap in AppArmor, or run Hostler as root"
        return Finding("user namespaces", "warn", "restricted by AppArmor for users that are not root", advice)
    return Finding("user namespaces", "ok", "available")


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _cgroups() -> Finding:
    from hostler.sandbox.cgroup_detection import detect

    found = detect("hostler")
    if found.kind == "none":
        return Finding(
            "cgroups", "warn", " ".join(found.missing) or "no limits", "run Hostler as root, or delegate a cgroup"
        )
    kind = found.kind.replace("_", " ")
    if found.missing:
        return Finding("cgroups", "warn", f"{kind}; {' '.join(found.missing)}", "see docs/explanation/sandbox.md")
    return Finding("cgroups", "ok", f"{kind}: memory, processors and processes can be limited")


def _claude() -> Finding:
    bundled = bundled_claude()
    if bundled is None or not bundled.path.exists():
        return Finding("claude", "fail", "the Agent SDK's binary is not there", "scripts/setup")
    said = _said(str(bundled.path), "--version")
    number = re.search(r"\d+\.\d+\.\d+", said or "")
    if number is None:
        return Finding("claude", "fail", f"{bundled.path} does not start", "scripts/setup")
    if number.group(0) != bundled.version:
        advice = "install the Agent SDK again: scripts/setup"
        return Finding("claude", "warn", f"is {number.group(0)}, the Agent SDK expects {bundled.version}", advice)
    return Finding("claude", "ok", f"{number.group(0)} at {bundled.path}")


def _state_folder(settings: Settings) -> Finding:
    folder = settings.state_dir
    near = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
        advice = f"choose another with --state-dir, or: chown {os.geteuid()} {near}"
        return Finding("state folder", "fail", f"{folder} can't be written", advice)
    free = shutil.disk_usage(near).free >> 20
    if free < 1024:
        return Finding("state folder", "warn", f"{folder}: only {free} MiB are free", "make room, or use another disk")
    return Finding("state folder", "ok", f"{folder}, {free >> 10} GiB free")


def _database(settings: Settings) -> Finding:
    from sqlalchemy.engine import make_url

    from hostler.domain.errors import HostlerError
    from hostler.store.database import Database

    try:
        shown = make_url(settings.store_url).render_as_string(hide_password=True)
    except Exception:
        return Finding("database", "fail", "store.url is no database URL", "docs/reference/configuration.md")
    file = Path(make_url(settings.store_url).database or "") if shown.startswith("sqlite") else None
    if file is not None and not file.exists():
        return Finding("database", "ok", f"{shown} (will be made)")

    async def reach() -> None:
        database = await Database.open(settings.store_url, migrate=False, pool_size=1)
        await database.close()

    try:
        asyncio.run(reach())
    except HostlerError as error:
        if type(error).__name__ == "SchemaMismatch":
            return Finding("database", "warn", f"{shown}: {error.message}", "the next start of the server does that")
        return Finding("database", "fail", f"{shown}: {error.message}", "check --store-url and the database server")
    except OSError as error:
        return Finding("database", "fail", f"{shown}: {error}", "check --store-url and the database server")
    return Finding("database", "ok", f"{shown} answers")


def _upstreams(settings: Settings, probe: bool) -> Iterator[Finding]:
    from hostler.cli import upstreams

    if settings.rehearsing or not settings.upstreams:
        found = _model(settings)
        why = upstreams.reach_model(settings) if probe and not settings.rehearsing else ""
        yield (
            Finding("model", "fail", f"{found.found}: {why}", "check model.base_url and the network") if why else found
        )
        return
    for each in settings.upstreams:
        verdict, said, advice = upstreams.look_at(each, settings, probe=probe)
        yield Finding(f"upstream {each.name}", verdict, said, advice)


def _model(settings: Settings) -> Finding:
    if settings.rehearsing:
        why = "model.rehearse is set" if settings.model.rehearse else "no key is set"
        return Finding("model", "warn", f"the REHEARSAL model would answer: {why}", "export ANTHROPIC_API_KEY=…")
    if not settings.upstream_key:
        return Finding("model", "ok", f"{settings.model.base_url}, without a key")
    return Finding("model", "ok", f"{settings.model.base_url}, with a key")


def _sandbox(settings: Settings, rungs: Rungs) -> Iterator[Finding]:
    from hostler.compose import survey
    from hostler.compose.terminable import run
    from hostler.domain.errors import InvalidRequest
    from hostler.engine.placement import Needs
    from hostler.engine.sandbox_port import LADDER

    try:
        found = run(survey(settings))
    except InvalidRequest as error:
        yield Finding("claude versions", "fail", error.message, "repair or remove that folder")
        return
    for height, rung in enumerate(LADDER, 1):
        for technology in sorted(rung):
            label = rungs[technology] = found.given.get(technology, "it is not configured on this server")
            check = f"rung {height}, {technology}"
            if isinstance(label, str):
                wanted = technology == settings.sandbox.technology
                yield Finding(check, "fail" if wanted else "off", label)
                continue
            yield Finding(check, "ok", f"a trial ran. {words.isolation(label)}")
            for promise in label.missing:
                yield Finding(check, "warn", promise)
    presets: tuple[Preset, ...] = ("development", "production")
    for preset in presets:
        default = preset == settings.presets.default
        who = ", the default of this server" if default else ""
        try:
            place = found.choose(Needs(preset))
        except InvalidRequest as error:
            why = error.message.partition(": ")[2]
            advice = "docs/how-to/choose-an-isolation.md" if default else ""
            yield Finding(f"preset {preset}", "fail" if default else "off", f"sessions don't start{who}: {why}", advice)
        else:
            yield Finding(f"preset {preset}", "ok", f"sessions run in {place.technology}{who}")
    try:
        place = found.choose(Needs("development", rooms=True))
    except InvalidRequest as error:
        yield Finding("pattern shared", "off", error.message.partition(": ")[2])
    else:
        yield Finding("pattern shared", "ok", f"several sessions can share a sandbox of {place.technology}")


def _server(settings: Settings) -> Finding:
    import http.client
    from urllib.parse import urlsplit

    left = read_client_file(settings.state_dir)
    if left is None:
        return Finding("server", "ok", "none has run with this state folder", "hostler serve")
    where = urlsplit(left.base_url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=5)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return Finding("server", "ok", f"none answers at {left.base_url}", "hostler serve")
    finally:
        connection.close()
    if status == 200:
        return Finding("server", "ok", f"answers at {left.base_url}")
    return Finding("server", "warn", f"answers {status} at {left.base_url}", "look at its log")
