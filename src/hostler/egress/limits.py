"""How much may one session ask of its egress road?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Bounds of one session's connections. Times in seconds, sizes in bytes; 0 for the last two: no bound."""

    head_bytes: int = 64 << 10
    """Of a request's or an answer's head, and of what a client says before it is known with whom it wants to speak."""
    head_seconds: float = 30.0
    """From the first byte of a head to its last; the same for a TLS handshake."""
    connect_seconds: float = 10.0
    """For one address, TLS included; a name's addresses are tried one after the other."""
    idle_seconds: float = 600.0
    """Longest time in which an open connection moves no byte in either direction."""
    connections: int = 256
    lookups: int = 4
    """Names of one session that are being resolved at the same moment."""
    kept_connections: int = 32
    """Unused connections to targets that are kept for the session's next requests."""
    kept_seconds: float = 15.0
    leaves: int = 256
    """Hosts whose certificates are kept."""
    mcp_request_bytes: int = 8 << 20
    """Of one message to an MCP server."""
    mcp_answer_bytes: int = 16 << 20
    """Of one answer of an MCP server."""
    connection_bytes: int = 0
    """Of one connection of the sandbox, both directions together."""
    session_bytes: int = 0
    """Of all connections of one road, both directions together. Then nothing passes any more."""
