"""How are the parts put together? The composition root: settings in, a running Hostler out."""

from hostler.compose.database import create_key, has_key, open_database
from hostler.compose.placement import survey
from hostler.compose.sandboxes import sandbox_provider
from hostler.compose.secrets import master_keys
from hostler.compose.server import Hostler, running
from hostler.compose.stopping import until_signal
from hostler.compose.terms import quota_defaults, webhook_lease_seconds

__all__ = [
    "Hostler",
    "create_key",
    "has_key",
    "master_keys",
    "open_database",
    "quota_defaults",
    "running",
    "sandbox_provider",
    "survey",
    "until_signal",
    "webhook_lease_seconds",
]
