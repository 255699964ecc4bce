"""A server that speaks S3, on loopback, with buckets that tests make."""

from __future__ import annotations

import logging
from itertools import count
from typing import Any, Self

from moto.server import ThreadedMotoServer

from hostler.objects.s3 import Bucket, Patience

_NUMBERS = count(1)


class S3Server:
    """Use as a context. `endpoint` is its address."""

    def __enter__(self) -> Self:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def bucket(self, prefix: str = "some/where", **more: Any) -> Bucket:
        """A new one."""
        name = f"bucket-{next(_NUMBERS)}"
        self.client().create_bucket(Bucket=name)
        fields = {"endpoint": self.endpoint, "access_key_id": "key", "secret_access_key": "secret"} | more
        return Bucket(name, prefix, **fields)

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )


IMPATIENT = Patience(connect_seconds=1, request_seconds=5, retries=1, retry_seconds=2, together_seconds=5)
