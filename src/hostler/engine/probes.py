"""Does an OAuth credential work, right now, and if not, whose fault is it? One conversation with its MCP server.

The credential's token opens a session at its server (streamable HTTP) and asks for the tools. A 401 on the way is
answered as a session would: the token is renewed once, for good, and the conversation begins again.

- `valid`: the server took the token.
- `invalid`: the server refused it, and so did the token endpoint, or there is nothing to renew it with.
- `unknown`: one of the two could not be asked, or answered something that says nothing about the token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from hostler.domain.clock import rfc3339_of
from hostler.engine.bearers import VaultBroker, oauth_credential
from hostler.engine.credentials import opened
from hostler.engine.egress_port import Bearer
from hostler.engine.oauth import Refused, Unreached, basic
from hostler.engine.ports import Outgoing, OutgoingAnswer, OutgoingFailed, OutgoingRequest, Sealer
from hostler.engine.redaction import scrubbed
from hostler.store.database import Database
from hostler.store.vaults import CredentialRow

STEP_SECONDS: Final = 15.0
ANSWER_BYTES: Final = 1 << 20
SHOWN_CHARACTERS: Final = 2_048
_PROTOCOL: Final = "2025-06-18"
_METHOD_NOT_FOUND: Final = -32601

Status = Literal["valid", "invalid", "unknown"]


@dataclass(frozen=True, slots=True)
class _Failed:
    """The step at which the conversation ended."""

    method: str
    answer: OutgoingAnswer | None

    @property
    def status(self) -> int:
        return 0 if self.answer is None else self.answer.status


class CredentialProbe:
    def __init__(self, database: Database, sealer: Sealer, broker: VaultBroker, outgoing: Outgoing) -> None:
        self._database = database
        self._sealer = sealer
        self._broker = broker
        self._outgoing = outgoing

    async def validate(self, workspace: str, vault_id: str, credential_id: str) -> dict[str, Any]:
        """The wire's validation. Raises NotFound, and InvalidRequest for what is not an active OAuth credential."""
        row, secrets = await self._read(workspace, vault_id, credential_id)
        failed = await self._converse(row, secrets["access_token"])
        refresh: dict[str, Any] | None = None
        status = _verdict(failed)
        if failed is not None and failed.status == 401:
            bearer, refresh, status = await self._renewed(row, secrets)
            if bearer is not None:
                failed = await self._converse(row, bearer.token)
                status = _verdict(failed)
        known = [*secrets.values(), *_derived(row, secrets)]
        if failed is not None and failed.answer is not None:
            # The token may have been renewed in between: both are kept out of what is shown.
            known += (await self._read(workspace, vault_id, credential_id))[1].values()
        now = await self._database.read(self._database.now)
        return {
            "type": "vault_credential_validation",
            "credential_id": row.id,
            "vault_id": row.vault_id,
            "validated_at": rfc3339_of(now),
            "has_refresh_token": row.auth["refresh"] is not None,
            "status": status,
            "mcp_probe": None
            if failed is None
            else {"method": failed.method, "http_response": _shown(failed.answer, known)},
            "refresh": refresh,
        }

    async def _read(self, workspace: str, vault_id: str, credential_id: str) -> tuple[CredentialRow, dict[str, str]]:
        def unit(conn: Any) -> tuple[CredentialRow, dict[str, str]]:
            row = oauth_credential(conn, workspace, vault_id, credential_id)
            return row, opened(self._sealer, row)

        return await self._database.read(unit)

    async def _renewed(
        self, row: CredentialRow, secrets: dict[str, str]
    ) -> tuple[Bearer | None, dict[str, Any], Status]:
        if row.auth["refresh"] is None:
            return None, {"status": "no_refresh_token", "http_response": None}, "invalid"
        done = await self._broker.renew(row.workspace_id, row.id, rejected=secrets["access_token"], insist=True)
        if done.bearer is not None:
            return done.bearer, {"status": "succeeded", "http_response": None}, "unknown"
        match done.problem:
            case Refused(answer=answer):
                shown = _shown(answer, [*secrets.values(), *_derived(row, secrets)])
                # A broken token endpoint says nothing about the refresh token.
                verdict: Status = "unknown" if answer.status >= 500 or answer.status == 429 else "invalid"
                return None, {"status": "failed", "http_response": shown}, verdict
            case Unreached() | None:
                return None, {"status": "connect_error", "http_response": None}, "unknown"

    # -- the conversation

    async def _converse(self, row: CredentialRow, token: str) -> _Failed | None:
        """None when the server took the token."""
        url = row.auth["mcp_server_url"]
        hello = {
            "protocolVersion": _PROTOCOL,
            "capabilities": {},
            "clientInfo": {"name": "hostler", "version": "1"},
        }
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
        }
        answer = await self._step(url, headers, _message("initialize", 1, hello))
        said = _reply(answer, 1)
        if answer is None or said is None or "result" not in said:
            return _Failed("initialize", answer)
        if (session := answer.headers.get("mcp-session-id")) is not None and _plain(session):
            headers["Mcp-Session-Id"] = session
        version = said["result"].get("protocolVersion") if isinstance(said["result"], dict) else None
        headers["MCP-Protocol-Version"] = version if isinstance(version, str) and _plain(version) else _PROTOCOL
        try:
            answer = await self._step(url, headers, _message("notifications/initialized", None, {}))
            if answer is None or not 200 <= answer.status < 300:
                return _Failed("notifications/initialized", answer)
            answer = await self._step(url, headers, _message("tools/list", 2, {}))
            said = _reply(answer, 2)
            error = said.get("error") if said is not None else None
            no_tools = isinstance(error, dict) and error.get("code") == _METHOD_NOT_FOUND
            if said is None or not ("result" in said or no_tools):
                return _Failed("tools/list", answer)
            return None
        finally:
            if "Mcp-Session-Id" in headers:
                await self._say_goodbye(url, headers)

    async def _step(self, url: str, headers: dict[str, str], message: dict[str, Any]) -> OutgoingAnswer | None:
        """One message; None when there is no answer to it."""
        wanted = message.get("id")
        request = OutgoingRequest("POST", url, headers, json.dumps(message).encode())
        try:
            return await self._outgoing.send(
                request,
                seconds=STEP_SECONDS,
                limit_bytes=ANSWER_BYTES,
                enough=lambda body: wanted is None or _in_stream(body, wanted) is not None,
            )
        except OutgoingFailed:
            return None

    async def _say_goodbye(self, url: str, headers: dict[str, str]) -> None:
        try:
            await self._outgoing.send(OutgoingRequest("DELETE", url, headers), seconds=3.0, limit_bytes=1024)
        except OutgoingFailed:
            return  # The server will forget the session by itself.


def _message(method: str, number: int | None, params: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return message if number is None else {**message, "id": number}


def _reply(answer: OutgoingAnswer | None, number: int) -> dict[str, Any] | None:
    """The JSON-RPC answer to message `number`, from a body or from a stream of events."""
    if answer is None or answer.status != 200:
        return None
    if answer.headers.get("content-type", "").lower().startswith("text/event-stream"):
        return _in_stream(answer.body, number)
    return _if_reply(answer.body, number)


def _in_stream(body: bytes, number: int) -> dict[str, Any] | None:
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if (found := _if_reply(data, number)) is not None:
            return found
    return None


def _if_reply(text: bytes, number: int) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and said.get("id") == number else None


def _verdict(failed: _Failed | None) -> Status:
    if failed is None:
        return "valid"
    return "invalid" if failed.status in (401, 403) else "unknown"


def _plain(value: str) -> bool:
    return value.isascii() and value.isprintable() and len(value) <= 1024


def _derived(row: CredentialRow, secrets: dict[str, str]) -> list[str]:
    refresh = row.auth["refresh"]
    if refresh is None or "client_secret" not in secrets:
        return []
    return [basic(refresh["client_id"], secrets["client_secret"]).removeprefix("Basic ")]


def _shown(answer: OutgoingAnswer | None, secrets: Iterable[str]) -> dict[str, Any] | None:
    """An answer of somebody else's server, fit to be shown: no secrets, and not much of it."""
    if answer is None:
        return None
    kind = answer.headers.get("content-type", "")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        # Compressed although nobody asked: what it repeats could not be seen.
        return {"status_code": answer.status, "content_type": kind[:200], "body": "", "body_truncated": True}
    known = list(secrets)
    text = scrubbed(answer.body.decode("utf-8", "replace"), known, cut=answer.truncated)
    return {
        "status_code": answer.status,
        "content_type": scrubbed(kind, known)[:200],
        "body": text[:SHOWN_CHARACTERS],
        "body_truncated": answer.truncated or len(text) > SHOWN_CHARACTERS,
    }
