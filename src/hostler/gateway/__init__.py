"""Road one, from a sandbox to a model: `ModelGateway` implements the engine's `ModelRoads`."""

from hostler.gateway.channel import MessagesChannel
from hostler.gateway.client import ClientLimits
from hostler.gateway.desk import Desk
from hostler.gateway.roads import ModelGateway, ModelRoad, UsageNotRecorded, one_upstream
from hostler.gateway.sequence import close_held_text, closed_calls
from hostler.gateway.upstream import Upstream, UpstreamLimits

__all__ = [
    "ClientLimits",
    "Desk",
    "MessagesChannel",
    "ModelGateway",
    "ModelRoad",
    "Upstream",
    "UpstreamLimits",
    "UsageNotRecorded",
    "close_held_text",
    "closed_calls",
    "one_upstream",
]
