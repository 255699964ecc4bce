"""Which part of a request's cost is each tool's? Shares of whole numbers that add up to the whole.

A request that brings results of tools to the model is made because of them: all that it uses is theirs, in proportion
to the bytes of each tool's results. A request that brings none is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from hostler.store.jsontext import cleaned
from hostler.store.sessions import Usage
from hostler.store.tables_runtime import request_tools

OTHERS: Final = "(others)"
_MOST_TOOLS: Final = 32
"""Of one request; those with the fewest bytes are taken together."""
_LONGEST: Final = 128


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total`, split in proportion to `weights` (positive, at least one): whole numbers whose sum is `total`.

    None is further than one from its exact share. What is left over goes to the largest remainders, the first first.
    """
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda place: (-(total * weights[place] % whole), place))
    for place in order[: total - sum(parts)]:
        parts[place] += 1
    return parts


def record(conn: Connection, model_request_id: str, used: Usage, results: Sequence[tuple[str, int]]) -> None:
    """Writes down whose the request was. `results`: the tool and the bytes of each."""
    if not results or used == Usage():
        return
    tools = _by_tool(results)
    split = {name: shares(getattr(used, name), [max(1, size) for _, _, size in tools]) for name in Usage.__slots__}
    conn.execute(
        request_tools.insert(),
        [
            {
                "model_request_id": model_request_id,
                "tool": tool,
                "results": count,
                "result_bytes": size,
                **{name: parts[place] for name, parts in split.items()},
            }
            for place, (tool, count, size) in enumerate(tools)
        ],
    )


def _by_tool(results: Sequence[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Tool, number of results, their bytes; the largest first."""
    sums: dict[str, tuple[int, int]] = {}
    for tool, size in results:
        name = cleaned(tool, _LONGEST) or OTHERS
        count, before = sums.get(name, (0, 0))
        sums[name] = count + 1, before + size
    ordered = sorted(((name, *numbers) for name, numbers in sums.items()), key=lambda row: (-row[2], row[0]))
    if len(ordered) <= _MOST_TOOLS:
        return ordered
    kept = [row for row in ordered if row[0] != OTHERS][: _MOST_TOOLS - 1]
    names = {row[0] for row in kept}
    rest = [row for row in ordered if row[0] not in names]
    return [*kept, (OTHERS, sum(row[1] for row in rest), sum(row[2] for row in rest))]
