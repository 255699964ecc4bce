"""Road two, from a sandbox to everything but the model: `EgressProxy` implements the engine's `EgressRoads`."""

from hostler.egress.connection import EgressLimits
from hostler.egress.proxy import EgressProxy, EgressRoad
from hostler.egress.resolve import Resolver, SystemResolver

__all__ = ["EgressLimits", "EgressProxy", "EgressRoad", "Resolver", "SystemResolver"]
