"""How is the attack corpus given the product's parts, and where is what it shows kept?

Every rung is attacked with adapters of its own, in a folder that is gone afterwards: a server that runs meanwhile is
not disturbed, and neither is what it keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from hostler.attacks import corpus
from hostler.attacks.cases import Case, Outcome
from hostler.attacks.grounds import Bounds, ModelsUnderAttack, ProxyUnderAttack, Resolver, Tools
from hostler.attacks.results import Results
from hostler.attacks.rooms import ground_folder
from hostler.attacks.runner import Report, attack_roads, attack_rung
from hostler.compose.sandboxes import sandbox_provider
from hostler.compose.terminable import run
from hostler.config import Settings
from hostler.domain.clock import SystemClock
from hostler.domain.errors import InvalidRequest
from hostler.egress.authority import Authority
from hostler.egress.injection import InjectingSecrets
from hostler.egress.limits import EgressLimits
from hostler.egress.proxy import EgressProxy
from hostler.engine.egress_port import EgressRecorder
from hostler.engine.model_port import Purse
from hostler.engine.sandbox_port import IsolationLabel, Technology
from hostler.engine.skill_bundles import unpacked
from hostler.gateway.roads import ModelGateway, one_upstream
from hostler.gateway.upstream import Upstream
from hostler.sandbox.ladder import Ladder
from hostler.sandbox.volumes import VolumeTrial, open_volumes

EMULATED_SECONDS = 180.0
"""Patience with a machine, which may be emulated."""


def attack_tools() -> Tools:
    """The product's parts as they are, except for the names, the addresses and the small limits of the attack."""
    names = Authority("canaries of an attack")
    return Tools(
        make_proxy=_proxy,
        make_models=_models,
        make_secrets=InjectingSecrets,
        tls=lambda host: names.make(host) if host == "allowed.example" else Authority("nobody's").make(host),
        trust=lambda: ssl.create_default_context(cadata=names.pem.decode()),
        unpack=_unpack,
        volume=_volume,
    )


@contextlib.asynccontextmanager
async def _volume(top: Path, size: int) -> AsyncIterator[Path]:
    """A session's home on a volume of its own."""
    top.mkdir()
    top.chmod(0o711)
    volumes, _ = await asyncio.to_thread(open_volumes, top / "images", top / "kept", VolumeTrial(top))
    home = top / "kept" / "one"
    try:
        await asyncio.to_thread(volumes.enter, home, size)
        yield home
        await asyncio.to_thread(volumes.leave, home, looked_through=True)
        await asyncio.to_thread(volumes.remove, home)
    finally:
        await asyncio.to_thread(volumes.close)


def _proxy(
    recorder: EgressRecorder,
    *,
    resolver: Resolver,
    private_allowed: frozenset[str],
    ports: frozenset[int],
    plain_ports: frozenset[int],
    bounds: Bounds,
    tls: ssl.SSLContext | None,
) -> ProxyUnderAttack:
    return EgressProxy(
        recorder,
        resolver=resolver,
        private_allowed=private_allowed,
        ports=ports,
        plain_ports=plain_ports,
        tls=tls,
        limits=EgressLimits(
            head_bytes=bounds.head_bytes,
            head_seconds=bounds.head_seconds,
            idle_seconds=bounds.idle_seconds,
            connections=bounds.connections,
        ),
    )


def _models(upstream: str, key: str, purse: Purse | None = None) -> ModelsUnderAttack:
    desk = one_upstream(Upstream(upstream, key))
    return ModelGateway(desk if purse is None else replace(desk, purse=purse))


def _unpack(archive: bytes) -> Mapping[str, bytes]:
    try:
        return {member.path: member.content for member in unpacked(archive)}
    except InvalidRequest as refused:
        raise ValueError(str(refused)) from refused


def attack_results(settings: Settings) -> Results:
    return Results(settings.state_dir / "attacks", importlib.metadata.version("hostler"), SystemClock())


@contextlib.asynccontextmanager
async def _rungs(settings: Settings) -> AsyncIterator[tuple[Path, Ladder]]:
    """Adapters with the server's settings and images, and what they keep in a new folder, which is the one given."""
    with ground_folder() as place:
        (place / "state").mkdir()
        ladder = sandbox_provider(settings, place=place / "state")
        try:
            yield place, ladder
        finally:
            ladder.close()


async def attack_host(
    settings: Settings,
    *,
    technology: Technology | None = None,
    only_critical: bool = False,
    told: Callable[[str, Outcome], None] = lambda target, outcome: None,
) -> tuple[Sequence[Report], Mapping[Technology, str]]:
    """Runs the corpus on the roads and on every rung that this host gives, or on one; and keeps what it shows.

    Gives the reports, and why which rung was left out. A run of the critical cases only replaces no result of a
    whole run that still counts. Raises InvalidRequest for a technology that this host doesn't give.
    """
    results, reports = attack_results(settings), []
    async with _rungs(settings) as (place, ladder):
        found = await ladder.rungs()
        given = {name: label for name, label in found.items() if isinstance(label, IsolationLabel)}
        left_out = {name: why for name, why in found.items() if isinstance(why, str)}
        if technology is not None:
            if technology not in given:
                why = left_out.get(technology, "it is not configured on this server")
                raise InvalidRequest(f"this host gives no {technology} sandboxes: {why}")
            given = {technology: given[technology]}
        tools = attack_tools()
        (place / "roads").mkdir()
        reports.append(
            await attack_roads(
                place / "roads",
                tools,
                _chosen(corpus.ON_PROXY, only_critical=only_critical),
                told=lambda outcome: told("roads", outcome),
            )
        )
        for name, label in given.items():
            home = place / name
            home.mkdir()
            home.chmod(0o711)

            def hear(outcome: Outcome, target: str = name) -> None:
                told(target, outcome)

            reports.append(
                await attack_rung(
                    home,
                    tools,
                    ladder,
                    label,
                    _chosen(corpus.ON_SANDBOX, only_critical=only_critical),
                    patience=EMULATED_SECONDS if label.kernel == "own" else 30.0,
                    seconds=3600.0 if label.kernel == "own" else 600.0,
                    told=hear,
                )
            )
    for report in reports:
        if not (only_critical and results.fresh(report.target, report.label) and not report.broken()):
            results.keep(report)
    return reports, left_out


def _chosen(cases: Sequence[Case], *, only_critical: bool) -> Sequence[Case]:
    return corpus.critical(cases) if only_critical else cases


def attack_apart() -> None:
    """The critical cases, in a process of its own: technology in the arguments, settings on the standard input.

    `hostler.compose.attack_gate` starts it.
    """
    settings = Settings.model_validate_json(sys.stdin.read())
    technology = TypeAdapter[Technology](Technology).validate_python(sys.argv[1])

    run(attack_host(settings, technology=technology, only_critical=True))
