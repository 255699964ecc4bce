"""Road two, from a sandbox to everything but the model: `EgressProxy` implements the engine's `EgressRoads`."""

from hostler.egress.limits import EgressLimits
from hostler.egress.proxy import EgressProxy
from hostler.egress.resolve import Resolver, SystemResolver
from hostler.egress.road import EgressRoad

__all__ = ["EgressLimits", "EgressProxy", "EgressRoad", "Resolver", "SystemResolver"]
