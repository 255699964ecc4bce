"""The rehearsed clouds refuse what the clouds refuse, and the official clients can't tell the difference."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from hostler.testing.clouds import BedrockFront, VertexFront
from hostler.testing.clouds.signature import WrongSignature, check
from hostler.testing.rehearsal import RehearsalModel, prompt, step, text

HELLO: list[Any] = [{"role": "user", "content": prompt([step(text("Hello from here."))])}]
OLD = {"anthropic_version": "bedrock-2023-05-31"}
URL = "https://bedrock-runtime.eu-central-1.amazonaws.com/model/eu.anthropic.claude-x-v1%3A0/invoke"


def signed(**changes: Any) -> dict[str, Any]:
    """What arrives of a request that botocore signed."""
    request = AWSRequest("POST", URL, {"Host": "bedrock-runtime.eu-central-1.amazonaws.com"}, data=b"{}")
    SigV4Auth(Credentials("AKIA", "s3cret", "t0ken"), "bedrock", "eu-central-1").add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    came = {"method": "POST", "target": URL.removeprefix("https://bedrock-runtime.eu-central-1.amazonaws.com")}
    proof = {"secret": "s3cret", "region": "eu-central-1", "service": "bedrock"}
    return {**came, "headers": headers, "body": b"{}", **proof, **changes}


def with_header(name: str, value: str) -> Callable[[], dict[str, Any]]:
    return lambda: signed(headers={**signed()["headers"], name: value})


def test_what_botocore_signs_is_right() -> None:
    check(**signed())


@pytest.mark.parametrize(
    "changed",
    [
        lambda: signed(body=b"{ }"),
        lambda: signed(target="/model/eu.anthropic.claude-y-v1%3A0/invoke"),
        lambda: signed(target=signed()["target"] + "?a=b"),
        lambda: signed(method="PUT"),
        lambda: signed(secret="another"),
        lambda: signed(region="us-east-1"),
        lambda: signed(service="s3"),
        with_header("host", "elsewhere"),
        with_header("x-amz-security-token", "another"),
        with_header("x-amz-date", "20200101T000000Z"),
        with_header("authorization", "Bearer x"),
    ],
)
def test_what_was_changed_after_it_was_signed_is_refused(changed: Callable[[], dict[str, Any]]) -> None:
    with pytest.raises(WrongSignature):
        check(**changed())


async def test_the_official_client_of_bedrock_works_with_the_rehearsed_one() -> None:
    async with RehearsalModel() as model, BedrockFront(model.url) as front:
        key, secret, token = front.new_keys()
        async with anthropic.AsyncAnthropicBedrock(
            base_url=front.url,
            aws_region=front.region,
            aws_access_key=key,
            aws_secret_key=secret,
            aws_session_token=token,
            max_retries=0,
        ) as client:
            asked: Any = {"model": "eu.anthropic.claude-opus-5-5", "max_tokens": 100, "messages": HELLO}
            whole = await client.messages.create(**asked, extra_body=OLD)
            assert whole.content[0].text == "Hello from here."  # type: ignore[union-attr]
            async with client.messages.stream(**asked, extra_body=OLD) as stream:
                assert await stream.get_final_text() == "Hello from here."
            with pytest.raises(anthropic.BadRequestError, match="anthropic_version"):
                await client.messages.create(**asked)
            with pytest.raises(anthropic.BadRequestError, match="invalid beta flag"):
                await client.beta.messages.create(**asked, betas=["nobody-knows-2026-01-01"], extra_body=OLD)
            front.end_keys()
            with pytest.raises(anthropic.PermissionDeniedError, match="expired"):
                await client.messages.create(**asked, extra_body=OLD)


async def test_the_official_client_of_vertex_works_with_the_rehearsed_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    async with RehearsalModel() as model, VertexFront(model.url) as front:
        account = await asyncio.to_thread(front.write_credentials, tmp_path / "account.json")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        version = {"anthropic_version": "vertex-2023-10-16"}
        async with anthropic.AsyncAnthropicVertex(
            base_url=front.base_url, region=front.region, project_id=front.project, max_retries=0
        ) as client:
            asked: Any = {"model": "claude-opus-5-5", "max_tokens": 100, "messages": HELLO}
            whole = await client.messages.create(**asked, extra_body=version)
            assert whole.content[0].text == "Hello from here."  # type: ignore[union-attr]
            async with client.messages.stream(**asked, extra_body=version) as stream:
                assert await stream.get_final_text() == "Hello from here."
            with pytest.raises(anthropic.BadRequestError, match="Unexpected value"):
                await client.beta.messages.create(**asked, betas=["nobody-knows-2026-01-01"], extra_body=version)
            front.tokens.clear()
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(**asked, extra_body=version)
