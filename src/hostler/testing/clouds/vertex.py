"""A rehearsed Vertex AI: tokens are given out and checked, streams are those of the Messages API."""

from __future__ import annotations

import functools
import json
import re
import secrets
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from hostler.testing.clouds.front import Front, Refused, object_of, without_its_beta
from hostler.testing.rehearsal.http import Connection, Request

PROJECT = "rehearsal"
REGION = "europe-west1"
_PATH = re.compile(
    r"/v1/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/publishers/anthropic/models/"
    r"(?P<model>[^/:]+):(?P<action>rawPredict|streamRawPredict)"
)
_VERSION = "vertex-2023-10-16"
_BETAS = frozenset({"interleaved-thinking-2025-05-14"})
_STATUSES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
_AUDIENCE = "https://oauth2.googleapis.com/token"
"""Google's libraries say it whichever server is asked."""
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@functools.cache
def _account_key() -> rsa.RSAPrivateKey:
    """One for the process: making it takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class VertexFront(Front):
    """Set `GOOGLE_APPLICATION_CREDENTIALS` to the file of `write_credentials`, and the base URL to `base_url`."""

    def __init__(self, model_url: str, *, project: str = PROJECT, region: str = REGION) -> None:
        super().__init__(model_url)
        self.project = project
        self.region = region
        self._key = _account_key()
        self._email = f"hostler@{project}.iam.gserviceaccount.com"
        self.tokens: list[str] = []
        """Those that were given out, the newest last, and that are taken."""
        self.lifetime = 3600
        """Seconds that the next tokens live, as their receiver is told."""

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def write_credentials(self, path: Path) -> Path:
        """A key file of a service account, whose tokens this server gives out."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": self._email,
            "token_uri": f"{self.url}/token",
        }
        path.touch(0o600)
        path.write_text(json.dumps(account))
        return path

    def answer_own(self, request: Request, connection: Connection) -> bool:
        if (request.method, request.path) != ("POST", "/token"):
            return False
        if not self._is_ours(parse_qs(request.body.decode()).get("assertion", [""])[0]):
            connection.respond(401, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}')
            return True
        self.tokens.append(f"ya29.{secrets.token_urlsafe(30)}")
        given = {"access_token": self.tokens[-1], "expires_in": self.lifetime, "token_type": "Bearer"}
        connection.respond(200, json.dumps(given).encode())
        return True

    async def answer(self, request: Request, connection: Connection) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise Refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        found = _PATH.fullmatch(request.path)
        if found is None:
            raise Refused(404, "NOT_FOUND", f"There is no {request.path} here.")
        if (found["project"], found["region"]) != (self.project, self.region):
            raise Refused(403, "PERMISSION_DENIED", f"Permission denied on {found['project']}, {found['region']}.")
        body = object_of(request.body)
        betas = _vetted(body, request.headers.get("anthropic-beta", ""))
        if found["model"] == "count-tokens":
            path, asked = "/v1/messages/count_tokens", {**body, "model": _ours(str(body.get("model")))}
        else:
            if "model" in body:
                raise Refused(400, "INVALID_ARGUMENT", "model: Extra inputs are not permitted")
            if (found["action"] == "streamRawPredict") != (body.get("stream") is True):
                raise Refused(400, "INVALID_ARGUMENT", "stream: does not fit the method")
            path, asked = "/v1/messages", {**body, "model": _ours(found["model"])}
        async with self.asked(path, asked, betas) as response:
            headers = {
                name: value
                for name, value in response.headers.items()
                if name in ("content-type", "request-id", "retry-after")
            }
            if body.get("stream") is not True or response.status_code != 200:
                connection.respond(response.status_code, await response.aread(), headers)
                return
            connection.start(200, headers)
            async for piece in response.aiter_bytes():
                connection.send(piece)
                await connection.drain()
            connection.finish()

    def say_no(self, refused: Refused, connection: Connection) -> None:
        error = {"code": refused.status, "message": str(refused), "status": _STATUSES.get(refused.status, refused.name)}
        connection.respond(refused.status, json.dumps({"error": error}).encode())

    def _is_ours(self, assertion: str) -> bool:
        """Whether a JSON web token is signed with the key that was written."""
        signed, _, signature = assertion.rpartition(".")
        try:
            self._key.public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            claims = json.loads(_decoded(signed.partition(".")[2]))
        except (InvalidSignature, ValueError):
            return False
        wanted = {"iss": self._email, "aud": _AUDIENCE, "scope": _SCOPE}
        return all(claims.get(name) == value for name, value in wanted.items())


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _vetted(body: dict[str, Any], header: str) -> list[str]:
    """The betas of a request, whose body is then one of the Messages API. Raises Refused."""
    if body.pop("anthropic_version", None) != _VERSION:
        raise Refused(400, "INVALID_ARGUMENT", "anthropic_version: Field required")
    betas = [beta.strip() for beta in header.split(",") if beta.strip()]
    wrong = [beta for beta in betas if beta not in _BETAS]
    if wrong:
        raise Refused(400, "INVALID_ARGUMENT", f"Unexpected value(s) `{wrong[0]}` for the `anthropic-beta` header.")
    without_its_beta(body, betas)
    return betas


def _ours(model: str) -> str:
    """The Messages API's name for one of Vertex AI's."""
    return model.replace("@", "-")
