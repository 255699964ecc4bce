"""Who signs for the hosts of a test? An authority of the test's own, which nobody trusts who isn't told to."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certify(place: Path, hosts: Sequence[str]) -> Path:
    """Writes a certificate for the hosts, with its key, to `server.pem`. Gives the certificate of the authority."""
    now = datetime.now(UTC)  # noqa: TID251 - certificates are of the real world
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    authority_name = f"Test Authority {secrets.token_hex(4)}"  # two of one name would be taken for each other
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (authority_name, hosts[0])]
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
            alternatives = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(alternatives, critical=False)
        signed.append(builder.sign(keys[0], hashes.SHA256()))
    pem = serialization.Encoding.PEM
    (place / "server.pem").write_bytes(
        keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed[1].public_bytes(pem)
    )
    authority = place / "authority.pem"
    authority.write_bytes(signed[0].public_bytes(pem))
    return authority
