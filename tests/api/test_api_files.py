"""Files over HTTP: uploads as they stream in, lists of both generations, what can't be downloaded, what expires."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import anthropic
import pytest
import sqlalchemy as sa
from apikit_server import MOST_FILE_BYTES, Access, RunningServer

from hostler.store.tables_files import files as table


def post_form(access: Access, body: Iterator[bytes] | bytes, length: int | None = None) -> tuple[int, Any]:
    """A form as it is, which no client library would send."""
    connection = http.client.HTTPConnection(urlsplit(access.base_url).netloc, timeout=60)
    headers = {"x-api-key": access.key, "content-type": "multipart/form-data; boundary=edge"}
    if length is not None:
        headers["content-length"] = str(length)
    connection.request("POST", "/v1/files", body=body, headers=headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def part(name: str, value: bytes, extra: str = "") -> bytes:
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + value + b"\r\n"


END = b"--edge--\r\n"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@pytest.mark.endpoint("files.upload", "files.retrieve_metadata")
def test_upload_shows_what_was_sent(client: anthropic.Anthropic) -> None:
    made = client.beta.files.upload(file=("a/b/report.pdf", b"%PDF-1.7 ...", "application/pdf"))
    assert (made.filename, made.mime_type, made.size_bytes) == ("report.pdf", "application/pdf", 12)
    assert (made.downloadable, made.expires_at, made.scope) == (False, None, None)
    assert made.id.startswith("file_")
    assert client.beta.files.retrieve_metadata(made.id).to_dict() == made.to_dict()


@pytest.mark.parametrize(
    ("sent", "name", "content", "kind"),
    [
        (' filename="..\\\\evil/..\\\\..\\\\x.csv"', "x.csv", b"a,b", "text/csv"),
        (' filename="/etc/passwd"', "passwd", b"root", "text/plain"),
        (' filename="a\tb<c>.txt"', "a_b_c_.txt", b"t", "text/plain"),
        (' filename=""', "unnamed.png", b"\x89PNG\r\n\x1a\n", "image/png"),
        (' filename=".."', "unnamed.bin", b"\x00\x01", "application/octet-stream"),
        ("", "unnamed.txt", b"plain words", "text/plain"),
        (' filename="' + "é" * 300 + '.txt"', "é" * 125 + ".txt", b"t", "text/plain"),
        (' filename="deck.docx"', "deck.docx", b"PK\x03\x04", DOCX),
    ],
)  # fmt: skip
def test_names_and_kinds_are_made_safe(access: Access, sent: str, name: str, content: bytes, kind: str) -> None:
    status, made = post_form(access, part("file", content, f";{sent}" if sent else "") + END)
    assert (status, made["filename"], made["mime_type"]) == (200, name, kind), made


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (END, 400, "file: is required"),
        (part("file", b"x", '; filename="a"') * 2 + END, 400, "file: was sent twice"),
        (part("purpose", b"x") + END, 400, "purpose: is not a field"),
        (part("file", b"x", '; filename="a"'), 400, "ends in the middle"),
        (b"no form at all", 400, "not a multipart form"),
        (part("file", b"x", '; filename="a"') + part("expires_in_seconds", b"60") + END, 400, "from 3600 to 7776000"),
        (part("file", b"x", '; filename="a"') + part("expires_in_seconds", b"1e5") + END, 400, "must be an integer"),
        (b"--edge\r\nX: y\r\n\r\nz\r\n" + END, 400, "has no name"),
    ],
)
def test_bad_forms_are_told_what_is_wrong(
    access: Access, client: anthropic.Anthropic, body: bytes, status: int, text: str
) -> None:
    got, answer = post_form(access, body)
    assert (got, answer["error"]["type"]) == (status, "invalid_request_error"), answer
    assert text in answer["error"]["message"]
    assert client.beta.files.list().data == []


@pytest.mark.slow
def test_large_file_passes_where_others_may_not_be_large_and_too_large_is_413(
    access: Access, client: anthropic.Anthropic
) -> None:
    made = client.beta.files.upload(file=("big", bytes(MOST_FILE_BYTES)))
    assert made.size_bytes == MOST_FILE_BYTES > 32 << 20

    def endless() -> Iterator[bytes]:
        yield part("file", b"", '; filename="a"')[:-2]
        for _ in range((MOST_FILE_BYTES >> 20) + 2):
            yield bytes(1 << 20)

    for body, length in ((endless(), None), (b"", 10 * MOST_FILE_BYTES)):
        status, answer = post_form(access, body, length)
        assert (status, answer["error"]["type"]) == (413, "request_too_large")
    with pytest.raises(anthropic.RequestTooLargeError):
        client.beta.agents.create(name="a", model="claude-opus-5-5", system="x" * (33 << 20))


@pytest.mark.endpoint("files.list", "files.delete")
def test_list_pages_by_ids_and_leaves_out_what_is_gone(client: anthropic.Anthropic, stranger: Access) -> None:
    made = [client.beta.files.upload(file=(f"{n}.txt", b"x")).id for n in range(5)][::-1]
    first = client.beta.files.list(limit=2)
    assert [file.id for file in first.data] == made[:2]
    assert first.next_page is not None
    assert first.next_page.startswith("page_")
    assert [file.id for file in client.beta.files.list(limit=2)] == made
    assert client.beta.files.delete(made[0]).to_dict() == {"id": made[0], "type": "file_deleted"}
    with stranger.client() as other:
        foreign = other.beta.files.upload(file=("f", b"x")).id
        assert [file.id for file in other.beta.files.list(ids=[*made, foreign])] == [foreign]
        for call in (other.beta.files.retrieve_metadata, other.beta.files.download, other.beta.files.delete):
            with pytest.raises(anthropic.NotFoundError):
                call(made[1])
    listed = client.beta.files.list(ids=[made[2], made[0], foreign, made[1], made[1]])
    assert ([file.id for file in listed.data], listed.next_page) == (made[1:3], None)
    assert client.beta.files.list(scope_id="sesn_none").data == []
    for fields, text in (
        ({"ids": made, "limit": 2}, "can't be combined"),
        ({"ids": made, "page": first.next_page}, "can't be combined"),
        ({"ids": [f"file_{n}" for n in range(101)]}, "at most 100"),
        ({"limit": 1001}, "limit: is 1001"),
        ({"page": "page_x"}, "not a page token"),
        ({"extra_query": {"after_id": "x"}}, "after_id: is not a query parameter"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=text):
            client.beta.files.list(**fields)  # type: ignore[arg-type]


@pytest.mark.endpoint("files.download")
def test_upload_is_not_downloadable_and_expired_content_is_gone(
    client: anthropic.Anthropic, server: RunningServer
) -> None:
    made = client.beta.files.upload(file=("a.txt", b"x"), expires_in_seconds=3600)
    assert made.expires_at is not None
    assert (made.expires_at - made.created_at).total_seconds() == 3600
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.files.download(made.id)
    assert type(refused.value).__name__ == "FileNotDownloadableError"
    past = "2020-01-01T00:00:00.000000Z"
    server.write(lambda c: c.execute(sa.update(table).where(table.c.id == made.id).values(expires_at=past)))
    with pytest.raises(anthropic.NotFoundError) as gone:
        client.beta.files.download(made.id)
    assert gone.value.body["error"]["details"] == {"error_code": "file_expired"}  # type: ignore[index]
    assert client.beta.files.retrieve_metadata(made.id).id == made.id


def test_download_is_an_attachment_that_no_browser_shows(client: anthropic.Anthropic, server: RunningServer) -> None:
    made = client.beta.files.upload(file=("päge.html", b"<script>", "text/html"))
    server.write(lambda c: c.execute(sa.update(table).where(table.c.id == made.id).values(downloadable=True)))
    raw = client.beta.files.with_raw_response.download(made.id)
    assert raw.http_response.content == b"<script>"
    assert raw.headers["content-disposition"] == "attachment; filename*=UTF-8''p%C3%A4ge.html"
    assert raw.headers["x-content-type-options"] == "nosniff"
    assert raw.headers["content-length"] == "8"
