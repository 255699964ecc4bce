"""Whatever the place for objects is, it behaves like the port says."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from s3kit import IMPATIENT, S3Server

from hostler.compose.objects import open_objects
from hostler.config import load
from hostler.domain.errors import InvalidRequest
from hostler.engine.object_port import ObjectMissing, Objects, ObjectsUnavailable
from hostler.objects.folder import FolderObjects
from hostler.objects.s3 import Bucket, S3Objects

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest_asyncio.fixture(params=["folder", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    if request.param == "folder":
        yield FolderObjects(tmp_path / "objects")
    else:
        server: S3Server = request.getfixturevalue("s3")
        yield S3Objects(server.bucket(), IMPATIENT)


async def names(place: Objects, prefix: str) -> list[str]:
    return sorted([info.name async for info in place.list(prefix)])


async def test_what_is_put_is_there(place: Objects, tmp_path: Path) -> None:
    large = os.urandom(12 << 20)
    (tmp_path / "file").write_bytes(large)
    await place.put("a/b/small", b"bytes")
    await place.put("a/large", large)
    await place.put("a/from-a-file", tmp_path / "file")
    await place.put("empty", b"")
    assert await place.get("a/b/small") == b"bytes"
    assert await place.get("a/large") == await place.get("a/from-a-file") == large
    assert await place.get("empty") == b""


@pytest.mark.parametrize(
    ("start", "length", "found"),
    [(0, 3, b"012"), (3, 4, b"3456"), (7, None, b"789"), (8, 100, b"89"), (10, None, b""), (20, 5, b""), (4, 0, b"")],
)
async def test_parts(place: Objects, start: int, length: int | None, found: bytes) -> None:
    await place.put("digits", b"0123456789")
    assert await place.get("digits", start, length) == found


async def test_what_is_there_stays(place: Objects) -> None:
    await place.put("same", b"bytes")
    await place.put("same", b"bytes")
    assert await place.get("same") == b"bytes"


async def test_missing(place: Objects) -> None:
    await place.put("a/b", b"")
    for name in ("nothing", "a", "a/b/c", "a/nothing"):
        with pytest.raises(ObjectMissing):
            await place.get(name)
        with pytest.raises(ObjectMissing):
            await place.get(name, 5, 5)


async def test_deleting(place: Objects) -> None:
    for name in ("a/one", "a/two", "three"):
        await place.put(name, b"x")
    await place.delete(["a/one", "never/was", "three"])
    assert await names(place, "") == ["a/two"]
    await place.delete([])
    await place.delete(f"a/{number}" for number in range(1200))
    assert await names(place, "") == ["a/two"]


async def test_listing(place: Objects) -> None:
    for name in ("a/one", "a/other/two", "ab/three", "a.b"):
        await place.put(name, name.encode())
    assert await names(place, "") == ["a.b", "a/one", "a/other/two", "ab/three"]
    assert await names(place, "a/") == ["a/one", "a/other/two"]
    assert await names(place, "a/o") == ["a/one", "a/other/two"]
    assert await names(place, "a/other/") == ["a/other/two"]
    assert await names(place, "nothing/") == []
    (info,) = [info async for info in place.list("ab/")]
    assert info.size == len("ab/three")
    assert abs(info.modified_at - Path("/proc/self").stat().st_mtime) < 3600


@pytest.mark.parametrize(
    "name", ["../up", "/absolute", "a//b", "", "a/../b", ".", "a/.", ".hidden", "a b", "a\nb", "ü"]
)
async def test_names_that_could_mean_something_else_are_refused(place: Objects, name: str) -> None:
    for call in (place.put(name, b"x"), place.get(name), place.delete([name])):
        with pytest.raises(ValueError):
            await call


async def test_many_at_once(place: Objects) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            tasks.create_task(place.put(f"same/{number % 10}", b"%d" % (number % 10)))
    assert len(await names(place, "same/")) == 10
    assert await place.get("same/7") == b"7"


async def test_a_folder_is_private_and_has_no_half_of_an_object(tmp_path: Path) -> None:
    place = FolderObjects(tmp_path / "objects")
    await place.put("a/b", b"bytes")
    (tmp_path / "objects" / "a" / ".new-left").write_bytes(b"of a crash")
    assert await names(place, "") == ["a/b"]
    for path, mode in ((tmp_path / "objects", 0o700), (tmp_path / "objects" / "a", 0o700)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "objects" / "a" / "b").stat().st_mode) == 0o600
    os.utime(tmp_path / "objects" / "a" / ".new-left", (0, 0))
    await names(place, "")
    assert os.listdir(tmp_path / "objects" / "a") == ["b"]


async def test_a_folder_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file")
    with pytest.raises(ObjectsUnavailable, match="check the folder"):
        await FolderObjects(tmp_path / "objects").put("a", b"x")


async def test_prefixes_share_a_bucket(s3: S3Server) -> None:
    one = s3.bucket("one")
    first, second = S3Objects(one), S3Objects(Bucket(one.name, "", one.endpoint, "", "key", "secret"))
    await first.put("a", b"x")
    assert await names(first, "") == ["a"]
    assert await names(second, "") == ["one/a"]


async def test_a_bucket_that_is_gone_is_not_an_object_that_is(s3: S3Server) -> None:
    """Else every snapshot in it would look damaged."""
    place = S3Objects(Bucket("no-such-bucket", "", s3.endpoint, "", "key", "secret"), IMPATIENT)
    for call in (place.get("a"), place.put("a", b"x"), anext(aiter(place.list("")))):
        with pytest.raises(ObjectsUnavailable, match="NoSuchBucket"):
            await call


async def test_a_server_that_is_away(s3: S3Server) -> None:
    place = S3Objects(Bucket("bucket", "", "http://127.0.0.1:1", "", "key", "secret"), IMPATIENT)
    for call in (place.get("a"), place.put("a", b"x"), place.delete(["a"]), anext(aiter(place.list("")))):
        with pytest.raises(ObjectsUnavailable):
            await call


async def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    place = S3Objects(Bucket("bucket", "", f"http://127.0.0.1:{port}", "", "key", "secret"), IMPATIENT)
    with pytest.raises(ObjectsUnavailable):
        async with asyncio.timeout(60):
            await place.get("a")
    silent.close()


async def test_the_place_is_tried_when_a_server_starts(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.bucket()
    right = {
        "objects__url": f"s3://{bucket.name}/sessions",
        "objects__endpoint": s3.endpoint,
        "objects__access_key_id": "key",
        "objects__secret_access_key": "secret",
        "state_dir": str(tmp_path),
    }
    place = await open_objects(load({}, **right))
    await place.put("a", b"x")
    assert [each["Key"] for each in s3.client().list_objects_v2(Bucket=bucket.name)["Contents"]] == ["sessions/a"]
    assert isinstance(await open_objects(load({}, state_dir=str(tmp_path))), FolderObjects)

    for wrong, told in (
        ({"objects__url": "s3://no-such-bucket"}, "NoSuchBucket.*objects.url"),
        ({"objects__url": "http://elsewhere"}, "write it like s3://bucket/prefix"),
        ({"objects__secret_access_key": ""}, "go together"),
    ):
        with pytest.raises(InvalidRequest, match=told):
            await open_objects(load({}, **(right | wrong)))
