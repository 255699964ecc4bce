"""What must every sandbox do? The conformance suite of `hostler.engine.sandbox_port`, for whoever writes an adapter.

    @pytest.mark.parametrize("promise", PROMISES, ids=name_of)
    async def test_my_adapter(promise, tmp_path):
        async with Ground(tmp_path, lambda state: MyProvider(state)) as ground:
            await promise(ground)

Each promise is a coroutine function that takes a `Ground` and raises AssertionError when it isn't kept. They use the
port only, real programs inside and no clock but deadlines.
"""

from collections.abc import Awaitable, Callable

from hostler.testing.sandboxes import inside, lasting, limits, lives, roads
from hostler.testing.sandboxes.ground import Finished, Ground, until

Promise = Callable[[Ground], Awaitable[None]]

PROMISES: tuple[Promise, ...] = (
    *inside.PROMISES,
    *roads.PROMISES,
    *limits.PROMISES,
    *lives.PROMISES,
    *lasting.PROMISES,
)


def name_of(promise: object) -> str:
    """For the ids of parametrised tests."""
    return str(getattr(promise, "__name__", promise))


__all__ = ["PROMISES", "Finished", "Ground", "Promise", "name_of", "until"]
