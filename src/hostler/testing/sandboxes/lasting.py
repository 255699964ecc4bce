"""What becomes of sandboxes when their worker is gone, and of specs that no sandbox can be made from?"""

from __future__ import annotations

from hostler.engine.sandbox_port import Mount, SandboxUnavailable
from hostler.testing.sandboxes.ground import Ground


async def the_label_is_what_was_found(ground: Ground) -> None:
    label = await ground.provider.probe()
    sandbox = await ground.create()
    assert sandbox.label.technology == label.technology
    assert label.runtime, label
    assert len(sandbox.sandbox_id) == 24


async def another_worker_finds_what_is_left(ground: Ground) -> None:
    """The provider is closed without destroying: as after a kill, as far as records and engines go."""
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    ground.sandboxes.clear()
    ground.provider.close()
    heir = ground.another_provider()
    left = await heir.left_over()
    assert [(one.sandbox_id, one.session_id) for one in left] == [(sandbox.sandbox_id, "sesn_one")], left
    said = await heir.sweep()
    assert len(said) == 1, said
    assert sandbox.sandbox_id in said[0], said
    assert await heir.left_over() == []
    assert await heir.sweep() == []
    await ground.until(lambda: holding.returncode is not None, "the program ended")


async def what_is_alive_can_be_adopted(ground: Ground) -> None:
    sandbox = await ground.create()
    if not await _survives(ground, sandbox.sandbox_id):
        return
    heir = ground.provider
    adopted = await heir.adopt(sandbox.sandbox_id, ground.spec())
    ground.sandboxes.append(adopted)
    assert adopted.sandbox_id == sandbox.sandbox_id
    assert await heir.sweep() == []
    done = await ground.sh(adopted.launcher, "echo on")
    assert done.out == "on\n", done
    await adopted.destroy()
    assert await heir.left_over() == []


async def _survives(ground: Ground, sandbox_id: str) -> bool:
    """Replaces the provider by its heir. False: the sandbox did not survive, and adopting it is refused."""
    ground.sandboxes.clear()
    ground.provider.close()
    ground.provider = ground.another_provider()
    alive = {one.sandbox_id: one.alive for one in await ground.provider.left_over()}
    if alive.get(sandbox_id):
        return True
    try:
        await ground.provider.adopt(sandbox_id, ground.spec())
    except SandboxUnavailable:
        await ground.provider.sweep()
        return False
    raise AssertionError("something that is not alive was adopted")


async def another_state_directory_is_left_alone(ground: Ground) -> None:
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    stranger = ground.another_provider(ground.root / "another-state")
    assert await stranger.left_over() == []
    assert await stranger.sweep() == []
    done = await ground.sh(sandbox.entrance, "echo still here")
    assert done.out == "still here\n", done
    await holding.communicate(b"")


async def live_sandboxes_are_not_swept(ground: Ground) -> None:
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    assert await ground.provider.left_over() == []
    assert await ground.provider.sweep() == []
    done = await ground.sh(sandbox.entrance, "echo still here")
    assert done.out == "still here\n", done
    await holding.communicate(b"")


async def impossible_specs_are_refused_whole(ground: Ground) -> None:
    for changes in (
        {"environment": {"A": "b\0c"}},
        {"environment": {"A=B": "c"}},
        {"environment": {"": "c"}},
        {"program": ground.root / "no-such-program"},
        {"model_socket": ground.root / "no-such-socket"},
        {"mounts": (Mount(ground.root, "relative/path"),)},
        {"mounts": (Mount(ground.root, "/mnt/../etc"),)},
    ):
        try:
            await ground.create("bad", **changes)
        except (ValueError, SandboxUnavailable):
            pass
        else:
            raise AssertionError(f"a sandbox was made from {changes}")
    assert await ground.provider.left_over() == []
    sandbox = await ground.create()
    done = await ground.sh(sandbox.launcher, "echo fine")
    assert done.out == "fine\n", done


PROMISES = (
    the_label_is_what_was_found,
    another_worker_finds_what_is_left,
    what_is_alive_can_be_adopted,
    another_state_directory_is_left_alone,
    live_sandboxes_are_not_swept,
    impossible_specs_are_refused_whole,
)
