"""Who signs for the hosts whose TLS the proxy ends?

One authority for each road, made when the road opens and gone with it: its key is in this process's memory and nowhere
else. Certificates of hosts share one key; each host's is made once, off the event loop.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import OrderedDict
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hostler.domain.clock import Clock, SystemClock

_BEFORE = timedelta(days=1)
"""The sandbox's clock may be behind ours."""
_AUTHORITY_LIVES = timedelta(days=365)
_LEAF_LIVES = timedelta(days=7)
_RENEW_LEFT = timedelta(days=2)


class Authority:
    """Certificates for the hosts of one session. Making one takes a millisecond; use `create`, and `context`."""

    def __init__(self, name: str, clock: Clock | None = None, *, leaves: int = 256) -> None:
        """`name` tells one authority from another in a list of them; `leaves` bounds how many hosts are remembered."""
        self._clock = clock or SystemClock()
        self._leaves = leaves
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key_pem = self._leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._contexts: OrderedDict[str, tuple[ssl.SSLContext, datetime]] = OrderedDict()
        self._making: dict[str, asyncio.Future[ssl.SSLContext]] = {}
        self._certificate = self._own(name)
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)
        """The authority's certificate."""

    @classmethod
    async def create(cls, name: str, clock: Clock | None = None, *, leaves: int = 256) -> Authority:
        return await asyncio.to_thread(lambda: cls(name, clock, leaves=leaves))

    async def context(self, host: str) -> ssl.SSLContext:
        """What to end TLS for `host` with: a name in lower case, or an address."""
        known = self._ready(host)
        return known if known is not None else await asyncio.shield(self._begin(host))

    def prepare(self, host: str) -> None:
        """Begins to make it, if it isn't there."""
        if self._ready(host) is None:
            self._begin(host)

    def _begin(self, host: str) -> asyncio.Future[ssl.SSLContext]:
        making = self._making.get(host)
        if making is None:
            making = self._making[host] = asyncio.get_running_loop().run_in_executor(None, self.make, host)
            making.add_done_callback(lambda made: self._made(host, made))
        return making

    def _made(self, host: str, made: asyncio.Future[ssl.SSLContext]) -> None:
        self._making.pop(host, None)
        if not made.cancelled() and made.exception() is None:
            self._keep(host, made.result())

    def _ready(self, host: str) -> ssl.SSLContext | None:
        known = self._contexts.get(host)
        if known is None or known[1] <= self._clock.now():
            return None
        self._contexts.move_to_end(host)
        return known[0]

    def make(self, host: str) -> ssl.SSLContext:
        """A new one, for a thread of its own."""
        chain = self.chain(host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 1
        context.set_alpn_protocols(["http/1.1"])
        file = os.memfd_create("leaf", os.MFD_CLOEXEC)  # The library reads keys from files only; this one is memory.
        try:
            with open(file, "wb", closefd=False) as out:
                out.write(chain)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        return context

    def chain(self, *hosts: str) -> bytes:
        """Certificate for the hosts, and its key (PEM)."""
        return self._leaf(*hosts).public_bytes(serialization.Encoding.PEM) + self._leaf_key_pem

    def _keep(self, host: str, context: ssl.SSLContext) -> None:
        self._contexts[host] = (context, self._clock.now() + _LEAF_LIVES - _RENEW_LEFT)
        self._contexts.move_to_end(host)
        while len(self._contexts) > self._leaves:
            self._contexts.popitem(last=False)

    def _own(self, name: str) -> x509.Certificate:
        now = self._clock.now()
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hostler"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Hostler session {name}"[:64]),
            ]
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BEFORE)
            .not_valid_after(now + _AUTHORITY_LIVES)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _leaf(self, *hosts: str) -> x509.Certificate:
        now = self._clock.now()
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BEFORE)
            .not_valid_after(now + _LEAF_LIVES)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._leaf_key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
