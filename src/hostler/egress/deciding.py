"""How does one wish of a session become a decision, and the decision a record?

In this order: judge name and port (and method and path, if they are known), resolve the name once, judge every address,
write the decision down. Nothing is connected before that, and only to an address that was judged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from hostler.domain.errors import QuotaExceeded
from hostler.egress.addresses import is_public, is_this_host
from hostler.egress.client_hello import Hello, NotTls
from hostler.egress.http1 import own_answer
from hostler.egress.limits import EgressLimits
from hostler.egress.policy import BadTarget, McpTarget, Policy, Target, Verdict, normalise
from hostler.egress.resolve import Resolver
from hostler.engine.egress_port import EgressDecision, EgressRecorder

_log = logging.getLogger("hostler.egress")


class Decider:
    """Decides for one session."""

    def __init__(
        self,
        session_id: str,
        policy: Policy,
        recorder: EgressRecorder,
        resolver: Resolver,
        private_allowed: frozenset[str],
        limits: EgressLimits,
    ) -> None:
        self.session_id = session_id
        self.policy = policy
        self._recorder = recorder
        self._resolver = resolver
        self._private_allowed = private_allowed
        self._lookups = asyncio.Semaphore(limits.lookups)

    async def judge_addresses(
        self, verdict: Verdict, host: str, port: int, *, is_address: bool
    ) -> tuple[Verdict, Sequence[str]]:
        """For an allowed name: the verdict, and every address when it stays yes."""
        addresses: Sequence[str] = (host,)
        if not is_address:
            try:
                async with self._lookups:
                    addresses = await self._resolver.resolve(host, port)
            except (OSError, UnicodeError):
                addresses = ()
        if not addresses:
            return Verdict(False, "unresolvable", "The name has no address."), ()
        for address in addresses:
            if address in self._private_allowed:
                continue
            if not is_public(address):
                hint = "Only public addresses can be reached; the operator can open others (egress.private_allowed)."
                return Verdict(False, "private_address", hint), ()
            if is_this_host(address):
                return Verdict(False, "this_host", "A session doesn't reach the machine that it runs on."), ()
        return verdict, addresses

    def own_network(self, addresses: Sequence[str]) -> bool:
        """Whether the operator has listed all of them as addresses of their own network."""
        return bool(addresses) and self._private_allowed.issuperset(addresses)

    async def judge_server(self, target: McpTarget, method: str) -> tuple[Verdict, Sequence[str]]:
        """The verdict on an MCP server of the session, written down."""
        verdict, addresses = self.policy.judge_server(target), ()  # type: tuple[Verdict, Sequence[str]]
        if verdict.allowed:
            verdict, addresses = await self.judge_addresses(
                verdict, target.host, target.port, is_address=target.is_address
            )
        if verdict.allowed and target.scheme == "http" and not self.own_network(addresses):
            hint = (
                "a server that is not in the operator's own network (egress.private_allowed) is reached by https only"
            )
            verdict, addresses = Verdict(False, "plain_http", hint), ()
        if not await self.record(method, target.host, target.port, verdict):
            return Verdict(False, "not_recorded", "the decision can't be written down, so nothing is let through"), ()
        return verdict, addresses

    def judge_name(self, target: Target, words: Hello | NotTls, *, ended: bool) -> Verdict | None:
        """What is wrong with a TLS client's first words in a tunnel to `target`. None: nothing.

        ended  the proxy is the server that hears them, so a second, encrypted hello can't be meant for anybody.
        """
        if isinstance(words, NotTls):
            hint = f"A tunnel to port {target.port} is for TLS: {words}."
            return Verdict(False, "not_tls", hint)
        if words.encrypted and not ended and not self.policy.hides_nothing:
            hint = (
                "The name of the server is hidden (encrypted client hello). Switch that off in the client, or allow "
                f'"{target.host}" by a rule with methods or paths, for which the proxy ends TLS.'
            )
            return Verdict(False, "encrypted_client_hello", hint)
        if words.server_name is None:
            if target.is_address:
                return None
            hint = f'The TLS client has to send the server name "{target.host}", which the tunnel was asked for.'
            return Verdict(False, "server_name_missing", hint)
        try:
            name = normalise(words.server_name)[0]
        except BadTarget:
            name = ""
        if name == target.host:
            return None
        hint = f'The tunnel was asked for "{target.host}", the TLS client wants "{printable(words.server_name)}".'
        return Verdict(False, "server_name_mismatch", f"{hint} Ask for a tunnel to that host.")

    async def record(self, method: str, host: str, port: int, verdict: Verdict, path: str = "") -> bool:
        """Whether the decision is written down. One that isn't lets nothing through."""
        decision = EgressDecision(
            self.session_id,
            method,
            host,
            port,
            verdict.allowed,
            verdict.reason,
            verdict.hint,
            path=path.partition("?")[0],
        )
        try:
            await self._recorder.record(decision)
        except QuotaExceeded as error:  # once for each request of a session that makes very many
            _log.warning("egress.log_full", extra={"session_id": self.session_id, "reason": error.message})
            return False
        except Exception:
            _log.exception("egress.decision_not_recorded", extra={"session_id": self.session_id})
            return False
        return True


def denial(where: str, verdict: Verdict, status: int) -> bytes:
    """What a denied client gets to read."""
    text = f"Hostler denied {where} ({verdict.reason}). {verdict.hint}\n"
    return own_answer(status, "denied", verdict.reason, text)


UNRECORDED = own_answer(
    503,
    "denied",
    "not_recorded",
    "Hostler can't write this decision down, so it lets nothing through. It may be that this session has made all the "
    "requests that the operator allows one (sessions.max_egress_decisions).\n",
)


def printable(text: str) -> str:
    """What a client made up, as it may stand in a record: short and printable."""
    return "".join(char if char.isprintable() and char.isascii() else "?" for char in text[:255])
