"""`hostler sessions export`, `import` and `verify-bundle`: sessions as files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from hostler.cli import terminal
from hostler.cli.client import Address
from hostler.cli.problem import WRONG, Problem, spelled
from hostler.cli.terminal import plain_line

if TYPE_CHECKING:
    import httpx2

    from hostler.bundles.checking import Checked

_PREFIX: Final = "/hostler/v1/sessions"
_PIECE: Final = 1 << 20
_PATIENCE_SECONDS: Final = 600.0
"""How long a server may take to write a bundle, or to look through one, before it says anything."""


def export(
    address: Address,
    session_id: str,
    target: Path,
    checkpoint_id: str | None,
    without: Sequence[str],
    *,
    force: bool,
    as_json: bool,
) -> None:
    """JSON: `{"session_id", "file", "bytes", "digest"}`."""
    if target.exists() and not force:
        raise Problem(f"{target} is there already", next_command=f"--output FILE, or --force to replace {target}")
    query: dict[str, Any] = {"without": list(without)}
    if checkpoint_id is not None:
        query["checkpoint_id"] = checkpoint_id
    fresh = target.with_name(f"{target.name}.part")
    with streaming(address) as client, client.stream("GET", f"{_PREFIX}/{session_id}/bundle", params=query) as answer:
        refuse(answer)
        digest = answer.headers["hostler-bundle-digest"]
        try:
            with private_file(fresh) as out:
                for piece in answer.iter_bytes(_PIECE):
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            found = _checked(fresh)
            if found.digest != digest:
                raise Problem("what came is not what was sent", next_command="the same once more")
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    size = target.stat().st_size
    if as_json:
        print(json.dumps({"session_id": session_id, "file": str(target), "bytes": size, "digest": digest}))
        return
    console = terminal.out()
    console.print(f"{target}: {found.document.point.events} events, {found.tree} files, {size:,} bytes.")
    console.print(f"Digest: {digest}", style="dim")
    console.print(f"Elsewhere: {spelled(f'hostler sessions import {target} --create')}", style="dim")


def take_in(address: Address, file: Path, wanted: Mapping[str, Any], *, as_json: bool) -> None:
    """JSON: the answer of the API."""
    _checked(file)
    query = {name: value for name, value in wanted.items() if value}
    with streaming(address) as client, file.open("rb") as content:
        answer = client.post(
            f"{_PREFIX}/import",
            params=query,
            content=iter(lambda: content.read(_PIECE), b""),
            headers={"content-type": "application/zstd", "content-length": str(file.stat().st_size)},
        )
        refuse(answer)
        made = answer.json()
    if as_json:
        print(json.dumps(made))
        return
    console = terminal.out()
    console.print(f"{made['id']} goes on where the session of {file} was.")
    for made_id in made["created"]:
        console.print(f"Made for it: {made_id}")
    for left in made["left"]:
        words = plain_line(left["message"], 200)
        console.print(f"Not there: {left['type'].replace('_', ' ')} {plain_line(left['id'], 100)} ({words})")
    console.print(f"Go on: {spelled('hostler run --session ' + made['id'] + ' --keep PROMPT')}", style="dim")


def verify(file: Path, digest: str | None, *, as_json: bool) -> None:
    """JSON: `{"file", "digest", "producer", "session_id", "events", "files", "members", "bytes", "left_out"}`."""
    found = _checked(file)
    if digest is not None and digest != found.digest:
        raise Problem(
            f"{file} is whole, and another bundle: its digest is {found.digest}",
            next_command="hostler sessions export SESSION",
        )
    facts = {
        "file": str(file),
        "digest": found.digest,
        "producer": found.producer,
        "session_id": found.document.session.get("id"),
        "events": found.document.point.events,
        "files": found.tree,
        "members": found.members,
        "bytes": found.content_bytes,
        "left_out": list(found.document.left_out),
    }
    if as_json:
        print(json.dumps(facts))
        return
    console = terminal.out()
    console.print(f"{file} is a whole bundle of {plain_line(str(facts['session_id']), 100)}.")
    console.print(f"{facts['events']} events, {facts['files']} files, {found.content_bytes:,} bytes unpacked.")
    console.print(f"Written by {plain_line(found.producer, 100)}. Digest: {found.digest}", style="dim")


def replaced(option: str, pairs: Sequence[str]) -> list[str]:
    """`OLD=NEW` as the API has it."""
    for pair in pairs:
        if "=" not in pair or pair.startswith("="):
            raise Problem(
                f"{option} {pair!r} is no OLD=NEW", next_command=f"{option} OLD=NEW, or OLD= for none", code=WRONG
            )
    return [pair.replace("=", ":", 1) for pair in pairs]


def _checked(file: Path) -> Checked:
    from hostler.bundles.checking import check
    from hostler.bundles.limits import BundleLimits
    from hostler.bundles.tar import BundleWrong

    # What this command may read is for its user to decide; what a server takes, for its operator.
    limits = BundleLimits(content_bytes=1 << 50, members=2_000_000, ratio=1_000_000)
    try:
        with file.open("rb") as content:
            return check(content, limits)
    except BundleWrong as error:
        raise Problem(f"{file}: {error}", next_command="hostler sessions export SESSION") from None
    except OSError as error:
        raise Problem(f"{file}: {error.strerror}", next_command="hostler sessions export SESSION", code=WRONG) from None


@contextmanager
def private_file(file: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner reads: a conversation is in it."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Problem(f"{file}: {error.strerror}", next_command="--output FILE", code=WRONG) from None
    with os.fdopen(descriptor, "wb") as out:
        os.fchmod(out.fileno(), 0o600)
        yield out


@contextmanager
def streaming(address: Address) -> Iterator[httpx2.Client]:
    """What the official client is made of: it streams. What it raises inside the block becomes a Problem."""
    import httpx2

    headers = {"authorization": f"Bearer {address.api_key}"}
    timeout = httpx2.Timeout(30.0, read=_PATIENCE_SECONDS)
    with httpx2.Client(base_url=address.url, headers=headers, timeout=timeout) as client:
        try:
            yield client
        except httpx2.TransportError as error:
            raise Problem(
                f"the connection to {address.url} failed: {error or type(error).__name__}", next_command="hostler serve"
            ) from error


def refuse(answer: httpx2.Response) -> None:
    if answer.status_code == 200:
        return
    answer.read()
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{answer.status_code} {answer.reason_phrase}"
    raise Problem(plain_line(message, 1000), next_command="hostler sessions list")
