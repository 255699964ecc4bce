"""Where can Prometheus read how a server does?"""

from __future__ import annotations

from pydantic import Field

from hostler.config.section import Section


class MetricSettings(Section):
    """Metrics for Prometheus, at `http://host:port/metrics`. Without a key: they name no session and no workspace."""

    port: int = Field(0, ge=0, le=65535, description="Port. 0: nobody listens.")
    host: str = Field("127.0.0.1", description="Address that listens.")
    look_seconds: float = Field(
        10.0, ge=1, le=3600, description="How often the database is asked what waits, and whether it is there."
    )
