"""Who puts the entries of the audit log into their chains, signs them, and gives them out?

Every server looks at all workspaces, about once a second; the row of a chain makes it one of them. Entries wait for
their place for about as long. A checkpoint is signed when enough of them have come, or when enough time has passed, and
always for an export.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

from sqlalchemy import Connection

from hostler.domain.auditing import COVERED, Checkpoint, SignerKey, canonical, genesis, row_text
from hostler.domain.clock import rfc3339_of
from hostler.domain.errors import HostlerError, NotFound
from hostler.domain.principals import Principal, looked_after
from hostler.store import audit, audit_chain, keys
from hostler.store.audit_chain import Chain
from hostler.store.audit_subjects import PERSON
from hostler.store.database import Database
from hostler.store.jsontext import encode

log = logging.getLogger("hostler.audit")
View = dict[str, Any]

_PAGE: Final = 1_000
"""Entries that are read for an export at a time."""
_MOST_STRAYS: Final = 100
_TRIES: Final = 5


class Signer(Protocol):
    """Who has the signing keys. Raises InvalidRequest, with what to do, when they can't be had."""

    def sign(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with `signer` and `signature`."""
        ...

    def public_keys(self, at: str) -> list[SignerKey]:
        """All keys there are, oldest first. `at`: now."""
        ...


@dataclass(frozen=True, slots=True)
class AuditTerms:
    """look_seconds: how long entries may wait for their place. every, seconds: when a checkpoint is due."""

    look_seconds: float = 1.0
    every: int = 1_000
    seconds: float = 60.0


class AuditLog:
    """Of all workspaces. `run` beside the rest of a server until it is cancelled; the other methods answer requests."""

    def __init__(self, database: Database, signer: Signer, terms: AuditTerms = AuditTerms()) -> None:
        self._database = database
        self._signer = signer
        self._terms = terms
        self._shown: list[SignerKey] = []

    # -- the work

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except (HostlerError, OSError):
                log.exception("audit_not_chained")
            await asyncio.sleep(self._terms.look_seconds)

    async def look(self) -> None:
        """Give every entry that is committed its place, and sign what is due."""

        def waiting(conn: Connection) -> list[str]:
            before = self._database.now(conn) - self._terms.seconds
            return sorted({*audit_chain.with_loose(conn), *audit_chain.with_unsigned(conn, before)})

        found = await self._database.read(waiting)
        if found:
            await self._publish_keys()
        for workspace in found:
            try:
                while await self._link(workspace):
                    pass
            except (HostlerError, OSError):  # what is wrong with one must not keep others from theirs
                log.exception("audit_not_chained", extra={"workspace": workspace})

    async def _link(self, workspace: str, *, now: bool = False) -> bool:
        def unit(conn: Connection) -> audit_chain.Linked:
            at, terms = self._database.now(conn), self._terms
            if now:
                return audit_chain.sign_now(conn, at, workspace, self._signer.sign)
            return audit_chain.link(conn, at, workspace, self._signer.sign, every=terms.every, seconds=terms.seconds)

        done = await self._database.write(unit)
        for strand, first, last in done.gaps:
            facts = {"workspace": workspace, "strand": strand, "first": first, "last": last}
            log.error("audit_entries_taken_away", extra=facts)
        return done.more

    async def _publish_keys(self) -> None:
        """The public keys stand in the database before anything that is signed with them."""
        now = rfc3339_of(await self._database.read(self._database.now))
        # In no transaction: a program may guard the keys, and take its time.
        found = await asyncio.to_thread(self._signer.public_keys, now)
        if [key.id for key in found] != [key.id for key in self._shown]:
            await self._database.write(lambda conn: audit_chain.put_signers(conn, found))
        self._shown = found

    # -- requests

    async def show(self, by: Principal, workspace_id: str | None) -> View:
        """How far the chain of a workspace goes, what of it is signed, and with which keys."""
        workspace = looked_after(by, workspace_id)

        def unit(conn: Connection) -> View:
            keys.get_workspace(conn, workspace)
            chain = audit_chain.get_chain(conn, workspace) or _empty(workspace)
            newest = audit_chain.newest_checkpoint(conn, workspace)
            return {
                "type": "audit_chain",
                "workspace_id": workspace,
                "first_seq": chain.start_seq + 1,
                "seq": chain.seq,
                "hash": chain.hash.hex(),
                "checkpoint": None if newest is None else asdict(newest),
                "signers": [asdict(key) for key in audit_chain.get_signers(conn)],
            }

        return await self._database.read(unit)

    async def redact(self, by: Principal, workspace_id: str | None, subject: str) -> View:
        """Destroy the key of what is personal in entries about a subject: a session, the target of an act, or the name
        of somebody who works at this host. Raises NotFound when no entry is about it."""
        workspace = looked_after(by, workspace_id)

        def unit(conn: Connection) -> str | None:
            keys.get_workspace(conn, workspace)
            now = self._database.now(conn)
            for name in (subject, PERSON + subject):
                found = audit.forget(conn, now, workspace, name, by.actor) if name else None
                if found is not None:
                    return found
            return None

        found = await self._database.write(unit)
        if found is None:
            raise NotFound(f"no entry of the audit is about {subject[:128]}, or nobody can read it any more")
        return {"type": "audit_redaction", "workspace_id": workspace, "subject_id": found}

    async def export(self, by: Principal, workspace_id: str | None) -> tuple[str, AsyncIterator[bytes]]:
        """The workspace, and its whole log as lines of JSON: pieces of many lines. All that is committed when this
        returns is in it, and under a signature."""
        workspace = looked_after(by, workspace_id)
        await self._database.read(lambda conn: keys.get_workspace(conn, workspace))
        await self._publish_keys()
        return workspace, self._pieces(workspace, *await self._signed(workspace))

    async def _signed(self, workspace: str) -> tuple[Chain, int]:
        """The chain with all that is committed by now, and up to where it is signed: to its end. Another server may
        lengthen it between the two."""

        def unit(conn: Connection) -> tuple[int, Chain]:
            newest = audit_chain.newest_checkpoint(conn, workspace)  # before the chain, which only grows
            chain = audit_chain.get_chain(conn, workspace) or _empty(workspace)
            return 0 if newest is None else newest.seq, chain

        for _ in range(_TRIES):
            while await self._link(workspace, now=True):
                pass
            signed, chain = await self._database.read(unit)
            if signed == chain.seq:
                break
        return chain, signed

    async def _pieces(self, workspace: str, upto: Chain, signed: int) -> AsyncIterator[bytes]:
        def begin(conn: Connection) -> tuple[Chain, list[str], str]:
            now = audit_chain.get_chain(conn, workspace) or _empty(workspace)
            chain = replace(upto, start_seq=now.start_seq)
            start = audit_chain.get_checkpoints(conn, workspace, first=chain.start_seq, last=chain.start_seq)
            before = start[0].hash if start else genesis(workspace).hex()
            head = {
                "hostler_audit": 1,
                "workspace": workspace,
                "exported_at": rfc3339_of(self._database.now(conn)),
                "start": {"seq": chain.start_seq, "hash": before},
            }
            lines = [encode(head), *(encode({"signer": asdict(key)}) for key in audit_chain.get_signers(conn))]
            lines += map(_checkpoint, start)
            return chain, lines, start[0].at if start else ""

        chain, lines, since = await self._database.read(begin)
        yield _joined(lines)
        try:
            async with aclosing(self._from(workspace, chain, signed, since)) as pieces:
                async for piece in pieces:
                    yield piece
        except _Overtaken:  # Without its end the export says of itself that it has to be fetched again.
            log.warning("audit_export_overtaken", extra={"workspace_id": workspace})

    async def _from(self, workspace: str, chain: Chain, signed: int, since: str) -> AsyncGenerator[bytes, None]:
        after = chain.start_seq
        while True:
            more = True
            while more:
                lines, after, more = await self._database.read(partial(_page, workspace, after, chain.seq))
                yield _joined(lines)
            if not await self._database.read(partial(_removed_since, workspace, chain.seq)):
                break
            # What is missing from these pages is explained by an entry behind them: go on up to that.
            chain, signed = await self._signed(workspace)
        yield _joined(await self._database.read(lambda conn: _rest(conn, chain, after, signed, since)))


def _removed_since(workspace: str, seq: int, conn: Connection) -> bool:
    return audit_chain.removed_since(conn, workspace, seq)


class _Overtaken(Exception):
    """Retention has removed entries that were to come next."""


def _page(workspace: str, after: int, upto: int, conn: Connection) -> tuple[list[str], int, bool]:
    """Lines of the entries behind a place, the last place, and whether there are more."""
    links = audit_chain.read_links(conn, workspace, after, _PAGE)
    if links and links[0][0].seq != after + 1:
        now = audit_chain.get_chain(conn, workspace)
        if now is not None and now.start_seq > after:
            raise _Overtaken
    more = len(links) == _PAGE and links[-1][0].seq < upto
    links = [(link, hash_) for link, hash_ in links if link.seq <= upto]
    last = links[-1][0].seq if links else after
    signed = audit_chain.get_checkpoints(conn, workspace, first=after + 1, last=last)[::-1]
    covered: dict[str, list[tuple[Any, ...]]] = {}
    for kind in COVERED:
        covered |= audit_chain.read_rows(conn, kind, [link.id for link, _ in links if link.kind == kind])
    lines = []
    for place, (link, hash_) in enumerate(links, 1):
        lines.append(f'{{"hash":"{hash_}","entry":{canonical(link)}}}')
        lines += [f'{{"row":{row_text(row)}}}' for row in covered.get(link.id, ())]
        following = links[place][0].seq if place < len(links) else last + 1
        while signed and signed[-1].seq < following:
            lines.append(_checkpoint(signed.pop()))
    return lines, last, more


def _rest(conn: Connection, chain: Chain, last: int, signed: int, since: str) -> list[str]:
    """What stands behind the last entry, or nowhere. All of it but the end says that something is wrong."""
    workspace = chain.workspace_id
    lines = [_checkpoint(one) for one in audit_chain.get_checkpoints(conn, workspace, first=last + 1, last=signed)]
    for strand, first, final in audit_chain.vanished(conn, workspace):
        lines.append(encode({"vanished": {"strand": strand, "first": first, "last": final}}))
    for kind, (table, _) in COVERED.items():
        for row in audit_chain.strays(conn, workspace, kind, since, _MOST_STRAYS):
            lines.append(f'{{"stray":{{"table":"{table}","row":{row_text(row)}}}}}')
    return [*lines, encode({"end": {"seq": chain.seq, "hash": chain.hash.hex()}})]


def _checkpoint(checkpoint: Checkpoint) -> str:
    return encode({"checkpoint": asdict(checkpoint)})


def _joined(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")


def _empty(workspace: str) -> Chain:
    return Chain(workspace, 0, genesis(workspace), 0, 0.0, 0)
