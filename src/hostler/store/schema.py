"""Which tables are there? All of them, in one `metadata`: importing this module registers the tables of every topic."""

from __future__ import annotations

from hostler.store import tables_archives as tables_archives
from hostler.store import tables_audit as tables_audit
from hostler.store import tables_budgets as tables_budgets
from hostler.store import tables_checkpoints as tables_checkpoints
from hostler.store import tables_files as tables_files
from hostler.store import tables_homes as tables_homes
from hostler.store import tables_memory as tables_memory
from hostler.store import tables_previews as tables_previews
from hostler.store import tables_rates as tables_rates
from hostler.store import tables_retention as tables_retention
from hostler.store import tables_rooms as tables_rooms
from hostler.store import tables_runtime as tables_runtime
from hostler.store import tables_skills as tables_skills
from hostler.store import tables_snapshots as tables_snapshots
from hostler.store import tables_tenancy as tables_tenancy
from hostler.store import tables_vaults  # noqa: F401 - registers its tables
from hostler.store import tables_webhooks as tables_webhooks
from hostler.store import tables_work_items as tables_work_items
from hostler.store.tables import metadata

__all__ = ["metadata", "tables_work_items"]
