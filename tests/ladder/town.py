"""Some hosts of a network, in a network namespace of their own: a git server and an API that asks for a token.

Names lead there by `Town.resolve`, which implements the proxy's `Resolver` and asks the system for every other name.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hostler.egress.resolve import SystemResolver

GIT, API = "git.town.example", "api.town.example"


@dataclass
class Town:
    """Hosts that are there until the block of `open_town` is left."""

    address: str
    authority: Path
    """Certificate of who signed for them."""
    token: str
    """What the API wants to see as a bearer."""
    log: Path
    """One line for each request: host, method, path, status."""

    def __post_init__(self) -> None:
        self._system = SystemResolver()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return [self.address] if host in (GIT, API) else await self._system.resolve(host, port)

    def close(self) -> None:
        self._system.close()


def _run(*words: str, cwd: Path | None = None) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


@asynccontextmanager
async def open_town(place: Path) -> AsyncIterator[Town]:
    """Needs root, ip(8) and git."""
    name, net = f"ht{secrets.token_hex(3)}", secrets.randbelow(200)
    outside, inside = f"10.213.{net}.1", f"10.213.{net}.2"
    authority = _certify(place)
    _repository(place / "www" / "repo.git", place / "origin")
    token, log = secrets.token_urlsafe(24), place / "requests.log"
    log.touch()
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", f"{name}o", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "address", "add", f"{outside}/30", "dev", f"{name}o")
        _run("ip", "link", "set", f"{name}o", "up")
        _run("ip", "-n", name, "address", "add", f"{inside}/30", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        server = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", name, sys.executable, str(Path(__file__).with_name("town_server.py"))),
            *(str(place), inside, token),
            stdout=asyncio.subprocess.PIPE,
        )
        assert server.stdout is not None
        try:
            assert await asyncio.wait_for(server.stdout.readline(), 20) == b"open\n"
            town = Town(inside, authority, token, log)
            try:
                yield town
            finally:
                town.close()
        finally:
            server.kill()
            await server.wait()
    finally:
        _run("ip", "netns", "delete", name)


def _repository(bare: Path, work: Path) -> None:
    """A repository as a plain web server can serve it."""
    identity = ("-c", "user.name=Town", "-c", "user.email=town@town.example")
    _run("git", "init", "-q", "-b", "main", str(work))
    (work / "README").write_text("the town's own words\n")
    _run("git", "add", "README", cwd=work)
    _run("git", *identity, "commit", "-q", "-m", "Begin", cwd=work)
    bare.parent.mkdir(parents=True)
    _run("git", "clone", "-q", "--bare", str(work), str(bare))
    _run("git", "update-server-info", cwd=bare)


def _certify(place: Path) -> Path:
    """An authority, and its certificate for the hosts in `server.pem`. Gives the authority's."""
    now = datetime.now(UTC)  # noqa: TID251 - certificates are of the real world
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("Town Authority", API)]
    signed = []
    for number in range(2):
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
        )
        if number == 1:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(GIT), x509.DNSName(API)])
            builder = builder.add_extension(alternatives, critical=False)
        signed.append(builder.sign(keys[0], hashes.SHA256()))
    pem = serialization.Encoding.PEM
    (place / "server.pem").write_bytes(
        keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed[1].public_bytes(pem)
    )
    authority = place / "authority.pem"
    authority.write_bytes(signed[0].public_bytes(pem))
    assert ssl.create_default_context(cafile=str(authority))
    return authority
