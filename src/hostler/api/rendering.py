"""How does a value become the bytes of an answer?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.responses import Response

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def json_bytes(value: object) -> bytes:
    """Compact UTF-8 JSON."""
    # Half a surrogate pair has no UTF-8; as `\udc80` it is valid JSON and means the same.
    return _encoder.encode(value).encode("utf-8", "backslashreplace")


def json_response(value: object, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type="application/json")


def page(rows: Sequence[dict[str, Any]], next_page: str | None) -> Response:
    return json_response({"data": list(rows), "next_page": next_page})


def page_of_texts(rows: Iterable[str], next_page: str | None, **more: str | None) -> Response:
    """A page whose rows are JSON text already. `more`: what stands beside `next_page`."""
    tail = json.dumps({"next_page": next_page, **more}, separators=(",", ":"))
    text = f'{{"data":[{",".join(rows)}],{tail[1:]}'
    return Response(text.encode("utf-8", "backslashreplace"), 200, media_type="application/json")
