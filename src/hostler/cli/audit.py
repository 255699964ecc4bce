"""`hostler audit`: what happened, and whether the record of it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.bundles import private_file, refuse, streaming
from hostler.cli.client import Address, connected
from hostler.cli.oversight import rows_of
from hostler.cli.problem import WRONG, Problem, spelled
from hostler.cli.terminal import plain_line

if TYPE_CHECKING:
    from hostler.config import Settings
    from hostler.engine.audit_verifier import Report

_PREFIX: Final = "/hostler/v1/audit"
_PIECE: Final = 1 << 20
_LONGEST: Final = 16 << 20
"""Bytes of a line. What is longer is no export: it must not fill the memory."""
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


def show(address: Address, *, limit: int, filters: Mapping[str, Any], as_json: bool) -> None:
    """Newest first. JSON: `{"audit": [<entry of the API>, …]}`."""
    rows = rows_of(address, _PREFIX, limit, **filters)
    if as_json:
        print(json.dumps({"audit": rows}))
        return
    console = terminal.out()
    if not rows:
        console.print("No such entry.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("when", "who", "act", "on", "details"):
        table.add_column(title, no_wrap=title in ("when", "act"), overflow="fold")
    for row in rows:
        who = plain_line(f"{row['actor']['type']} {row['actor']['id']}", 60)
        details = plain_line(json.dumps(row["details"], ensure_ascii=False), 200)
        table.add_row(row["created_at"][:19], who, row["act"], plain_line(row["target_id"], 60), details)
    console.print(table)


def status(address: Address, workspace: str | None, *, as_json: bool) -> None:
    """JSON: the answer of the API."""
    with connected(address) as client:
        query = {} if workspace is None else {"workspace_id": workspace}
        found: Any = client.get(f"{_PREFIX}/chain", cast_to=object, options={"params": query})
    if as_json:
        print(json.dumps(found))
        return
    console = terminal.out()
    console.print(f"{found['workspace_id']}: entries {found['first_seq']} to {found['seq']}.")
    console.print(f"Anchor: {found['seq']}:{found['hash']}", highlight=False)
    if found["checkpoint"] is not None:
        signed = found["checkpoint"]
        console.print(f"Signed up to {signed['seq']} at {signed['at'][:19]} with {signed['signer']}.", highlight=False)
    for key in found["signers"]:
        console.print(f"Public key {key['id']}: {key['public_key']}", highlight=False)


def export(address: Address, workspace: str | None, target: Path, *, force: bool, as_json: bool) -> None:
    """JSON: `{"file", "workspace_id", "entries", "bytes", "anchor"}`. What was written has been verified."""
    if target.exists() and not force:
        raise Problem(f"{target} is there already", next_command=f"--output FILE, or --force to replace {target}")
    fresh = target.with_name(f"{target.name}.part")
    try:
        with _fetched(address, workspace) as pieces, private_file(fresh) as out:
            for piece in _packed(pieces) if target.suffix == ".zst" else pieces:
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        with _lines_of(fresh) as lines:
            report = _report(lines, (), ())
        if any(found.what in ("form", "incomplete") for found in report.findings):
            raise Problem("the export did not come whole", next_command="the same once more")
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    size = target.stat().st_size
    anchor = f"{report.seq}:{report.hash}"
    if as_json:
        facts = {"workspace_id": report.workspace, "entries": report.entries, "bytes": size, "anchor": anchor}
        print(json.dumps({"file": str(target), **facts}))
        return
    console = terminal.out()
    console.print(f"{target}: {report.entries:,} entries of {plain_line(report.workspace, 100)}, {size:,} bytes.")
    console.print(f"Keep this where nobody of this server gets at it: {anchor}", highlight=False)
    if not report.intact:
        terminal.err().print(f"{len(report.findings)} things are wrong: {spelled(f'hostler audit verify {target}')}")


def verify(
    file: Path | None,
    address: Address | None,
    workspace: str | None,
    *,
    anchors: Sequence[str],
    public_keys: Sequence[Path],
    as_json: bool,
) -> int:
    """The exit code. JSON: see `_shown`."""
    trusted = [_public_key(path) for path in public_keys]
    if file is not None:
        with _lines_of(file) as lines:
            report = _report(lines, trusted, anchors)
    else:
        assert address is not None
        with _fetched(address, workspace) as pieces:
            report = _report(_split(pieces), trusted, anchors)
    if as_json:
        print(json.dumps(_shown(report)))
        return 0 if report.intact else 1
    console = terminal.out()
    for found in report.findings:
        console.print(f"{found.what.upper()}  {plain_line(found.where, 100)}: {plain_line(found.message, 300)}")
    if report.more:
        console.print(f"… and {report.more} more.")
    if not report.intact:
        return 1
    console.print(
        f"Intact: {report.entries:,} entries of {plain_line(report.workspace, 100)}, {report.first} to {report.seq}; "
        f"{report.rows:,} rows that they answer for; {report.checkpoints:,} checkpoints, signed up to "
        f"{report.signed_seq}.",
        highlight=False,
    )
    if report.unvouched:
        console.print(
            f"Not verifiable: {report.unvouched:,} rows of entries that retention has taken other rows from; nobody "
            "answers for what they say.",
            style="yellow",
            highlight=False,
        )
    console.print(f"Anchor: {report.seq}:{report.hash}", highlight=False)
    for key_id, public_key in report.signers.items():
        console.print(f"Signed with {key_id}: {public_key}", highlight=False)
    if not report.pinned:
        console.print("Compare these keys with those that you were given, or use --public-key.", style="dim")
    return 0


def redact(address: Address, workspace: str | None, subject: str, *, as_json: bool) -> None:
    """JSON: the answer of the API."""
    body = {"subject": subject} | ({} if workspace is None else {"workspace_id": workspace})
    with connected(address) as client:
        done: Any = client.post(f"{_PREFIX}/redact", body=body, cast_to=object)
    if as_json:
        print(json.dumps(done))
        return
    terminal.out().print(f"Nobody can read it any more. Entries call it {done['subject_id']}.", highlight=False)


def rotate_key(settings: Settings, *, as_json: bool) -> None:
    """JSON: `{"key", "public_key", "older": [id, …]}`."""
    from hostler.compose.audit import rotated_key
    from hostler.domain.errors import InvalidRequest

    try:
        *older, current = rotated_key(settings)
    except InvalidRequest as error:
        raise Problem(error.message, next_command="hostler audit --help", code=WRONG) from error
    if as_json:
        print(json.dumps({"key": current.id, "public_key": current.public_key, "older": [key.id for key in older]}))
        return
    console = terminal.out()
    console.print(f"Checkpoints are signed with {current.id} from now on.", highlight=False)
    console.print(f"Public key: {current.public_key}", highlight=False)


# ------------------------------------------------------------------------------------------------------- what it takes


def _report(lines: Iterable[bytes], trusted: Sequence[str], anchors: Sequence[str]) -> Report:
    from hostler.engine.audit_verifier import verified
    from hostler.sealing.signing import signature_holds

    return verified(lines, signature_holds, trusted=trusted, anchors=anchors)


def _shown(report: Report) -> dict[str, Any]:
    return {
        "intact": report.intact,
        "workspace_id": report.workspace,
        "entries": report.entries,
        "first_seq": report.first,
        "seq": report.seq,
        "anchor": f"{report.seq}:{report.hash}",
        "checkpoints": report.checkpoints,
        "signed_seq": report.signed_seq,
        "rows": report.rows,
        "unverifiable_rows": report.unvouched,
        "signers": [{"id": id_, "public_key": key} for id_, key in report.signers.items()],
        "pinned": report.pinned,
        "findings": [found.json() for found in report.findings],
        "more_findings": report.more,
    }


def _public_key(path: Path) -> str:
    try:
        text = path.read_text().strip().lower()
        whole = len(bytes.fromhex(text)) == 32
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise Problem(
            f"{path} holds no public key: 64 hexadecimal digits",
            next_command="hostler audit status   (on the server that signs, while you trust it)",
            code=WRONG,
        )
    return text


@contextmanager
def _lines_of(file: Path) -> Iterator[Iterable[bytes]]:
    import zstandard

    try:
        with file.open("rb") as raw:
            packed = raw.read(4) == _ZSTD
            raw.seek(0)
            if not packed:
                yield _split(iter(lambda: raw.read(_PIECE), b""))
                return
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw) as plain:
                yield _split(iter(lambda: plain.read(_PIECE), b""))
    except OSError as error:
        raise Problem(f"can't read {file}: {error.strerror}", next_command="hostler audit verify FILE") from error
    except zstandard.ZstdError as error:
        raise Problem(f"{file} is damaged: {error}", next_command="hostler audit export -o FILE") from error


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        if len(rest) > _LONGEST:
            raise Problem(
                "this is no export of an audit log: it has a line without end",
                next_command="hostler audit export -o FILE",
            )
        yield from lines
    if rest:
        yield rest


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    import zstandard

    packer = zstandard.ZstdCompressor(level=6, write_checksum=True).compressobj()
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


@contextmanager
def _fetched(address: Address, workspace: str | None) -> Iterator[Iterator[bytes]]:
    """What the server exports, as it comes."""
    query = {} if workspace is None else {"workspace_id": workspace}
    with streaming(address) as client, client.stream("GET", f"{_PREFIX}/export", params=query) as answer:
        refuse(answer)
        yield answer.iter_bytes(_PIECE)
