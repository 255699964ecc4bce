"""How does a secret get into a request that was written with its placeholder, and stay out of the answer?

`InjectingSecrets` implements `RoadSecrets`. What becomes of a placeholder, in this order:

- in the URL, in `Host` and in `Referer` it stays as it is: URLs are written into logs everywhere;
- to a host that the credential is not for it stays too. It means nothing there, and a refusal would make the outcome
  depend on whether the road looks inside that connection. It is written down where it is seen;
- likewise in a place (header, body) that the credential switches off;
- without TLS the request is refused, unless it goes to the operator's own network;
- a request that would change something is refused when the credential is for reading only;
- else the secret takes its place: in header values (inside `Authorization: Basic` too) and in the body.

The answer goes through a filter that puts the placeholder back, whatever was sent: a server may repeat what it was told
an hour ago. So that the filter can read it, a request asks for no compression and for no part of a whole.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote_plus

from hostler.domain.errors import HostlerError
from hostler.egress.answers import answer_filter, has_body
from hostler.egress.http1 import OVERRIDES
from hostler.egress.redact import Forms, Redactor, stand_ins
from hostler.engine.egress_port import (
    Filter,
    RequestHead,
    SecretExchange,
    SecretRefused,
    SessionVariable,
    SessionVariables,
    UseOutcome,
    UsePlace,
    VariableUse,
)
from hostler.engine.placeholders import LENGTH, PLACEHOLDER, PREFIX

Header = tuple[bytes, bytes]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FRAMING: Final = frozenset(
    {b"host", b"referer", b"content-length", b"transfer-encoding", b"connection", b"te", b"trailer", b"upgrade"}
)
"""Headers in which nothing is put in: they say where a message goes and where it ends, or repeat a URL."""
_NOT_SENT: Final = frozenset({b"accept-encoding", b"range", b"if-range", b"sec-websocket-extensions"})
"""What would make an answer unreadable, or split a secret over two answers."""
_BASIC: Final = re.compile(rb"(basic\s+)([A-Za-z0-9+/_=-]+)\s*\Z", re.IGNORECASE)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_MARK: Final = PREFIX.encode()


class InjectingSecrets:
    """One session's."""

    def __init__(self, variables: SessionVariables) -> None:
        self._variables = variables

    def concerns(self, host: str) -> bool:
        return self._variables.concerns(host)

    async def begin(self, head: RequestHead) -> SecretExchange | None:
        mentioned = _mentions(head)
        if not mentioned and not self._variables.concerns(head.host):
            return None
        try:
            variables = await self._variables.open(head.host)
        except HostlerError as error:
            message = f"A secret for {head.host} can't be opened ({error}), so nothing is sent there. Try again."
            raise SecretRefused("secret_unavailable", message) from error
        uses = _Uses(head, {variable.placeholder: variable for variable in variables})
        for found in _placeholders(head.target):
            uses.see(found, "url")
        headers, blobs = _headers(head, uses)
        await self._write_down(uses)
        if uses.refusal is not None:
            raise uses.refusal
        given = [variable for variable in variables if variable.value is not None]
        if not given:
            return None
        forms = dict(blobs)
        for variable in given:
            for form, stand_in in stand_ins(variable.value or "", variable.placeholder.encode()).items():
                forms.setdefault(form, stand_in)
        return _Exchange(replace(head, headers=tuple(headers)), self._body(head, uses), Forms(forms))

    async def _write_down(self, uses: _Uses) -> None:
        if not uses.made:
            return
        try:
            await self._variables.used(uses.made)
        except HostlerError as error:
            message = "Hostler can't write down that a secret is used, so the request isn't sent. Try again."
            raise SecretRefused("not_recorded", message) from error

    def _body(self, head: RequestHead, uses: _Uses) -> Filter | None:
        fields = dict(head.headers)
        coded = fields.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity")
        empty = b"transfer-encoding" not in fields and fields.get(b"content-length", b"0").strip() in (b"", b"0")
        if coded or empty or not any(uses.outcome(found, "body") == "substituted" for found in uses.known.values()):
            return None
        return _BodyFilter(head, uses, self._variables, fields.get(b"content-type", b"").decode("latin-1").lower())


def _mentions(head: RequestHead) -> bool:
    if _MARK in head.target:
        return True
    return any(_MARK in value or _in_basic(value) is not None for name, value in head.headers if name != b"host")


def _placeholders(text: bytes) -> Sequence[str]:
    return list(dict.fromkeys(found.decode() for found in PLACEHOLDER.findall(text)))


# ---------------------------------------------------------------------------------------------------- what may be done


@dataclass
class _Uses:
    """What one request does with placeholders."""

    head: RequestHead
    known: Mapping[str, SessionVariable]
    """By placeholder."""
    made: list[VariableUse] = field(default_factory=list)
    refusal: SecretRefused | None = None

    def outcome(self, variable: SessionVariable, place: UsePlace) -> UseOutcome:
        if variable.value is None:
            return "host_not_allowed"
        if place == "url" or not (variable.header if place == "header" else variable.body):
            return "place_not_allowed"
        if self.head.scheme != "https" and not self.head.own_network:
            return "plain_http"
        if variable.read_only and not self._only_reads():
            return "read_only"
        return "substituted"

    def _only_reads(self) -> bool:
        return self.head.method.upper() in _SAFE and not any(name in OVERRIDES for name, _ in self.head.headers)

    def see(self, placeholder: str, place: UsePlace) -> str | None:
        """The secret that takes its place. None: it stays."""
        variable = self.known.get(placeholder)
        if variable is None:  # of a credential that is gone, or of another session
            return None
        outcome = self.outcome(variable, place)
        use = self.use(variable, place, outcome)
        if use not in self.made:
            self.made.append(use)
        if outcome == "substituted":
            value = variable.value or ""
            if _CONTROL.search(value):
                # None can be stored. If one is, it must not end a line of a request (A9).
                message = f"The secret of {variable.name} holds a line break or control character and can't be sent."
                self.refusal = SecretRefused("secret_unsendable", message)
            return value
        self.refusal = self.refusal or _refusal(variable, outcome, self.head)
        return None

    def use(self, variable: SessionVariable, place: UsePlace, outcome: UseOutcome) -> VariableUse:
        head = self.head
        return VariableUse(variable.vault_id, variable.credential_id, head.method, head.host, head.port, place, outcome)


def _refusal(variable: SessionVariable, outcome: UseOutcome, head: RequestHead) -> SecretRefused | None:
    if outcome == "plain_http":
        message = f"The secret of {variable.name} is only sent with TLS. Use https://{head.host} instead of http://."
        return SecretRefused("plain_http", message)
    if outcome == "read_only":
        message = (
            f"The credential of {variable.name} is for reading only, and this request may change something "
            f"({head.method}, or a header that stands for another method). To allow it, set the access of its scope to "
            '"read_write".'
        )
        return SecretRefused("secret_read_only", message)
    return None


# ------------------------------------------------------------------------------------------------------------- the head


def _headers(head: RequestHead, uses: _Uses) -> tuple[list[Header], dict[bytes, bytes]]:
    """The headers to be sent, and each Basic blob that was made, with the one that it was made of."""
    made: list[Header] = []
    blobs: dict[bytes, bytes] = {}
    for name, value in head.headers:
        if name in _NOT_SENT:
            continue
        if name in _FRAMING:
            made.append((name, value))
            continue
        basic = _in_basic(value)
        if basic is not None:
            word, blob, plain = basic
            sent = base64.b64encode(_substituted(plain, uses))
            if sent != blob:
                blobs[sent] = blob
            made.append((name, word + sent))
        else:
            made.append((name, _substituted(value, uses)))
    return [*made, (b"accept-encoding", b"identity")], blobs


def _in_basic(value: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Scheme, blob and what it says, when a header's value is of the kind `Basic` and holds a placeholder."""
    found = _BASIC.match(value)
    if found is None:
        return None
    blob = found[2]
    try:
        plain = base64.b64decode(blob + b"=" * (-len(blob) % 4), altchars=b"-_" if set(blob) & set(b"-_") else None)
    except (binascii.Error, ValueError):
        return None
    return (found[1], blob, plain) if _MARK in plain else None


def _substituted(text: bytes, uses: _Uses) -> bytes:
    if _MARK not in text:
        return text

    def put(found: re.Match[bytes]) -> bytes:
        secret = uses.see(found[0].decode(), "header")
        return found[0] if secret is None else secret.encode()

    return PLACEHOLDER.sub(put, text)


# ------------------------------------------------------------------------------------------------------------- the body


class _BodyFilter:
    """Puts secrets into a body. Holds back only what may be the beginning of a placeholder."""

    def __init__(self, head: RequestHead, uses: _Uses, variables: SessionVariables, content_type: str) -> None:
        self._uses = uses
        self._variables = variables
        self._type = content_type.partition(";")[0].strip()
        self._noted: set[str] = set()
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        data = PLACEHOLDER.sub(self._put, self._held + piece)
        keep = _begun(data)
        self._held = data[len(data) - keep :] if keep else b""
        return data[: len(data) - keep] if keep else data

    def end(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _put(self, found: re.Match[bytes]) -> bytes:
        placeholder = found[0].decode()
        variable = self._uses.known.get(placeholder)
        if variable is None:
            return found[0]
        outcome = self._uses.outcome(variable, "body")
        if placeholder not in self._noted:
            self._noted.add(placeholder)
            self._variables.note(self._uses.use(variable, "body", outcome))
        if outcome != "substituted" or variable.value is None or _CONTROL.search(variable.value):
            return found[0]
        return self._written(variable.value).encode()

    def _written(self, secret: str) -> str:
        """As the body's type wants it, so that nothing in the secret ends the string that it stands in."""
        if self._type == "application/json" or self._type.endswith("+json"):
            return json.dumps(secret)[1:-1]
        return quote_plus(secret) if self._type == "application/x-www-form-urlencoded" else secret


def _begun(data: bytes) -> int:
    """How many of the last bytes may be the beginning of a placeholder."""
    tail = data[-(LENGTH - 1) :]
    at = tail.find(_MARK[:1])
    while at >= 0:
        end = tail[at:]
        if _MARK.startswith(end) or (end.startswith(_MARK) and end[len(_MARK) :].isalnum()):
            return len(end)
        at = tail.find(_MARK[:1], at + 1)
    return 0


# ---------------------------------------------------------------------------------------------------------- the answer


class _Exchange:
    """Implements `SecretExchange`."""

    def __init__(self, head: RequestHead, body: Filter | None, forms: Forms) -> None:
        self.head = head
        self.body = body
        self._forms = forms

    def answer(self, status: int, headers: Sequence[Header]) -> tuple[Sequence[Header], Filter | None]:
        whole = self._forms.whole
        shown = [(whole(name), whole(value)) for name, value in headers]
        if status == 101:
            return shown, Redactor(self._forms)
        if not has_body(self.head.method, status):
            return shown, None
        reader, kept = answer_filter(shown, self._forms)
        return kept, reader
