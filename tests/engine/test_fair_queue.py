"""Nobody starves: workspaces take turns, and within one whoever came first is first."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.engine.fair_queue import FairQueue
from hostler.store.admission import WaitingRow


def row(name: str, workspace: str, since: float, environment: str = "env") -> WaitingRow:
    return WaitingRow(name, workspace, f"{environment} of {workspace}", "turn", since)


def names(rows: list[WaitingRow]) -> list[str]:
    return [each.session_id for each in rows]


def test_a_workspace_that_floods_gets_every_second_place() -> None:
    queue = FairQueue()
    flood = [row(f"f{n}", "flooder", n / 100) for n in range(100)]
    late = [row("a", "other", 50.0), row("b", "other", 51.0)]
    queue.granted("flooder", 60.0)
    assert names(list(queue.order([*flood, *late])))[:5] == ["a", "f0", "b", "f1", "f2"]


def test_who_is_blocked_stands_in_nobodys_way_and_costs_its_workspace_no_turn() -> None:
    queue = FairQueue()
    full, free = row("full", "a", 1.0, "full"), row("free", "a", 3.0, "free")
    order = queue.order([full, row("b", "b", 2.0), free], lambda each: each.environment_id == "full of a")
    assert names(list(order)) == ["b", "free"]


def test_a_server_that_has_just_begun_serves_by_age() -> None:
    rows = [row("c", "z", 3.0), row("a", "y", 1.0), row("b", "x", 2.0)]
    assert names(list(FairQueue().order(rows))) == ["a", "b", "c"]


arrivals = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["one", "two"])), max_size=6)


@given(st.lists(st.tuples(arrivals, st.integers(0, 3)), min_size=1, max_size=25))
@settings(deadline=None, max_examples=300)
def test_nobody_waits_longer_than_for_one_place_of_each_other_workspace_and_those_before_it_in_its_own(
    rounds: list[tuple[list[tuple[str, str]], int]],
) -> None:
    """Sessions arrive and places come free in any order. Whoever is the oldest of its workspace is passed at most once
    by each other workspace, whatever those do; and the places of a workspace go in the order of arrival."""
    queue = FairQueue()
    now, count = 0.0, 0
    waiting: list[WaitingRow] = []
    passed: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    """By session that is the oldest of its workspace: how often each other workspace was served since it is."""
    served: dict[str, list[str]] = defaultdict(list)
    came: dict[str, list[str]] = defaultdict(list)
    for arrived, places in [*rounds, *[([], 3)] * 60]:
        for workspace, environment in arrived:
            now, count = now + 1, count + 1
            waiting.append(row(f"s{count:04}", workspace, now, environment))
            came[workspace].append(f"s{count:04}")
        heads = {each.workspace_id: each for each in sorted(waiting, key=lambda each: each.since, reverse=True)}
        now += 1
        order = queue.order(waiting)
        for _ in range(places):
            chosen = next(order, None)
            if chosen is None:
                break
            waiting.remove(chosen)
            queue.granted(chosen.workspace_id, now)
            served[chosen.workspace_id].append(chosen.session_id)
            for head in heads.values():
                if head.workspace_id != chosen.workspace_id and head in waiting:
                    passed[head.session_id][chosen.workspace_id] += 1
                    assert passed[head.session_id][chosen.workspace_id] <= 1, "passed twice by the same workspace"
            heads = {each.workspace_id: each for each in sorted(waiting, key=lambda each: each.since, reverse=True)}
    assert not waiting, "somebody starved"
    assert served == came


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=30))
def test_the_order_has_everybody_once(drawn: list[tuple[str, int]]) -> None:
    rows = [row(f"s{n}", workspace, float(since)) for n, (workspace, since) in enumerate(drawn)]
    assert sorted(names(list(FairQueue().order(rows)))) == sorted(names(rows))
