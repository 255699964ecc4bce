"""E6: whoever has the database changes, removes, moves or adds entries, cuts the end off, or computes everything anew.

Each is done with SQL on both databases, and each is found, by its name and at its place, in what the server exports
afterwards: the export is made by the same server that was tampered with, and verified without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from auditkit import ADMIN, KEY, WS, Log, check, found, tool, where

from hostler.domain.auditing import Link, canonical, chained, genesis
from hostler.sealing.masterkeys import MasterKey
from hostler.store import audit_chain

Attack = Callable[[Log], Awaitable[None]]
ENTRIES = 16


async def change_details(log: Log) -> None:
    await log.sql("UPDATE audit_entries SET details = replace(details, 'bash', 'read') WHERE seq = 7")


async def change_actor(log: Log) -> None:
    await log.sql("UPDATE audit_entries SET actor_id = 'sesn_2' WHERE seq = 7")


async def change_moment(log: Log) -> None:
    await log.sql("UPDATE audit_entries SET created_at = '2020-01-01T00:00:00.000000Z' WHERE seq = 7")


async def change_ciphertext(log: Log) -> None:
    await log.sql("UPDATE audit_entries SET sealed = '' WHERE sealed <> ''")


async def change_hash(log: Log) -> None:
    await log.sql("UPDATE audit_entries SET hash = :hash WHERE seq = 7", hash="0" * 64)


async def remove(log: Log) -> None:
    await log.sql("DELETE FROM audit_entries WHERE seq = 7")


async def remove_and_close_up(log: Log) -> None:
    await log.sql("DELETE FROM audit_entries WHERE seq = 7")
    for seq in range(8, ENTRIES + 1):
        await log.sql("UPDATE audit_entries SET seq = :fewer WHERE seq = :seq", seq=seq, fewer=seq - 1)


async def swap(log: Log) -> None:
    for before, after in ((7, 99), (9, 7), (99, 9)):
        await log.sql("UPDATE audit_entries SET seq = :after WHERE seq = :before", before=before, after=after)


async def insert(log: Log) -> None:
    """A copy of an entry, under the next free place and with every counter set right."""
    await log.sql(
        "INSERT INTO audit_entries SELECT 'audit_forged', workspace_id, strand, number + 1000, kind, actor_kind, "
        "actor_id, act, target_id, subject, sealed, details, created_at, 17, hash FROM audit_entries WHERE seq = 16"
    )
    await log.sql("UPDATE audit_chains SET seq = 17")


async def insert_loose(log: Log) -> None:
    """One that claims to be an old entry of a session; the server itself chains and signs it."""
    await log.sql(
        "INSERT INTO audit_entries SELECT 'audit_forged', workspace_id, strand, number, kind, actor_kind, "
        "actor_id, act, target_id, subject, sealed, details, created_at, NULL, NULL FROM audit_entries WHERE seq = 7"
    )


async def cut(log: Log) -> None:
    await log.sql("DELETE FROM audit_entries WHERE seq > 12")


async def cut_and_set_back(log: Log) -> None:
    """The chain is made to look as if it had ended earlier. The signature that it went on is still there."""
    ((hash_,),) = await log.rows("SELECT hash FROM audit_entries WHERE seq = 12")
    await log.sql("DELETE FROM audit_entries WHERE seq > 12")
    await log.sql("UPDATE audit_chains SET seq = 12, hash = :hash, signed_seq = 12", hash=hash_)


async def compute_anew(log: Log) -> None:
    """One entry is changed, and every hash after it is computed anew."""
    await change_details(log)
    links = await log.db.read(lambda c: audit_chain.read_links(c, WS, 0, 1000))
    head = genesis(WS)
    for link, _ in links:
        head = chained(head, canonical(Link._make(link)).encode())
        await log.sql("UPDATE audit_entries SET hash = :hash WHERE seq = :seq", hash=head.hex(), seq=link.seq)
    await log.sql("UPDATE audit_chains SET hash = :hash", hash=head.hex())


async def compute_and_sign_anew(log: Log) -> None:
    """The same, and every checkpoint is signed by the attacker, in whose name nothing is signed otherwise."""
    await compute_anew(log)
    theirs = Log(log.db, [MasterKey(b"x" * 32)])
    await log.sql("DELETE FROM audit_checkpoints")
    await log.sql("DELETE FROM audit_signers")
    await log.sql("UPDATE audit_chains SET signed_seq = 0")
    log.audit, log.signer = theirs.audit, theirs.signer


async def change_checkpoint(log: Log) -> None:
    await log.sql("UPDATE audit_checkpoints SET created_at = '2020-01-01T00:00:00.000000Z' WHERE seq = 16")


async def remove_decision(log: Log) -> None:
    await log.sql("DELETE FROM egress_decisions WHERE host = 'b.example'")


async def remove_decisions(log: Log) -> None:
    await log.sql("DELETE FROM egress_decisions")


async def change_decision(log: Log) -> None:
    await log.sql("UPDATE egress_decisions SET host = 'd.example' WHERE host = 'b.example'")


async def change_use(log: Log) -> None:
    await log.sql("UPDATE credential_uses SET outcome = 'denied'")


async def add_decision(log: Log) -> None:
    await log.sql(
        "INSERT INTO egress_decisions SELECT 'egr_forged', session_id, workspace_id, method, 'e.example', port, path, "
        "allowed, reason, hint, environment_id, created_at, 'audit_nobody' FROM egress_decisions "
        "WHERE host = 'b.example'"
    )


async def move_start(log: Log) -> None:
    """As retention would remove old entries, but nobody has asked for it."""
    await log.sql("DELETE FROM audit_entries WHERE seq <= 7")
    await log.sql("UPDATE audit_chains SET start_seq = 7")


async def move_start_to_a_checkpoint(log: Log) -> None:
    ((seq,),) = await log.rows("SELECT min(seq) FROM audit_checkpoints")
    await log.sql("DELETE FROM audit_entries WHERE seq <= :seq", seq=seq)
    await log.sql("UPDATE audit_chains SET start_seq = :seq", seq=seq)


ATTACKS: list[tuple[Attack, str, str]] = [
    (change_details, "changed", "entry 7"),
    (change_actor, "changed", "entry 7"),
    (change_moment, "changed", "entry 7"),
    (change_ciphertext, "changed", "entry 15"),
    (change_hash, "changed", "entries 7 to 8"),
    (remove, "removed", "entry 7"),
    (remove_and_close_up, "changed", "entries 7 to 15"),
    (swap, "moved", "entry 9"),
    (insert, "changed", "entry 17"),
    (insert_loose, "moved", "entry 17"),
    (cut, "tail_cut", "checkpoint at 16"),
    (cut_and_set_back, "tail_cut", "checkpoint at 16"),
    (compute_anew, "rewritten", "checkpoint at 16"),
    (compute_and_sign_anew, "signer", "checkpoint at 16"),
    (change_checkpoint, "signature", "checkpoint at 16"),
    (remove_decision, "rows_removed", "entry 13"),
    (remove_decisions, "rows_removed", "entry 13"),
    (change_decision, "rows_changed", "entry 13"),
    (change_use, "rows_changed", "entry 14"),
    (add_decision, "rows_inserted", "egress_decisions"),
    (move_start, "start", "entry 7"),
    (move_start_to_a_checkpoint, "start", "entry 6"),
]


async def test_every_tampering_is_found_and_named(log: Log) -> None:
    ours = log.signer.public_keys("")[0].public_key
    honest = await log.report(trusted=[ours])
    assert honest.intact, honest.findings
    assert (honest.entries, honest.rows, honest.signed_seq) == (ENTRIES, 4, ENTRIES)
    saved = await log.saved()
    audit = log.audit
    for attack, what, place in ATTACKS:
        await attack(log)
        report = await log.report(trusted=[ours])
        assert place in where(report, what), (attack.__name__, report.findings)
        log.audit = audit
        await log.restore(saved)
    assert (await log.report(trusted=[ours])).intact


async def test_an_end_that_is_cut_off_with_all_its_checkpoints_needs_an_anchor(log: Log) -> None:
    """Everything that says that the chain went on is taken away. Only who has kept a hash can know."""
    kept = await log.report()
    ((seq, hash_),) = await log.rows("SELECT seq, hash FROM audit_checkpoints ORDER BY seq DESC LIMIT 1 OFFSET 1")
    await log.sql("DELETE FROM audit_entries WHERE seq > :seq", seq=seq)
    await log.sql("DELETE FROM audit_checkpoints WHERE seq > :seq", seq=seq)
    await log.sql("UPDATE audit_chains SET seq = :seq, hash = :hash, signed_seq = :seq", seq=seq, hash=hash_)
    await log.sql("UPDATE audit_subjects SET entries = 5, chained = 5 WHERE subject LIKE 'sesn%'")
    await log.sql("UPDATE audit_subjects SET entries = 0, chained = 0 WHERE subject = ''")
    await log.sql("DELETE FROM egress_decisions")
    await log.sql("DELETE FROM credential_uses")
    assert "anchor" not in found(await log.report())
    for anchor in (kept.hash, f"{kept.seq}:{kept.hash}"):
        report = await log.report(anchors=[anchor])
        assert [f.where for f in report.findings if f.what == "anchor"] == [f"entries {report.first} to {report.seq}"]
        assert report.seq == seq
    for anchor in (hash_, f"{seq}:{hash_}"):
        assert "anchor" not in found(await log.report(anchors=[anchor]))
    assert "anchor" in found(await log.report(anchors=[f"{seq + 1}:{hash_}"]))


async def test_what_vanishes_before_it_was_chained_is_missed(log: Log) -> None:
    """The first of them when its follower is chained, the last because it was counted."""
    await log.append(tool("sesn_1", 20), tool("sesn_1", 21), tool("sesn_1", 22))
    await log.sql("DELETE FROM audit_entries WHERE target_id IN ('sevt_20', 'sevt_22')")
    report = await log.report()
    assert found(report) == {"vanished"}
    assert len(report.findings) == 2
    (entry,) = await log.rows("SELECT strand, details FROM audit_entries WHERE act = 'audit.gap'")
    assert entry[1] == '{"strand":"sesn_1","first":10,"last":10}'


async def test_exports_are_verified_from_the_file_alone(log: Log) -> None:
    lines = await log.export()
    honest = check(lines)
    assert honest.intact
    assert not honest.pinned
    entries = [n for n, line in enumerate(lines) if line.startswith(b'{"hash"')]
    rows = [n for n, line in enumerate(lines) if line.startswith(b'{"row"')]
    signed = [n for n, line in enumerate(lines) if line.startswith(b'{"checkpoint"')]
    first, second = entries[6], entries[8]
    swapped = list(lines)
    swapped[first], swapped[second] = lines[second], lines[first]
    unsigned = [line.replace(b'"seq":16', b'"seq":15') if n == signed[-1] else line for n, line in enumerate(lines)]
    for changed, what in (
        ([*lines[:first], *lines[first + 1 :]], "removed"),
        ([*lines[:first], lines[first], *lines[first:]], "inserted"),
        (swapped, "inserted"),
        ([line.replace(b"bash", b"read") if n == first else line for n, line in enumerate(lines)], "changed"),
        ([*lines[: rows[0]], *lines[rows[0] + 1 :]], "rows_removed"),
        ([*lines[: rows[0]], lines[rows[0]], *lines[rows[0] :]], "rows_changed"),
        ([line for n, line in enumerate(lines) if n not in entries[-3:]], "tail_cut"),
        ([line for line in lines if not line.startswith(b'{"signer"')], "signer"),
        (unsigned, "signature"),
        (lines[:-1], "incomplete"),
        (lines[1:], "form"),
        ([*lines[:3], b'{"hash":"00","entry":{}}', *lines[3:]], "form"),
        ([b"{}", *lines], "form"),
        ([], "form"),
    ):
        assert what in found(check(changed)), what


async def test_whoever_trusts_one_key_trusts_those_that_follow_it(log: Log) -> None:
    first = log.signer.public_keys("")[0].public_key
    newer = Log(log.db, [MasterKey(b"n" * 32), KEY])
    await newer.append(tool("sesn_1", 30))
    report = await newer.report(trusted=[first])
    assert report.intact, report.findings
    assert len(report.signers) == 2
    assert report.pinned
    stranger = Log(log.db, [MasterKey(b"s" * 32)])
    await stranger.append(tool("sesn_1", 31))
    lines = await stranger.export()
    assert found(check(lines, trusted=[first])) == {"signer", "unsigned"}
    assert check(lines).intact  # nobody has said whom to trust
    pinned = [first, stranger.signer.public_keys("")[0].public_key]
    assert check(lines, trusted=pinned).intact


async def test_another_workspace_is_another_chain(log: Log) -> None:
    """Entries of one can't be shown as the other's."""
    await log.sql("UPDATE audit_entries SET workspace_id = 'wrkspc_other' WHERE seq > 8")
    workspace, pieces = await log.audit.export(ADMIN, None)
    report = check(b"".join([piece async for piece in pieces]).splitlines())
    assert workspace == WS
    assert "tail_cut" in found(report)


async def test_somebody_elses_verifier_needs_only_the_page_about_the_format(log: Log) -> None:
    """Written after `docs/reference/audit-log.md`, with nothing of ours."""
    import hashlib
    import json

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def sha(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    before, seq, keys, rows, signed = b"", 0, {}, [], 0
    strands: dict[str, int] = {}
    expected: dict[str, object] = {}
    for line in [*await log.export(), b"{}"]:
        if not line.startswith(b'{"row":') and expected:
            texts = [json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for row in rows]
            assert (len(rows), sha(*texts).hex()) == (expected["rows"], expected["digest"])
            expected, rows = {}, []
        value = json.loads(line)
        match value:
            case {"hostler_audit": 1, "workspace": workspace}:
                before = sha(b"hostler audit 1\n", workspace.encode())
            case {"signer": key}:
                raw = bytes.fromhex(key["public_key"])
                assert key["id"] == "asig_" + sha(b"hostler audit signer\0", raw).hex()[:20]
                keys[key["id"]] = Ed25519PublicKey.from_public_bytes(raw)
            case {"hash": hash_, "entry": entry}:
                before = sha(before, line[83:-1])
                seq += 1
                strands[entry["strand"]] = strands.get(entry["strand"], 0) + 1
                assert (hash_, entry["seq"]) == (before.hex(), seq)
                assert entry["number"] == strands[entry["strand"]]
                # The text can also be made from what it means.
                assert json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode() == line[83:-1]
                expected = entry["details"] if entry["kind"] in ("egress", "credential") else {}
            case {"row": row}:
                rows.append(row)
            case {"checkpoint": one}:
                names = ("workspace", "seq", "hash", "at", "signer")
                text = "".join(f"{part}\n" for part in ("hostler audit checkpoint 1", *(one[name] for name in names)))
                keys[one["signer"]].verify(bytes.fromhex(one["signature"]), text.encode())
                assert (one["seq"], one["hash"]) == (seq, before.hex())
                signed = seq
    assert signed == seq == ENTRIES
