"""Where are the bytes kept that outlive every host, and what keeps sessions' files there, as the settings have it?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.engine.object_port import ObjectMissing, Objects, ObjectsUnavailable
from hostler.engine.shared_blobs import SharedBlobs
from hostler.objects.folder import FolderObjects
from hostler.snapshots.limits import SnapshotLimits
from hostler.snapshots.service import Held, SnapshotTerms, StoredSnapshots
from hostler.snapshots.sweeping import SnapshotSweep
from hostler.store.blobs import Blobs
from hostler.store.database import Database


async def open_objects(settings: Settings) -> Objects:
    """The place that is configured, tried once. Raises InvalidRequest with what to do."""
    place = _place(settings)
    trial = f"trials/{new_id('trial')}"
    try:
        await place.put(trial, b"hostler")
        if await place.get(trial) != b"hostler":
            raise ObjectsUnavailable("it gives back something else than what was put there")
        await place.delete([trial])
    except ObjectMissing:
        raise InvalidRequest(f"objects.url: {settings.objects.url or 'the folder'} loses what is put there") from None
    except ObjectsUnavailable as error:
        raise InvalidRequest(
            f"the object store can't be used: {error}. Set objects.url, objects.endpoint, objects.region and the "
            "credentials (docs/how-to/keep-files-in-object-storage.md)"
        ) from error
    return place


def _place(settings: Settings) -> Objects:
    wanted = settings.objects
    if not wanted.url:
        return FolderObjects(settings.state_dir / "objects")
    url = urlsplit(wanted.url)
    if url.scheme == "file":
        if url.netloc or not url.path or url.query or url.fragment:
            raise InvalidRequest(f"objects.url: {wanted.url!r} is no folder; write it like file:///mnt/shared/objects")
        return FolderObjects(Path(unquote(url.path)))
    if url.scheme != "s3" or not url.netloc or url.query or url.fragment:
        raise InvalidRequest(
            f"objects.url: {wanted.url!r} is no bucket; write it like s3://bucket/prefix, or file:///mnt/shared/objects"
        )
    secret = wanted.secret_access_key.get_secret_value()
    if bool(wanted.access_key_id) != bool(secret):
        raise InvalidRequest("objects.access_key_id and objects.secret_access_key go together: set both, or neither")
    # Loading the library takes a tenth of a second that servers without a bucket don't need to spend.
    from hostler.objects.s3 import Bucket, S3Objects

    region = wanted.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    bucket = Bucket(url.netloc, url.path.strip("/"), wanted.endpoint, region, wanted.access_key_id, secret)
    try:
        return S3Objects(bucket)
    except ObjectsUnavailable as error:
        raise InvalidRequest(f"objects.url: {error}") from error


def open_blobs(settings: Settings, database: Database, objects: Objects) -> Blobs:
    """Bytes of files: on this host, unless other hosts have to read them."""
    folder = settings.state_dir / "blobs"
    if not settings.objects.url:
        return Blobs(folder)
    return SharedBlobs(folder, database, objects, cache_bytes=settings.files.cache_mb << 20)


def stored_snapshots(
    settings: Settings, database: Database, objects: Objects, held: Sequence[Held] = ()
) -> StoredSnapshots:
    """`held`: who is asked whether a snapshot is needed before it goes."""
    wanted = settings.snapshots
    limits = SnapshotLimits(entries=wanted.max_entries, content_bytes=wanted.max_mb << 20)
    return StoredSnapshots(
        database,
        objects,
        _memories(settings),
        SnapshotTerms(limits, wanted.keep),
        linked_owner=settings.sandbox.first_uid if os.geteuid() == 0 else None,
        held=held,
    )


def snapshot_sweep(settings: Settings, database: Database, objects: Objects) -> SnapshotSweep:
    return SnapshotSweep(database, objects, _memories(settings))


def _memories(settings: Settings) -> Path:
    return settings.state_dir / "snapshots"
