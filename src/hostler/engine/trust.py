"""How do programs in a sandbox come to trust the authority of their session's egress road?

The road ends TLS where it must look inside, with certificates that an authority of this one session has signed. Nothing
of `/etc` is changed: a folder with certificates is mounted read-only, and variables and one configuration file say so
to each program in the way that it understands. `VARIABLES` is the whole list; what of it works is measured
(`docs/reference/ca-trust.md`).

Each bundle holds what the host trusts besides the session's authority, because hosts whose TLS is passed through show
certificates of public authorities, or of those of the operator's own network (`egress.ca_bundle`). What only adds to a
program's own list gets the session's authority and the operator's.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

from hostler.engine.sandbox_port import Mount

INSIDE: Final = "/opt/hostler/trust"
BUNDLE: Final = f"{INSIDE}/bundle.pem"
"""What the host trusts, the operator's authorities, and the session's."""
SESSION: Final = f"{INSIDE}/session.pem"
"""The operator's and the session's authorities alone."""
JAVA_STORE: Final = f"{INSIDE}/java.p12"
"""The bundle as Java reads it, without a password."""
WGETRC: Final = f"{INSIDE}/wgetrc"

_JAVA: Final = " ".join(
    [
        f"-Djavax.net.ssl.trustStore={JAVA_STORE}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        "-Dhttp.proxyHost=127.0.0.1",
        "-Dhttp.proxyPort=3128",
        "-Dhttps.proxyHost=127.0.0.1",
        "-Dhttps.proxyPort=3128",
        "-Dhttp.nonProxyHosts=localhost|127.*|[::1]",
    ]
)


@dataclass(frozen=True, slots=True)
class TrustVariable:
    """One variable of the sandbox's environment."""

    name: str
    value: str
    why: str


VARIABLES: Final = (
    TrustVariable("SSL_CERT_FILE", BUNDLE, "OpenSSL and what uses its defaults: Python's ssl, httpx, Ruby, Go, Rust"),
    TrustVariable("CURL_CA_BUNDLE", BUNDLE, "curl, whatever TLS library it was built with"),
    TrustVariable("GIT_SSL_CAINFO", BUNDLE, "git, which has libcurl take its own file and not curl's"),
    TrustVariable("REQUESTS_CA_BUNDLE", BUNDLE, "Python's requests, which otherwise brings its own list"),
    TrustVariable("PIP_CERT", BUNDLE, "pip, of every version: newer ones would ask the system's list"),
    TrustVariable("NODE_EXTRA_CA_CERTS", SESSION, "Node.js and npm, which add it to the list that they bring along"),
    TrustVariable("NPM_CONFIG_CAFILE", BUNDLE, "npm again: a list that its own configuration names would win"),
    TrustVariable("DENO_CERT", SESSION, "Deno, which adds it to the list that it brings along"),
    TrustVariable("CARGO_HTTP_CAINFO", BUNDLE, "cargo, which has libcurl take its own file"),
    TrustVariable("AWS_CA_BUNDLE", BUNDLE, "the AWS command line and botocore, which bring their own list"),
    TrustVariable("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", BUNDLE, "gRPC's C core, which brings its own list"),
    TrustVariable("SYSTEM_WGETRC", WGETRC, "wget, which is told in its configuration only"),
    TrustVariable("JAVA_TOOL_OPTIONS", _JAVA, "Java, and its way to the proxy; it says so at each start"),
)  # fmt: skip

_HOST_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CERTIFICATE: Final = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a sandbox is given so that its programs trust the session's authority."""

    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()


NO_TRUST: Final = Trust()
"""For roads that end no TLS, where the operator has no authorities of their own."""


def write_trust(folder: Path, authority: bytes) -> Trust:
    """Writes everything below `folder`, a folder of the host that lets everybody through, over what is there.

    authority  the session's certificate, and others that the host doesn't trust, PEM. About 15 ms.
    """
    bundle = with_own(authority)
    files = {
        "bundle.pem": bundle,
        "session.pem": authority,
        "java.p12": _java_store(bundle),
        "wgetrc": f"ca_certificate = {BUNDLE}\n".encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # whatever the umask
    for name, content in files.items():
        new = folder / f".{name}"
        new.write_bytes(content)
        new.chmod(0o644)
        new.replace(folder / name)
    environment = {variable.name: variable.value for variable in VARIABLES}
    return Trust(environment, (Mount(folder, INSIDE),))


def with_own(authorities: bytes) -> bytes:
    """Whom the host trusts, and these; PEM."""
    return joined(_host_certificates(), authorities)


def joined(*bundles: bytes) -> bytes:
    """One bundle of several, PEM."""
    return b"".join(bundle if bundle.endswith(b"\n") else bundle + b"\n" for bundle in bundles if bundle)


def _host_certificates() -> bytes:
    """Whom the host trusts, PEM. Nobody, when it has no bundle."""
    chosen = ssl.get_default_verify_paths().cafile
    for place in (chosen, *_HOST_BUNDLES):
        if place and os.path.isfile(place):
            return Path(place).read_bytes()
    return b""


def _java_store(bundle: bytes) -> bytes:
    found = []
    for number, pem in enumerate(_CERTIFICATE.findall(bundle)):
        if _has_positive_serial(ssl.PEM_cert_to_DER_cert(pem.decode("ascii", "replace"))):
            certificate = x509.load_pem_x509_certificate(pem)
            found.append(pkcs12.PKCS12Certificate(certificate, f"hostler-{number}".encode()))
    return pkcs12.serialize_java_truststore(found, NoEncryption())


def _has_positive_serial(der: bytes) -> bool:
    """RFC 5280 wants it, a few old authorities don't care, and the library will refuse to read them."""
    at = _inside(der, _inside(der, 0))
    if der[at] == 0xA0:  # the version, which may be left out
        at += 2 + der[at + 1]
    return der[at] == 2 and int.from_bytes(der[at + 2 : at + 2 + der[at + 1]], "big", signed=True) > 0


def _inside(der: bytes, at: int) -> int:
    """Where the content of the element at `at` begins."""
    length = der[at + 1]
    return at + 2 + (length & 0x7F if length & 0x80 else 0)
