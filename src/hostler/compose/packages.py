"""What are packages installed on, and what may their installers reach and use, as the settings have it?"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hostler.compose.authorities import own_authorities
from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.egress.cloning import CloneLimits
from hostler.egress.policy import PACKAGE_HOSTS
from hostler.egress.proxy import EgressProxy
from hostler.egress.resolve import Resolver
from hostler.engine.layers import LayerDecisions, PackageLayers
from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox.idmapped import IDS
from hostler.sandbox.image_recipe import Recipe, host_recipe
from hostler.sandbox.images import BaseImages
from hostler.sandbox.layers import LayerFolder, LayerTerms


def package_hosts(settings: Settings) -> tuple[str, ...]:
    """The registries of package managers."""
    return settings.egress.package_hosts or PACKAGE_HOSTS


def base_images(settings: Settings) -> BaseImages:
    """Touches nothing."""
    return BaseImages(settings.state_dir, lambda: image_recipe(settings))


def image_recipe(settings: Settings) -> Recipe:
    """Raises SandboxUnavailable, with what to set, when there is nothing to build an image from."""
    wanted = settings.images
    if bool(wanted.suite) != bool(wanted.sources):
        raise SandboxUnavailable("images.suite and images.sources go together: set both, or neither")
    if wanted.sources:
        try:
            text = Path(wanted.sources).expanduser().read_text()
        except OSError as error:
            raise SandboxUnavailable(f"images.sources: {error}") from error
        recipe = Recipe(wanted.suite, text)
    else:
        recipe = host_recipe()
    return dataclasses.replace(recipe, packages=tuple(dict.fromkeys((*recipe.packages, *wanted.extra_packages))))


def layer_folder(settings: Settings) -> LayerFolder:
    """Touches nothing. Raises InvalidRequest when installers would have the ids of sandboxes."""
    wanted, box = settings.packages, settings.sandbox
    installers = range(wanted.first_uid, wanted.first_uid + IDS)
    others = range(box.first_uid, box.first_uid + box.uids + CloneLimits().at_once)
    if installers.start < others.stop and others.start < installers.stop and os.geteuid() == 0:
        raise InvalidRequest(
            f"packages.first_uid: the ids {installers.start} to {installers.stop - 1} are also those of sandboxes "
            f"({others.start} to {others.stop - 1}); choose others"
        )
    terms = LayerTerms(
        seconds=wanted.seconds,
        layer_bytes=wanted.layer_mb << 20,
        total_bytes=wanted.total_mb << 20,
        memory_bytes=wanted.memory_mb << 20,
        first_id=wanted.first_uid,
        authorities=own_authorities(settings),
    )
    return LayerFolder(settings.state_dir, base_images(settings), terms)


@asynccontextmanager
async def package_layers(
    settings: Settings, sockets: Path, resolver: Resolver | None = None
) -> AsyncIterator[PackageLayers]:
    """`sockets`: a folder with a short path. `resolver`: the host's if None. Leaving the block ends the builds."""
    decisions = LayerDecisions()
    private_allowed = frozenset(settings.egress.private_allowed)
    roads = EgressProxy(decisions, resolver=resolver, private_allowed=private_allowed)
    layers = PackageLayers(layer_folder(settings), roads, decisions, package_hosts(settings), sockets)
    try:
        yield layers
    finally:
        await layers.close()
        await roads.close()
