"""What takes sessions from one installation to another, as the settings have it?"""

from __future__ import annotations

import importlib.metadata

from hostler.bundles.exporting import Exporter
from hostler.bundles.importing import Importer
from hostler.bundles.limits import BundleLimits
from hostler.bundles.service import StoredBundles
from hostler.compose.bounds import session_limits
from hostler.compose.terms import archive_limits, file_terms
from hostler.compose.upstreams import upstream_keys
from hostler.config import Settings
from hostler.domain.prices import Prices
from hostler.engine.checkpoints import Checkpoints
from hostler.engine.models import Models
from hostler.engine.placement import Placement
from hostler.engine.ports import Sealer
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.resources import ResourceKinds
from hostler.gateway import sequence
from hostler.snapshots.service import StoredSnapshots
from hostler.store.blobs import Blobs
from hostler.store.database import Database


def bundle_limits(settings: Settings) -> BundleLimits:
    wanted, session, archives = settings.bundles, session_limits(settings), archive_limits(settings)
    return BundleLimits(
        wanted.max_mb << 20,
        wanted.max_members,
        wanted.max_ratio,
        events=2 * session.events,
        log_bytes=2 * session.log_bytes,
        transcript_bytes=2 * session.transcript_bytes,
        archives=archives.session_archives,
        archive_bytes=2 * archives.session_bytes,
    )


def session_bundles(
    settings: Settings,
    database: Database,
    checkpoints: Checkpoints,
    snapshots: StoredSnapshots,
    blobs: Blobs,
    sealer: Sealer,
    kinds: ResourceKinds,
    quotas: WorkspaceQuotas,
    placement: Placement,
    models: Models,
    prices: Prices,
) -> StoredBundles:
    folder, limits = settings.state_dir / "bundles", bundle_limits(settings)
    own = dict.fromkeys(upstream_keys(settings), "the server's key for the model")
    exporter = Exporter(
        database,
        checkpoints,
        snapshots,
        blobs,
        sealer,
        folder,
        limits,
        f"hostler {importlib.metadata.version('hostler')}",
        own,
    )
    importer = Importer(
        database,
        snapshots,
        blobs,
        kinds,
        quotas,
        placement,
        models,
        prices,
        sequence.load,
        folder,
        limits,
        file_terms(settings).most_bytes,
    )
    return StoredBundles(exporter, importer)
