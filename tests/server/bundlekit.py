"""Sessions as files: export from one server, import on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2
from housekit import TRUST, House


@dataclass(frozen=True)
class Got:
    status: int
    content: bytes
    headers: dict[str, str]
    json: Any


async def exported(house: House, session: str, **query: Any) -> Got:
    return await send(house, "GET", f"sessions/{session}/bundle", query)


async def imported(house: House, bundle: bytes, **query: Any) -> Got:
    return await send(house, "POST", "sessions/import", query, bundle)


async def send(house: House, verb: str, path: str, query: dict[str, Any], content: bytes | None = None) -> Got:
    assert house.hostler is not None
    kind = {"content-type": "application/octet-stream"} if content is not None else {}
    async with httpx2.AsyncClient(verify=TRUST, timeout=60) as client:
        answer = await client.request(
            verb,
            f"{house.hostler.base_url}/hostler/v1/{path}",
            params=query,
            content=content,
            headers={"authorization": f"Bearer {house.secret}", **kind},
        )
    is_json = answer.headers["content-type"] == "application/json"
    return Got(answer.status_code, answer.content, dict(answer.headers), answer.json() if is_json else None)
