"""Memories and their versions through the official client (T52): paths, preconditions, lists, history."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any

import anthropic
import pytest
from apikit_raw import send
from apikit_server import Access, RunningServer

from hostler.domain.memories import MAX_CONTENT_BYTES, MAX_MEMORIES
from hostler.store.memory_stores import memory_bytes
from hostler.store.tables_memory import memory_stores


@pytest.fixture
def store(client: anthropic.Anthropic) -> str:
    return client.beta.memory_stores.create(name="notes").id


def create(access: Access, store: str, path: str, content: Any = "") -> Any:
    return send(
        access.base_url, "POST", f"/v1/memory_stores/{store}/memories", key=access.key,
        body=json.dumps({"path": path, "content": content}).encode(),
    )  # fmt: skip


@pytest.mark.endpoint("memory_stores.memories.create", "memory_stores.memories.retrieve")
@pytest.mark.parametrize("content", ["", "plain", "ä\u0000\r\n\u2028 e\u0301 \U0001f600", "x" * MAX_CONTENT_BYTES])
def test_content_is_kept_byte_by_byte(client: anthropic.Anthropic, store: str, content: str) -> None:
    memories = client.beta.memory_stores.memories
    made = memories.create(store, path="/a.md", content=content)
    assert made.content is None
    raw = content.encode()
    assert (made.content_sha256, made.content_size_bytes) == (hashlib.sha256(raw).hexdigest(), len(raw))
    assert made.created_at == made.updated_at
    full = memories.retrieve(made.id, memory_store_id=store)
    assert full.content == content
    assert memories.retrieve(made.id, memory_store_id=store, view="basic").to_dict() == made.to_dict()
    assert full.to_dict() == {**made.to_dict(), "content": content}


@pytest.mark.endpoint("memory_stores.memories.create")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "must start with /"),
        ("a", "must start with /"),
        ("/", "empty segment"),
        ("/a/", "empty segment"),
        ("//a", "empty segment"),
        ("/a//b", "empty segment"),
        ("/.", ". or .."),
        ("/a/../b", ". or .."),
        ("/a/..", ". or .."),
        ("/" + "/".join("abcdefghijklmnopqrstu"), "21 segments"),
        ("/a\nb", "U+000A"),
        ("/a\u0000b", "U+0000"),
        ("/a\u007fb", "U+007F"),
        ("/a\u200db", "U+200D"),
        ("/a\u202eb", "U+202E"),
        ("/a\u2028b", "U+2028"),
        ("/a\u2029b", "U+2029"),
        ("/e\u0301", "Form C"),
        ("/" + "a" * 1024, "1025 bytes"),
        ("/" + "ä" * 512, "1025 bytes"),
    ],
)
def test_path_that_no_memory_can_have_is_refused(access: Access, store: str, path: str, words: str) -> None:
    answer = create(access, store, path)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert answer.error["message"].startswith("path: ")
    assert words in answer.error["message"]


@pytest.mark.endpoint("memory_stores.memories.create")
@pytest.mark.parametrize(
    "path",
    [
        "/a",
        "/.a",
        "/...",
        "/a b",
        "/é",
        "/日本/語.md",
        "/" + "/".join("abcdefghijklmnopqrst"),
        "/" + "a" * 1023,
        "/-",
        "/*",
    ],
)
def test_path_that_a_memory_can_have_is_taken_as_it_is(client: anthropic.Anthropic, store: str, path: str) -> None:
    made = client.beta.memory_stores.memories.create(store, path=path, content="")
    assert made.path == path
    assert [m.path for m in client.beta.memory_stores.memories.list(store)] == [path]


@pytest.mark.endpoint("memory_stores.memories.create")
def test_content_that_no_memory_can_have_is_refused(access: Access, store: str) -> None:
    for content, words in (("ä" * (MAX_CONTENT_BYTES // 2 + 1), "102402 bytes"), (None, "content"), (1, "string")):
        answer = create(access, store, "/a", content)
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
        assert words in answer.error["message"]


@pytest.mark.endpoint("memory_stores.memories.create", "memory_stores.memories.update")
def test_taken_path_is_a_conflict_of_its_own_kind_and_is_not_retried(
    server: RunningServer, access: Access, client: anthropic.Anthropic, store: str
) -> None:
    memories = client.beta.memory_stores.memories
    made = memories.create(store, path="/a/b", content="")
    for path in ("/a/b", "/a", "/a/b/c", "/a/b/c/d"):
        answer = create(access, store, path)
        assert (answer.status, answer.headers["x-should-retry"]) == (409, "false")
        error = dict(answer.error)
        assert error.pop("message")
        assert error == {
            "type": "memory_path_conflict_error", "conflicting_memory_id": made.id, "conflicting_path": "/a/b",
        }  # fmt: skip
    other = memories.create(store, path="/A/b", content="case counts")
    for neighbour in ("/a-b", "/a/b.md", "/a0", "/a/bc"):
        memories.create(store, path=neighbour, content="")
    before = len(server.requests)
    with access.client(max_retries=2) as retrying, pytest.raises(anthropic.ConflictError):
        retrying.beta.memory_stores.memories.update(other.id, memory_store_id=store, path="/a/b")
    assert len(server.requests) == before + 1
    # In its own way it is not: a memory can move into a folder of its own name, and back.
    assert memories.update(made.id, memory_store_id=store, path="/a/b/c").path == "/a/b/c"
    assert memories.update(made.id, memory_store_id=store, path="/a/b").path == "/a/b"


@pytest.mark.endpoint("memory_stores.memories.update", "memory_stores.memories.delete")
def test_precondition_is_about_the_content_that_is_there(
    server: RunningServer, access: Access, client: anthropic.Anthropic, store: str
) -> None:
    memories = client.beta.memory_stores.memories
    made = memories.create(store, path="/a", content="one")
    stale: Any = {"type": "content_sha256", "content_sha256": hashlib.sha256(b"other").hexdigest()}
    right: Any = {"type": "content_sha256", "content_sha256": made.content_sha256}
    before = len(server.requests)
    with access.client(max_retries=2) as retrying:
        for change in ({"content": "two"}, {"path": "/b"}, {}):
            with pytest.raises(anthropic.ConflictError) as refused:
                retrying.beta.memory_stores.memories.update(
                    made.id, memory_store_id=store, precondition=stale, **change
                )
            assert refused.value.type == "memory_precondition_failed_error"
        with pytest.raises(anthropic.ConflictError) as refused:
            retrying.beta.memory_stores.memories.delete(
                made.id, memory_store_id=store, expected_content_sha256=stale["content_sha256"]
            )
        assert refused.value.type == "memory_precondition_failed_error"
    assert len(server.requests) == before + 4
    moved = memories.update(made.id, memory_store_id=store, path="/b", precondition=right)
    assert (moved.id, moved.path, moved.content_sha256) == (made.id, "/b", made.content_sha256)
    assert moved.memory_version_id != made.memory_version_id
    changed = memories.update(made.id, memory_store_id=store, content="two", precondition=right, view="full")
    assert (changed.content, changed.created_at) == ("two", made.created_at)
    assert changed.updated_at > made.updated_at
    deleted = memories.delete(made.id, memory_store_id=store, expected_content_sha256=changed.content_sha256)
    assert deleted.to_dict() == {"id": made.id, "type": "memory_deleted"}
    with pytest.raises(anthropic.NotFoundError):
        memories.retrieve(made.id, memory_store_id=store)
    for bad in ("A" * 64, "a" * 63):
        with pytest.raises(anthropic.BadRequestError, match="64 lowercase"):
            memories.delete(made.id, memory_store_id=store, expected_content_sha256=bad)


@pytest.mark.endpoint("memory_stores.memories.update", "memory_stores.memory_versions.list")
def test_change_of_nothing_adds_no_version(client: anthropic.Anthropic, store: str) -> None:
    memories = client.beta.memory_stores.memories
    made = memories.create(store, path="/a", content="one")
    for change in ({}, {"content": "one"}, {"path": "/a"}, {"content": None, "path": None}):
        assert memories.update(made.id, memory_store_id=store, **change).to_dict() == made.to_dict()
    assert len(client.beta.memory_stores.memory_versions.list(store).data) == 1


@pytest.mark.endpoint("memory_stores.memories.update")
def test_update_is_also_taken_as_patch(access: Access, client: anthropic.Anthropic, store: str) -> None:
    made = client.beta.memory_stores.memories.create(store, path="/a", content="one")
    path = f"/v1/memory_stores/{store}/memories/{made.id}"
    assert send(access.base_url, "PATCH", path, key=access.key, body=b'{"content": "two"}').status == 200
    assert client.beta.memory_stores.memories.retrieve(made.id, memory_store_id=store).content == "two"


# ------------------------------------------------------------------------------------------------------------ lists


@pytest.mark.endpoint("memory_stores.memories.list")
def test_list_is_in_the_order_of_paths_and_shows_folders_when_asked(client: anthropic.Anthropic, store: str) -> None:
    memories = client.beta.memory_stores.memories
    paths = ["/b.md", "/a/2", "/a/1", "/a.md", "/a-x", "/Z", "/é", "/a/c/d", "/a/c/e", "/a0"]
    for path in paths:
        memories.create(store, path=path, content=path)
    ordered = sorted(paths, key=str.encode)
    for limit in (1, 3, 100):
        listed = list(memories.list(store, limit=limit))
        assert [m.path for m in listed] == ordered
        assert all(m.type == "memory" and m.content is None for m in listed)

        def shown(prefix: str | None, limit: int = limit) -> list[tuple[str, str]]:
            asked = {} if prefix is None else {"path_prefix": prefix}
            return [(m.type, m.path) for m in memories.list(store, depth=1, limit=limit, **asked)]

        top = [("memory", p) for p in ordered if p.count("/") == 1] + [("memory_prefix", "/a/")]
        assert shown(None) == shown("/") == sorted(top, key=lambda item: item[1].encode())
        assert shown("/a/") == [("memory", "/a/1"), ("memory", "/a/2"), ("memory_prefix", "/a/c/")]
        assert shown("/a/c/") == [("memory", "/a/c/d"), ("memory", "/a/c/e")]
        assert shown("/nothing/") == []
    assert [m.path for m in memories.list(store, path_prefix="/a/")] == ["/a/1", "/a/2", "/a/c/d", "/a/c/e"]
    for bad in ("/a", "a/", "//", "/../"):
        with pytest.raises(anthropic.BadRequestError, match="path_prefix"):
            memories.list(store, path_prefix=bad)
    with pytest.raises(anthropic.BadRequestError, match="depth"):
        memories.list(store, depth=2)


@pytest.mark.endpoint("memory_stores.memories.list")
def test_page_with_contents_is_short_whatever_was_asked(client: anthropic.Anthropic, store: str) -> None:
    memories = client.beta.memory_stores.memories
    for n in range(25):
        memories.create(store, path=f"/{n:02}", content=str(n))
    first = memories.list(store, view="full", limit=100)
    assert len(first.data) == 20
    assert [m.content for m in memories.list(store, view="full", limit=100)] == [str(n) for n in range(25)]  # type: ignore[union-attr]
    assert len(memories.list(store).data) == 20
    assert len(memories.list(store, limit=100).data) == 25
    versions = client.beta.memory_stores.memory_versions
    assert len(versions.list(store, view="full", limit=100).data) == 20
    assert [v.content for v in versions.list(store, view="full")] == [str(n) for n in reversed(range(25))]


@pytest.mark.endpoint("memory_stores.memories.list")
def test_pages_lose_and_repeat_nothing_while_others_write(client: anthropic.Anthropic, store: str) -> None:
    memories = client.beta.memory_stores.memories
    long = "/" + "ü" * 500
    steady = [f"{long}/{n}" for n in range(3)] + [f"/m{n}" for n in range(6)]
    for path in steady:
        memories.create(store, path=path, content="")
    seen: list[str] = []
    page = memories.list(store, limit=2)
    turn = 0
    while True:
        seen += [m.path for m in page.data]
        turn += 1
        made = memories.create(store, path=f"/a{turn}", content="")
        memories.create(store, path=f"/zz{turn}", content="")
        memories.delete(made.id, memory_store_id=store)
        if not page.has_next_page():
            break
        page = page.get_next_page()
        assert turn < 50
    assert len(seen) == len(set(seen))
    assert set(steady) <= set(seen)
    assert seen == sorted(seen, key=str.encode)


@pytest.mark.endpoint("memory_stores.memories.list")
def test_page_token_of_another_list_is_refused(client: anthropic.Anthropic, store: str) -> None:
    stores = client.beta.memory_stores
    for n in range(3):
        stores.memories.create(store, path=f"/{n}", content="")
    other = stores.create(name="other").id
    token = stores.memories.list(store, limit=1).next_page
    assert token is not None
    for page, listed in (
        (token, lambda p: stores.memories.list(other, page=p)),
        (token, lambda p: stores.memory_versions.list(store, page=p)),
        (stores.memory_versions.list(store, limit=1).next_page, lambda p: stores.memories.list(store, page=p)),
        ("nonsense", lambda p: stores.memories.list(store, page=p)),
    ):
        with pytest.raises(anthropic.BadRequestError, match="page"):
            listed(page)


# ---------------------------------------------------------------------------------------------------------- history


@pytest.mark.endpoint("memory_stores.memory_versions.list", "memory_stores.memory_versions.retrieve")
def test_every_change_is_a_version_and_outlives_the_memory(client: anthropic.Anthropic, store: str) -> None:
    stores = client.beta.memory_stores
    made = stores.memories.create(store, path="/a", content="one")
    stores.memories.update(made.id, memory_store_id=store, content="two")
    head = stores.memories.update(made.id, memory_store_id=store, path="/b")
    other = stores.memories.create(store, path="/other", content="")
    assert stores.memory_versions.list(store, memory_id=made.id).data[0].id == head.memory_version_id
    stores.memories.delete(made.id, memory_store_id=store)
    versions = stores.memory_versions.list(store, memory_id=made.id, view="full").data
    assert [(v.operation, v.path, v.content, v.content_size_bytes) for v in versions] == [
        ("deleted", "/b", None, None),
        ("modified", "/b", "two", 3),
        ("modified", "/a", "two", 3),
        ("created", "/a", "one", 3),
    ]
    authors = [version.created_by.to_dict() for version in versions if version.created_by is not None]
    key_id = authors[0]["api_key_id"]
    assert authors == [{"type": "api_actor", "api_key_id": key_id}] * 4
    assert str(key_id).startswith("apikey_")
    basic = stores.memory_versions.list(store).data
    assert [v.memory_id for v in basic] == [made.id, other.id, made.id, made.id, made.id]
    assert all(v.content is None for v in basic)
    one = stores.memory_versions.retrieve(versions[3].id, memory_store_id=store)
    assert (one.content, one.content_sha256) == ("one", made.content_sha256)
    assert stores.memory_versions.retrieve(versions[3].id, memory_store_id=store, view="basic").content is None

    def found(**asked: Any) -> int:
        return len(stores.memory_versions.list(store, **asked).data)

    assert found(operation="modified") == found(operation="modified", memory_id=made.id) == 2
    assert found(api_key_id=key_id) == 5
    assert found(api_key_id="apikey_other") == found(session_id=key_id) == found(service_account_id=key_id) == 0
    assert found(created_at_gte=versions[0].created_at) == found(created_at_lte=versions[3].created_at) == 1
    assert len(list(stores.memory_versions.list(store, limit=2))) == 5


@pytest.mark.endpoint("memory_stores.memory_versions.redact")
def test_redaction_forgets_a_version_but_not_the_one_that_counts(
    server: RunningServer, access: Access, client: anthropic.Anthropic, store: str
) -> None:
    stores = client.beta.memory_stores
    made = stores.memories.create(store, path="/a", content="secret")
    first = made.memory_version_id
    with pytest.raises(anthropic.BadRequestError, match="holds now"):
        stores.memory_versions.redact(first, memory_store_id=store)
    stores.memories.update(made.id, memory_store_id=store, content="harmless")
    redacted = stores.memory_versions.redact(first, memory_store_id=store)
    assert (redacted.path, redacted.content, redacted.content_sha256, redacted.content_size_bytes) == (None,) * 4
    assert redacted.redacted_at is not None
    assert redacted.redacted_by is not None
    assert redacted.redacted_by.type == "api_actor"
    assert redacted.created_by is not None
    assert redacted.operation == "created"
    assert stores.memory_versions.redact(first, memory_store_id=store).to_dict() == redacted.to_dict()
    assert stores.memory_versions.retrieve(first, memory_store_id=store).to_dict() == redacted.to_dict()
    assert server.call(server.database.read(lambda c: memory_bytes(c, access.workspace))) == len("harmless")
    stores.memories.delete(made.id, memory_store_id=store)
    for version in stores.memory_versions.list(store).data:  # the deletion too: its path may be what must go
        stores.memory_versions.redact(version.id, memory_store_id=store)
    assert {v.path for v in stores.memory_versions.list(store).data} == {None}
    assert server.call(server.database.read(lambda c: memory_bytes(c, access.workspace))) == 0


@pytest.mark.endpoint("memory_stores.memories.create")
def test_full_store_takes_no_more(server: RunningServer, client: anthropic.Anthropic, store: str) -> None:
    made = client.beta.memory_stores.memories.create(store, path="/a", content="")

    def fill(count: int) -> None:
        server.write(
            lambda c: c.execute(memory_stores.update().values(memories=count).where(memory_stores.c.id == store))
        )

    fill(MAX_MEMORIES)
    with pytest.raises(anthropic.BadRequestError, match="at most 2000"):
        client.beta.memory_stores.memories.create(store, path="/b", content="")
    client.beta.memory_stores.memories.update(made.id, memory_store_id=store, content="still")
    client.beta.memory_stores.memories.delete(made.id, memory_store_id=store)
    client.beta.memory_stores.memories.create(store, path="/b", content="")


@pytest.mark.endpoint("memory_stores.memories.create", "memory_stores.memories.update")
def test_many_writers_at_once_make_one_memory_of_one_path(client: anthropic.Anthropic, store: str) -> None:
    stores = client.beta.memory_stores
    start = threading.Barrier(12)
    outcomes: list[str] = []

    def write(number: int) -> None:
        start.wait()
        path = "/same" if number % 2 else f"/same/{number}"
        try:
            stores.memories.create(store, path=path, content=str(number))
            outcomes.append(path)
        except anthropic.ConflictError as error:
            outcomes.append(str(error.type))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [o for o in outcomes if o.startswith("/")]
    assert sorted(made) == [m.path for m in stores.memories.list(store)]
    assert made == ["/same"] or "/same" not in made
    assert set(outcomes) <= {*made, "memory_path_conflict_error"}
    assert len(stores.memory_versions.list(store).data) == len(made)
