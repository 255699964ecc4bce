"""Road one, from a sandbox to a model: `ModelGateway` implements the engine's `ModelRoads`."""

from hostler.gateway.backoff import Backoff
from hostler.gateway.breaker import BreakerTerms
from hostler.gateway.channel import MessagesChannel
from hostler.gateway.client import ClientLimits
from hostler.gateway.desk import Desk
from hostler.gateway.probing import probing
from hostler.gateway.roads import ModelGateway, ModelRoad, UsageNotRecorded, one_upstream
from hostler.gateway.roster import Entry, Patience, Roster
from hostler.gateway.sequence import close_held_text
from hostler.gateway.upstream import Upstream, UpstreamLimits

__all__ = [
    "Backoff",
    "BreakerTerms",
    "ClientLimits",
    "Desk",
    "Entry",
    "MessagesChannel",
    "ModelGateway",
    "ModelRoad",
    "Patience",
    "Roster",
    "Upstream",
    "UpstreamLimits",
    "UsageNotRecorded",
    "close_held_text",
    "one_upstream",
    "probing",
]
