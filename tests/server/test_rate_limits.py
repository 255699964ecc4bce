"""A session that asks faster than a limit allows ends its turn as any other; on a whole server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from housekit import open_house

from hostler.store import ledger
from hostler.testing.rehearsal import step, tool

pytestmark = [pytest.mark.needs_root, pytest.mark.one_database]


async def test_a_turn_under_a_tight_limit_ends_well(tmp_path: Path, store_url: str) -> None:
    limits = {"model": {"requests_per_minute": 60}}
    async with open_house(tmp_path, store_url, rates__limits=limits, rates__burst_seconds=1.0) as house:
        session = await house.session()
        events = await house.turn(session, [*(step(tool("bash", command="true")) for _ in range(2)), step("Done.")])
        assert events[-1].stop_reason.type == "end_turn"
        assert not [event for event in events if event.type == "session.error"]
        assert house.hostler is not None
        rows = await house.hostler.database.read(lambda c: ledger.list_model_requests(c, session))
        assert len(rows) >= 3
        assert {row.status for row in rows} == {200}, "nobody was refused: they waited"
        shown = await house.client.get("/hostler/v1/rate_limits", cast_to=dict[str, Any])
        [bucket] = [row for row in shown["buckets"] if row["scope"] == "upstream"]
        assert (bucket["upstream"], bucket["per_minute"], bucket["capacity"]) == ("model", 60.0, 1.0)
