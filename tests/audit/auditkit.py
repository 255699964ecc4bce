"""What the tests of the audit log arrange with: a log with entries of every shape, exports of it, and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from hostler.domain.principals import DEFAULT_WORKSPACE, Actor, Principal
from hostler.engine.audit_log import AuditLog, AuditTerms
from hostler.engine.audit_verifier import Report, verified
from hostler.sealing.masterkeys import GivenKeys, MasterKey
from hostler.sealing.signing import AuditSigner, signature_holds
from hostler.store import audit, ledger, variables
from hostler.store.audit import Act
from hostler.store.database import Database
from hostler.store.tables import metadata

WS = DEFAULT_WORKSPACE
ADMIN = Principal("api_key", "apikey_admin", WS)
TABLES = (
    "audit_entries",
    "audit_subjects",
    "audit_chains",
    "audit_checkpoints",
    "audit_signers",
    "egress_decisions",
    "credential_uses",
)
KEY = MasterKey(b"k" * 32)


def tool(session: str, n: int) -> Act:
    return Act("tool", "tool.call", Actor("session", session), f"sevt_{n}", session, {"tool": "bash", "n": n})


class Log:
    """The log of the default workspace. A checkpoint every five entries; nobody chains but the test."""

    def __init__(self, db: Database, keys: Sequence[MasterKey] = (KEY,)) -> None:
        self.db = db
        self.signer = AuditSigner(GivenKeys(keys[0], keys[1:]))
        self.audit = AuditLog(db, self.signer, AuditTerms(every=5, seconds=1e9))

    async def append(self, *acts: Act) -> None:
        await self.db.write(lambda c: audit.append(c, self.db.now(c), WS, acts))

    async def egress(self, *hosts: str, session: str = "sesn_1") -> None:
        facts = [
            {"session_id": session, "method": "GET", "host": host, "port": 443, "allowed": True, "reason": "r"}
            for host in hosts
        ]
        decisions = [ledger._Facts(**fact, path="/", hint="") for fact in facts]
        await self.db.write(lambda c: ledger.record_egress_all(c, self.db.now(c), decisions))

    async def use(self, *hosts: str, session: str = "sesn_1") -> None:
        uses = [variables.UseFacts(WS, session, "v", "c", "GET", host, 443, "header", "sent") for host in hosts]
        await self.db.write(lambda c: variables.add_uses(c, self.db.now(c), uses))

    async def fill(self) -> None:
        """16 entries, chained as they came; the newest checkpoint is at the last of them."""
        for n in range(5):
            await self.append(tool("sesn_1", n), tool("sesn_2", n))
            await self.audit.look()
        await self.egress("a.example", "b.example", "c.example")
        await self.use("a.example")
        alice = Actor("command_line", "alice")
        details = {"name": "Alice's key", "scopes": ["admin"]}
        await self.db.write(
            lambda c: audit.record_act(
                c, self.db.now(c), actor=alice, act="key.create", target_id="apikey_9", workspace_id=WS, details=details
            )
        )
        await self.append(tool("sesn_1", 9))
        await self.export()

    async def export(self) -> list[bytes]:
        """All lines, without their line feeds."""
        _, pieces = await self.audit.export(ADMIN, None)
        return b"".join([piece async for piece in pieces]).splitlines()

    async def report(self, **options: Any) -> Report:
        return check(await self.export(), **options)

    async def sql(self, text: str, **values: Any) -> None:
        """What somebody does who has the database."""
        await self.db.write(lambda c: c.execute(sa.text(text), values))

    async def saved(self) -> dict[str, list[Any]]:
        """All rows of the tables that an attack may change."""

        def unit(conn: sa.Connection) -> dict[str, list[Any]]:
            return {name: list(conn.execute(metadata.tables[name].select()).mappings()) for name in TABLES}

        return await self.db.read(unit)

    async def restore(self, saved: dict[str, list[Any]]) -> None:
        def unit(conn: sa.Connection) -> None:
            for name, rows in saved.items():
                conn.execute(metadata.tables[name].delete())
                if rows:
                    conn.execute(metadata.tables[name].insert(), [dict(row) for row in rows])

        await self.db.write(unit)

    async def rows(self, text: str, **values: Any) -> list[Any]:
        return list(await self.db.read(lambda c: c.execute(sa.text(text), values).all()))


def check(lines: Sequence[bytes], **options: Any) -> Report:
    return verified(lines, signature_holds, **options)


def found(report: Report) -> set[str]:
    return {finding.what for finding in report.findings}


def where(report: Report, what: str) -> list[str]:
    return [finding.where for finding in report.findings if finding.what == what]
