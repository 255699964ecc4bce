"""Snapshots in a bucket: what one worker kept, another reads."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from s3kit import IMPATIENT, S3Server
from snapkit import Bench, seen, write

from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.snapshot_port import SnapshotDamaged
from hostler.objects.s3 import S3Objects
from hostler.snapshots.sweeping import SnapshotSweep

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


async def test_a_session_moves_through_a_bucket(lite: Bench, s3: S3Server) -> None:
    bucket = s3.bucket()
    session, home = await lite.session(), lite.home("one")
    write(home, {f"workspace/f{number}": os.urandom(9_000) for number in range(30)})
    (home / "workspace" / "large").write_bytes(os.urandom(20 << 20))
    await lite.worker(objects=S3Objects(bucket, IMPATIENT)).take(session, home, "turn")
    client = s3.client()
    where = {"Bucket": bucket.name, "Prefix": "some/where/snapshots/"}
    before = {each["Key"] for each in client.list_objects_v2(**where)["Contents"]}
    write(home, {"workspace/f3": "changed"})
    second = await lite.worker(objects=S3Objects(bucket, IMPATIENT)).take(session, home, "turn")
    assert second.stored_bytes < 20_000

    there = lite.worker(objects=S3Objects(bucket, IMPATIENT))
    assert (await there.restore(session.id, lite.home("two"))).snapshot == second
    assert seen(lite.folder / "homes" / "two") == seen(home)

    listed = client.list_objects_v2(**where)["Contents"]
    assert len(listed) >= 4
    [manifest] = [each for each in listed if "/manifests/" in each["Key"] and each["Key"] not in before]
    client.put_object(Bucket=bucket.name, Key=manifest["Key"], Body=b"something else")
    with pytest.raises(SnapshotDamaged):
        await there.restore(session.id, lite.home("three"), second.id)

    await lite.snapshots.forget(session.id)
    lite.skew.seconds += 100_000
    swept = await SnapshotSweep(lite.database, S3Objects(bucket, IMPATIENT)).sweep()
    assert swept.objects == len(listed)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket.name)


async def test_a_bucket_that_is_away_keeps_nothing_and_damages_nothing(lite: Bench, s3: S3Server) -> None:
    bucket = s3.bucket()
    session, home = await lite.session(), lite.home("one")
    write(home, {"workspace/a": "a"})
    worker = lite.worker(objects=S3Objects(bucket, IMPATIENT))
    first = await worker.take(session, home, "turn")
    keys = [each["Key"] for each in s3.client().list_objects_v2(Bucket=bucket.name)["Contents"]]
    objects = {key: s3.client().get_object(Bucket=bucket.name, Key=key)["Body"].read() for key in keys}
    for key in keys:
        s3.client().delete_object(Bucket=bucket.name, Key=key)
    s3.client().delete_bucket(Bucket=bucket.name)
    write(home, {"workspace/a": "b"})
    for call in (worker.take(session, home, "turn"), worker.restore(session.id, lite.home("two"))):
        with pytest.raises(ObjectsUnavailable):
            await call
    assert await worker.latest(session.id) == first
    s3.client().create_bucket(Bucket=bucket.name)
    for key, data in objects.items():
        s3.client().put_object(Bucket=bucket.name, Key=key, Body=data)
    assert (await worker.restore(session.id, lite.folder / "homes" / "two")).damaged == ()
