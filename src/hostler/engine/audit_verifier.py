"""Is an export of the audit log what was written? Found out from the export alone: no server, no database.

Lines are given one after the other (`Verifier.line`), `report` says what is wrong, and where. Every hash is computed
anew from the one before it *as it stands in the export*: so a changed entry is named itself, and not all that follow
it. That the whole chain was not computed anew is what checkpoints are for, and that its end was not cut off together
with the last checkpoints is what an anchor is for: a hash that the auditor has kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hostler.domain.auditing import COVERED, Checkpoint, SignerKey, genesis, row_text, signer_id

Holds = Callable[[str, str, bytes], bool]
"""Whether a signature over a text was made with a key: (public key, signature, text), the first two hexadecimal."""

MOST: Final = 1_000
"""Findings that are kept; the others are counted."""
_ENTRY: Final = b'{"hash":"'
_BETWEEN: Final = b'","entry":'
_HEAD: Final = re.compile(
    rb'\{"v":1,"workspace":"([^"\\]*)","seq":([0-9]{1,18}),"strand":"([^"\\]*)","number":([0-9]{1,18}),'
    rb'"id":"([^"\\]*)","at":"([^"\\]*)","kind":"([a-z]*)","act":"([^"\\]*)"'
)
_ROWS: Final = b'{"row":'
_PUBLIC_KEY: Final = re.compile(r"[0-9a-f]{64}\Z")
_MOST_SIGNERS: Final = 1_000
_NEEDED: Final = frozenset(kind.encode() for kind in COVERED)
_PRUNES: Final = {b"audit.prune": "audit", b"egress.prune": "egress", b"credential.prune": "credential"}
_PRUNE: Final = b".prune"


@dataclass(slots=True)
class Finding:
    """Something that is not as it was written."""

    what: str
    """changed · removed · inserted · moved · vanished · tail_cut · rewritten · signature · signer · start · anchor ·
    unsigned · rows_changed · rows_removed · rows_inserted · form · incomplete."""
    where: str
    message: str

    def json(self) -> dict[str, str]:
        return {"what": self.what, "where": self.where, "message": self.message}


@dataclass(slots=True)
class Report:
    """What was found out. `seq` and `hash` of the last entry are what an auditor keeps as an anchor."""

    workspace: str = ""
    entries: int = 0
    first: int = 0
    seq: int = 0
    hash: str = ""
    checkpoints: int = 0
    signed_seq: int = 0
    """Up to here a checkpoint answers for it."""
    rows: int = 0
    """Rows that are as their entry says."""
    unvouched: int = 0
    """Rows that nobody answers for any more: retention has taken others of the same entry, so that their digest can't
    be compared. Not a finding, and no proof either."""
    signers: dict[str, str] = field(default_factory=dict)
    """Public keys that checkpoints were signed with, by id."""
    pinned: bool = False
    """The keys were compared with such that the auditor has."""
    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    """Findings that were not kept."""

    @property
    def intact(self) -> bool:
        return not self.findings


class Verifier:
    """One export. Call `line` for each line, in their order, and then `report`."""

    def __init__(self, holds: Holds, *, trusted: Collection[str] = (), anchors: Iterable[str] = ()) -> None:
        """trusted  public keys (hexadecimal) that the auditor has; none: keys are taken from the export.
        anchors  hashes that the auditor has kept, each as `HASH` or `SEQ:HASH`."""
        self._holds = holds
        self._trusted = set(trusted)
        self._anchors = {anchor.lower() for anchor in anchors}
        self._report = Report(pinned=bool(trusted))
        self._keys: dict[str, SignerKey] = {}
        self._good: set[str] = set()
        self._strands: dict[bytes, int] = {}
        self._workspace = b""
        self._before = self._start_hash = b""
        self._seq = 0
        self._start = 0
        self._start_signed = False
        self._started = False
        self._ended = False
        self._lines = 0
        self._covering: tuple[int, str, str, Mapping[str, Any]] | None = None
        """Place, kind, moment and details of the entry whose rows follow."""
        self._rows = 0
        self._rows_hash = hashlib.sha256()
        self._gone: list[tuple[str, str, int, int]] = []
        """Entries whose rows are not there, or not all: kind, moment, place, how many there are."""
        self._pruned: dict[str, str] = {}
        self._pruned_through: set[tuple[int, str]] = set()
        self._bad: list[int] | None = None
        """First and last of the entries in a row that don't have their hashes."""

    # -- lines

    def line(self, raw: bytes) -> None:
        """The next line, with or without its line feed."""
        self._lines += 1
        text = raw.rstrip(b"\r\n")
        if self._ended:
            self._find("form", f"line {self._lines}", "stands behind the end of the export")
        elif text.startswith(_ENTRY):
            self._entry(text)
        elif text.startswith(_ROWS):
            self._row(text)
        else:
            self._rest(text)

    def report(self) -> Report:
        """After the last line."""
        self._close_rows()
        self._close_bad()
        report = self._report
        if not self._started:
            self._find("form", "line 1", "this is no export of an audit log")
            return report
        if not self._ended:
            self._find("incomplete", f"line {self._lines}", "the file ends before the export did: fetch it again")
        if self._start:
            self._check_start()
        if report.signed_seq < self._seq and report.entries:
            first = max(report.first, report.signed_seq + 1)
            message = "are under no signature: whoever wrote this file can have made them up"
            self._find("unsigned", f"entries {first} to {self._seq}", message)
        for kind, at, seq, left in self._gone:
            if at >= self._pruned.get(kind, ""):
                missing = "some of its rows are" if left else "its rows are"
                message = f"{missing} not there, and no retention has removed them"
                self._find("rows_removed", f"entry {seq}", message)
            else:
                report.unvouched += left
        report.seq, report.hash = self._seq, self._before.hex()
        for anchor in sorted(self._anchors):
            message = f"{anchor} is no hash of this chain: entries were cut off, or the chain was computed anew"
            self._find("anchor", f"entries {report.first} to {report.seq}", message)
        return report

    # -- entries

    def _entry(self, line: bytes) -> None:
        if self._covering is not None:
            self._close_rows()
        found = _HEAD.match(line, 83)
        if line[73:83] != _BETWEEN or not line.endswith(b"}") or found is None or not self._started:
            self._find("form", f"line {self._lines}", "is not in the form of an entry")
            return
        text = line[83:-1]
        try:
            stored = bytes.fromhex(line[9:73].decode())
        except ValueError:
            stored = b""
        workspace, place, strand, counted, _, at, kind, act = found.groups()
        seq, number, report = int(place), int(counted), self._report
        report.entries += 1
        if seq != self._seq + 1:
            self._misplaced(seq)
        if hashlib.sha256(self._before + text).digest() != stored:
            self._changed(seq)
        if workspace != self._workspace:
            self._find("inserted", f"entry {seq}", f"is of another workspace, {_shown(workspace)}")
        last = self._strands.get(strand)
        if number != (last or 0) + 1 and (last is not None or not self._start):
            self._misnumbered(seq, strand, number, last or 0)
        if last is None or number > last:
            self._strands[strand] = number
        self._before = stored
        self._seq = max(self._seq, seq)
        if self._anchors:
            self._seen(seq, stored.hex())
        if kind in _NEEDED or act.endswith(_PRUNE):
            self._look_into(seq, text, kind.decode(), at.decode(), act)

    def _misplaced(self, seq: int) -> None:
        expected = self._seq + 1
        if seq > expected:
            message = f"entries {expected} to {seq - 1} are missing" if seq - expected > 1 else "it is missing"
            self._find("removed", f"entry {expected}", message)
        else:
            self._find("inserted", f"entry {seq}", "stands behind an entry that has this place or a later one")

    def _misnumbered(self, seq: int, strand: bytes, number: int, last: int) -> None:
        of = f"of {_shown(strand)}" if strand else "of no session"
        if number > last + 1:
            missing = f"{last + 1}" if number == last + 2 else f"{last + 1} to {number - 1}"
            message = f"is number {number} {of}, and number {missing} is not in the chain: taken away"
            self._find("vanished", f"entry {seq}", message)
        else:
            message = f"is number {number} {of}, behind number {last}: put in, or moved"
            self._find("moved", f"entry {seq}", message)

    def _changed(self, seq: int) -> None:
        """Neighbours are told of together."""
        if self._bad is not None and seq == self._bad[1] + 1:
            self._bad[1] = seq
            return
        self._close_bad()
        self._bad = [seq, seq]

    def _close_bad(self) -> None:
        if self._bad is None:
            return
        first, last = self._bad
        self._bad = None
        if first == last:
            message = "does not have its hash: it was changed, or what stood before it was changed, removed or moved"
            self._find("changed", f"entry {first}", message)
        else:
            message = "do not have their hashes: they were changed or moved, or others were put in or taken out"
            self._find("changed", f"entries {first} to {last}", message)

    def _seen(self, seq: int, hash_: str) -> None:
        self._anchors -= {hash_, f"{seq}:{hash_}"}

    def _look_into(self, seq: int, text: bytes, kind: str, at: str, act: bytes) -> None:
        try:
            details = json.loads(text)["details"]
            if not isinstance(details, dict):
                raise TypeError("details")
            if act == b"audit.prune":
                self._pruned_through.add((int(details.get("through", 0)), str(details.get("hash"))))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            self._find("form", f"entry {seq}", "is not JSON as an entry has it")
            return
        if kind in COVERED:
            self._covering = seq, kind, at, details
            self._rows, self._rows_hash = 0, hashlib.sha256()
        elif act in _PRUNES and act != b"audit.prune":
            what = _PRUNES[act]
            self._pruned[what] = max(self._pruned.get(what, ""), str(details.get("before", "")))

    # -- rows that an entry answers for

    def _row(self, text: bytes) -> None:
        try:
            row = json.loads(text)["row"]
            written = row_text(row).encode("utf-8", "surrogatepass")
        except (ValueError, TypeError, KeyError, RecursionError):
            row = None
        # Nothing may stand beside what is hashed: another reader could show that.
        if row is None or self._covering is None or text != _ROWS + written + b"}":
            self._find("form", f"line {self._lines}", "is not in the form of a row, or follows no entry")
            return
        self._rows += 1
        self._rows_hash.update(written + b"\n")

    def _close_rows(self) -> None:
        if self._covering is None:
            return
        seq, kind, at, details = self._covering
        rows, self._covering = self._rows, None
        wanted = details.get("rows")
        if rows == wanted and self._rows_hash.hexdigest() == details.get("digest"):
            self._report.rows += rows
            return
        if isinstance(wanted, int) and rows < wanted:
            self._gone.append((kind, at, seq, rows))
            return
        message = f"{COVERED[kind][0]}: its {rows} rows are not the {wanted} that it answers for: changed or put in"
        self._find("rows_changed", f"entry {seq}", message)

    # -- everything else

    def _rest(self, text: bytes) -> None:
        self._close_rows()
        try:
            value = json.loads(text)
            (name, body), *others = value.items()
            if name == "hostler_audit":
                self._head(value)
            elif others:
                raise ValueError(name)
            elif name == "signer":
                self._signer(SignerKey(**body))
            elif name == "checkpoint":
                self._checkpoint(Checkpoint(**body))
            elif name == "stray":
                message = f"no entry answers for it: {str(body['row'][0])[:64]} was put in"
                self._find("rows_inserted", str(body["table"]), message)
            elif name == "vanished":
                numbers = f"numbers {body['first']} to {body['last']} of {body['strand'] or 'no session'}"
                self._find("vanished", numbers, "were written and then taken away, before they were chained")
            elif name == "end":
                self._end(body)
            else:
                raise ValueError(name)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            self._find("form", f"line {self._lines}", "is not in the form of an export")

    def _end(self, end: Mapping[str, Any]) -> None:
        self._ended = True
        if (end["seq"], end["hash"]) != (self._seq, self._before.hex()):
            self._find("tail_cut", "end", f"says {str(end['seq'])[:32]}, but the last entry is {self._seq}, or another")

    def _head(self, head: Mapping[str, Any]) -> None:
        if self._started or head["hostler_audit"] != 1:
            raise ValueError("head")
        self._started = True
        self._report.workspace = str(head["workspace"])
        self._workspace = self._report.workspace.encode()
        self._start = self._seq = int(head["start"]["seq"])
        self._before = bytes.fromhex(head["start"]["hash"])
        self._report.first = self._start + 1
        if not self._start:
            self._before = genesis(self._report.workspace)
        self._start_hash = self._before
        self._seen(self._start, self._before.hex())

    def _signer(self, key: SignerKey) -> None:
        if len(self._keys) >= _MOST_SIGNERS:
            raise ValueError("too many keys")
        derived = signer_id(bytes.fromhex(key.public_key)) if _PUBLIC_KEY.match(key.public_key) else ""
        if derived != key.id:
            self._find("signer", f"signer {key.id[:64]}", "is not the id of its public key")
            return
        self._keys[key.id] = key
        if not self._trusted:
            self._good.add(key.id)
            return
        before = len(self._good) - 1
        while len(self._good) != before:  # who is signed by a good key is good
            before = len(self._good)
            for one in self._keys.values():
                by = self._keys.get(one.endorsed_by)
                signed = by is not None and by.id in self._good
                if one.public_key in self._trusted or (
                    signed and by is not None and self._holds(by.public_key, one.endorsement, one.endorsed_text)
                ):
                    self._good.add(one.id)

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        where, report = f"checkpoint at {checkpoint.seq}", self._report
        report.checkpoints += 1
        key = self._keys.get(checkpoint.signer)
        if key is None or key.id not in self._good:
            message = f"is signed by {checkpoint.signer[:64]}, which is none of the keys that are trusted here"
            self._find("signer", where, message)
            return
        if not self._holds(key.public_key, checkpoint.signature, checkpoint.signed_text):
            self._find("signature", where, "does not have a signature that holds: it was changed or made up")
            return
        if checkpoint.workspace != report.workspace:
            self._find("signature", where, "is of another workspace")
            return
        report.signers[key.id] = key.public_key
        if checkpoint.seq > self._seq:
            cut = f"entries {self._seq + 1} to {checkpoint.seq} were there when it was signed, and are cut off"
            self._find("tail_cut", where, cut)
        elif checkpoint.seq < self._seq:
            self._find("form", where, "does not stand behind its entry")
        elif checkpoint.hash != self._before.hex():
            self._find("rewritten", where, "signed another hash: the chain before it was computed anew")
        else:
            report.signed_seq = checkpoint.seq
            self._start_signed |= checkpoint.seq == self._start

    def _check_start(self) -> None:
        where = f"entry {self._start}"
        if not self._start_signed:
            self._find("start", where, "entries up to it are missing, and no checkpoint says that they were there")
        elif (self._start, self._start_hash.hex()) not in self._pruned_through:
            self._find("start", where, "entries up to it are missing, and the chain says of no retention of them")

    def _find(self, what: str, where: str, message: str) -> None:
        if len(self._report.findings) < MOST:
            self._report.findings.append(Finding(what, where, message))
        else:
            self._report.more += 1


def _shown(text: bytes) -> str:
    return text[:64].decode(errors="replace")


def verified(
    lines: Iterable[bytes], holds: Holds, *, trusted: Collection[str] = (), anchors: Iterable[str] = ()
) -> Report:
    """The report on all lines of an export."""
    verifier = Verifier(holds, trusted=trusted, anchors=anchors)
    take = verifier.line
    for line in lines:
        take(line)
    return verifier.report()
