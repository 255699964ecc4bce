"""What is expected of the next process, and what is left for it? With a host that says what the test wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hostler.engine import memory_use
from hostler.engine.memory_use import EXPECTED_BYTES, LEAST_BYTES, MIB, HostMemory, MemoryUse
from hostler.engine.sandbox_port import SandboxStats


@dataclass
class Host:
    """A gauge that says what it is told to say."""

    memory: HostMemory | None = None
    programs: dict[str, int] = field(default_factory=dict)

    def host(self) -> HostMemory | None:
        return self.memory

    def of_sandbox(self, sandbox_id: str) -> int | None:
        return self.programs.get(sandbox_id)


@dataclass
class Box:
    """As much of a sandbox as is measured. `memory` None: nothing counts it."""

    sandbox_id: str
    memory: int | None
    files: int = 0
    launcher: Path = Path("/nonexistent")

    async def stats(self) -> SandboxStats:
        return SandboxStats(self.memory, None, None, None, None, file_cache_bytes=self.files)


async def lives(use: MemoryUse, session: str, *megabytes: int, environment: str = "env") -> None:
    """A process that used so much at one look after the other, and ended."""
    use.begins(session, environment)
    box: Any = Box(session, 0)
    for used in megabytes:
        box.memory = used * MIB
        await use.look({session: box})
    use.ended(session)


async def test_what_nothing_is_known_of_is_expected_to_need_what_claude_needs() -> None:
    use = MemoryUse(Host())
    assert use.expected("env") == EXPECTED_BYTES
    await lives(use, "a", 90)
    assert use.expected("env") == EXPECTED_BYTES, "one small one teaches nothing"
    await lives(use, "b", 400, 120)
    assert use.expected("env") == 400 * MIB, "a big one does"
    assert use.expected("another") == EXPECTED_BYTES


async def test_the_expectation_is_what_nine_of_ten_needed_at_most_at_their_start() -> None:
    use = MemoryUse(Host())
    for number in range(20):
        await lives(use, f"s{number}", 50, 100 + number, 80)
    assert use.expected("env") == 118 * MIB
    for number in range(40):
        await lives(use, f"t{number}", 10)
    assert use.expected("env") == LEAST_BYTES, "what is long ago is forgotten, and nothing needs less than this"


async def test_what_files_hold_does_not_count_and_what_no_group_counts_is_counted_by_process() -> None:
    host = Host(programs={"b": 70 * MIB})
    use = MemoryUse(host)
    boxes: Any = {"a": Box("a", 300 * MIB, 180 * MIB), "b": Box("b", None), "c": Box("c", None)}
    for name in boxes:
        use.begins(name, "env")
    await use.look(boxes)
    assert use.measured == {"a": 120 * MIB, "b": 70 * MIB, "c": None}


async def test_what_has_just_begun_will_still_grow_and_what_has_begun_long_ago_will_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use = MemoryUse(Host(HostMemory(4096 * MIB, 1000 * MIB)), reserve_bytes=100 * MIB)
    assert use.headroom() is None, "nobody has asked the host yet"
    await use.refresh()
    assert use.headroom() == 900 * MIB
    use.begins("a", "env")
    assert use.headroom() == 720 * MIB
    with monkeypatch.context() as patch:
        patch.setattr(memory_use, "START_SECONDS", -1.0)
        assert use.headroom() == 720 * MIB, "its packages may take minutes, before there is anything to measure"
    box: Any = Box("a", 50 * MIB)
    await use.look({"a": box})
    assert use.headroom() == 770 * MIB, "of 180 it has taken 50 already, and the host knows"
    monkeypatch.setattr(memory_use, "START_SECONDS", -1.0)
    await use.look({"a": box})
    assert use.headroom() == 900 * MIB


async def test_a_limit_of_the_operator_counts_what_sandboxes_use_and_never_exceeds_the_host() -> None:
    host = Host(HostMemory(8192 * MIB, 5000 * MIB))
    use = MemoryUse(host, limit_bytes=1024 * MIB)
    await use.refresh()
    assert use.reserve == 128 * MIB
    assert use.available() == 1024 * MIB
    use.begins("a", "env")
    boxes: Any = {"a": Box("a", 200 * MIB)}
    await use.look(boxes)
    assert use.available() == 824 * MIB
    host.memory = HostMemory(8192 * MIB, 500 * MIB)
    await use.refresh()
    assert use.available() == 500 * MIB
    assert MemoryUse(Host(), limit_bytes=8192 * MIB).reserve == 8192 * MIB // 20
