"""S3: what a session keeps is bounded, outlives any end of the server, and takes no room once it is gone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostler.engine.sandbox_port import IsolationLabel
from hostler.engine.volume_port import PlainFolders, Volumes, VolumeUnavailable, image_of
from hostler.sandbox import loops
from hostler.sandbox.templates import RESERVE_BYTES
from hostler.sandbox.volumes import LoopVolumes, VolumeTrial, open_volumes
from hostler.sandbox.write_rate import WriteRate, rate_files

pytestmark = pytest.mark.needs_root

MB = 1 << 20
SIZE = 64 * MB


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    until_free(tmp_path)


@pytest.fixture
def volumes(state: Path) -> Iterator[Volumes]:
    made, said = opened(state)
    assert said == []
    yield made
    made.close()


def opened(state: Path) -> tuple[Volumes, list[str]]:
    found, said = open_volumes(state / "volumes", state / "sessions", VolumeTrial(state))
    assert isinstance(found, LoopVolumes), found.missing
    return found, said


def home_of(state: Path, name: str = "sesn_one") -> Path:
    return state / "sessions" / name


def devices(folder: Path) -> list[str]:
    """Loop devices over images in the folder, deleted ones too."""
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if file.read_text().startswith(str(folder)):
                found.append(file.parts[3])
        except OSError:  # released meanwhile
            continue
    return found


def until_free(folder: Path) -> None:
    """Other tests' sandboxes copy all mounts of the host for the moment in which they are made."""
    deadline = time.monotonic() + 60
    while devices(folder):
        assert time.monotonic() < deadline, "a loop device is left"
        os.sched_yield()


def fill(file: Path) -> int:
    """Writes until nothing more goes in; gives the number of bytes."""
    written = 0
    with file.open("wb", buffering=0) as out:
        with suppress_full():
            while True:
                written += out.write(bytes(MB))
    return written


@contextmanager
def suppress_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def allocated(state: Path, name: str = "sesn_one") -> int:
    return image_of(state / "volumes", home_of(state, name)).stat().st_blocks * 512


def test_a_session_can_keep_what_its_limit_says_and_no_more(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    assert allocated(state) < MB, "an empty volume costs the host next to nothing"
    written = fill(home / "flood")
    assert SIZE <= written < 1.1 * SIZE + 4 * MB
    room = volumes.room(home)
    assert room is not None
    assert room.free_bytes < MB
    volumes.leave(home, looked_through=True)
    assert allocated(state) < written + 16 * MB


def test_a_flood_of_files_ends_inside(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    made = 0
    with suppress_full():
        while made < 1 << 20:
            os.close(os.open(home / str(made), os.O_CREAT | os.O_WRONLY))
            made += 1
    assert 10_000 < made < 100_000
    assert os.statvfs(state).f_favail > 10_000
    volumes.leave(home, looked_through=True)


def test_the_server_can_write_into_a_volume_that_a_session_has_filled(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    volumes.keep_reserve(home)
    fill(home / "flood")
    with pytest.raises(OSError, match="No space left"):
        (home / "transcript").write_bytes(bytes(8 * MB))
    volumes.give_up_reserve(home)
    (home / "transcript").write_bytes(bytes(RESERVE_BYTES // 2))
    (home / "transcript").unlink()
    volumes.keep_reserve(home)
    with pytest.raises(OSError, match="No space left"):
        (home / "more").write_bytes(bytes(8 * MB))
    volumes.leave(home, looked_through=True)


def test_what_was_written_is_there_again_and_nowhere_else(state: Path, volumes: Volumes) -> None:
    one, two = home_of(state, "sesn_one"), home_of(state, "sesn_two")
    for home in (one, two):
        volumes.enter(home, SIZE)
        (home / "name").write_text(home.name)
    volumes.leave(one, looked_through=True)
    assert list(one.iterdir()) == [], "nothing is reachable that nobody has entered"
    assert (two / "name").read_text() == "sesn_two"
    volumes.enter(one, SIZE)
    assert (one / "name").read_text() == "sesn_one"
    for home in (one, two):
        volumes.leave(home, looked_through=True)


def test_what_was_flushed_is_on_the_disk_while_the_volume_is_in_use(state: Path, volumes: Volumes) -> None:
    home, content = home_of(state), os.urandom(3 * MB)
    volumes.enter(home, SIZE)
    (home / "file").write_bytes(content)
    image = image_of(state / "volumes", home)
    assert volumes.flush(home)
    assert content[-4096:] in image.read_bytes()
    volumes.leave(home, looked_through=True)


def test_nobody_flushes_what_is_not_on_a_volume(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert not PlainFolders(tmp_path).flush(tmp_path / "home")


def test_who_enters_last_leaves_first_without_taking_the_files_away(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    (home / "file").touch()
    troubles: list[BaseException] = []

    def visit() -> None:
        try:
            for _ in range(20):
                volumes.enter(home, SIZE)
                assert (home / "file").exists()
                volumes.leave(home, looked_through=True)
        except BaseException as error:
            troubles.append(error)

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert troubles == []
    assert (home / "file").exists()
    volumes.leave(home, looked_through=True)
    until_free(state)


def test_a_home_that_is_in_use_becomes_another_one(state: Path, volumes: Volumes) -> None:
    spare, home = home_of(state, "spare_one"), home_of(state)
    volumes.enter(spare, SIZE)
    (spare / "workspace").mkdir()
    program = subprocess.Popen(["cat"], cwd=spare / "workspace", stdin=subprocess.PIPE)
    writing = (spare / "file").open("w")
    try:
        volumes.rename(spare, home)
        writing.write("kept")
        writing.close()
        assert volumes.room(spare) is None
        assert volumes.room(home) is not None
        assert (home / "file").read_text() == "kept"
        assert volumes.homes() == ["sesn_one"]
        assert volumes.unfinished() == ["sesn_one"], "a server that is killed now leaves it to be looked through"
        (Path(f"/proc/{program.pid}/cwd") / "late").write_text("too")
    finally:
        program.communicate()
    volumes.enter(spare, SIZE)
    with pytest.raises(FileExistsError):
        volumes.rename(spare, home)
    assert (volumes.room(spare) and volumes.room(home)) is not None, "and nothing has changed"
    volumes.leave(spare, looked_through=True)
    volumes.remove(spare)
    spare.rmdir()
    volumes.leave(home, looked_through=True)
    assert volumes.unfinished() == []
    volumes.enter(home, SIZE)
    assert (home / "workspace" / "late").read_text() == "too"
    volumes.leave(home, looked_through=True)


def test_a_home_without_a_volume_becomes_another_one(tmp_path: Path) -> None:
    volumes = PlainFolders(tmp_path)
    spare, home = tmp_path / "spare_one", tmp_path / "sesn_one"
    volumes.enter(spare, None)
    (spare / "file").write_text("kept")
    volumes.rename(spare, home)
    assert (home / "file").read_text() == "kept"
    volumes.enter(spare, None)
    with pytest.raises(FileExistsError):
        volumes.rename(spare, home)
    assert volumes.homes() == ["sesn_one", "spare_one"]


def test_programs_gain_nothing_from_what_is_kept(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {home} " in line)
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    assert sorted(os.listdir(home)) == [".reserve"]
    volumes.leave(home, looked_through=True)


def test_what_a_session_removes_goes_back_to_the_host(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    fill(home / "flood")
    os.sync()
    assert allocated(state) > SIZE
    (home / "flood").unlink()
    volumes.leave(home, looked_through=True)
    assert allocated(state) < 8 * MB


def test_nothing_is_left_of_a_removed_session(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    with (home / "open").open("w"):  # somebody still reads in it
        volumes.remove(home)
        volumes.remove(home)
        assert not os.path.ismount(home)
    assert list((state / "volumes").iterdir()) == []
    until_free(state)
    volumes.leave(home, looked_through=True)
    volumes.enter(home, SIZE)
    assert os.listdir(home) == [".reserve"], "a new one has nothing of it"
    volumes.remove(home)


def test_only_what_was_not_looked_through_is_looked_at_again(state: Path, volumes: Volumes) -> None:
    for name, looked_through in (("sesn_done", True), ("sesn_cut", False)):
        volumes.enter(home_of(state, name), SIZE)
        volumes.leave(home_of(state, name), looked_through=looked_through)
    assert volumes.unfinished() == ["sesn_cut"]
    volumes.enter(home_of(state, "sesn_cut"), None)
    volumes.leave(home_of(state, "sesn_cut"), looked_through=True)
    assert volumes.unfinished() == []


CRASH = """
import os, signal, sys
from pathlib import Path
from hostler.sandbox.volumes import VolumeTrial, open_volumes
state = Path(sys.argv[1])
volumes, _ = open_volumes(state / "volumes", state / "sessions", VolumeTrial(state))
home = state / "sessions" / "sesn_one"
volumes.enter(home, 64 << 20)
(home / "work").write_text("kept")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_server_loses_no_file_and_leaves_no_mount(state: Path) -> None:
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", CRASH, state], check=False)
        assert done.returncode == -signal.SIGKILL
        assert os.path.ismount(home_of(state)), "or the test tests nothing"
    volumes, said = opened(state)
    assert said == ["volume of session sesn_one: unmounted"]
    assert not os.path.ismount(home_of(state))
    until_free(state)
    assert volumes.unfinished() == ["sesn_one"]
    volumes.enter(home_of(state), SIZE)
    assert (home_of(state) / "work").read_text() == "kept"
    volumes.leave(home_of(state), looked_through=True)
    volumes.close()


@pytest.mark.parametrize(("propagation", "freed"), [("slave", True), ("private", False)])
def test_another_sandbox_that_has_copied_the_mount_does_no_harm(
    state: Path, volumes: Volumes, propagation: str, freed: bool
) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    argv = ["unshare", "--mount", "--propagation", propagation, "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"ready\n"
            (home / "file").write_text("one")
            volumes.leave(home, looked_through=True)
            if freed:
                until_free(state)
            else:
                assert len(devices(state)) == 1
            volumes.enter(home, SIZE)
            (home / "file").write_text("two")
            assert len(devices(state)) == 1, "two devices over one image destroy it"
            volumes.leave(home, looked_through=True)
        finally:
            holder.kill()
    volumes.enter(home, SIZE)
    assert (home / "file").read_text() == "two"
    volumes.leave(home, looked_through=True)


def test_a_volume_begins_right_while_others_copy_all_mounts(state: Path, volumes: Volumes) -> None:
    """Whoever gets a mount namespace while the first one of a size is made keeps that one mounted for a moment."""
    over = threading.Event()

    def copy_mounts() -> None:
        while not over.is_set():
            subprocess.run(["unshare", "--mount", "--propagation", "private", "sleep", "0.1"], check=True)

    copying = [threading.Thread(target=copy_mounts) for _ in range(8)]
    for thread in copying:
        thread.start()
    try:
        for number in range(6):
            home = home_of(state, f"sesn_{number}")
            volumes.enter(home, SIZE + (number + 1) * 4096)
            assert os.listdir(home) == [".reserve"]
            volumes.leave(home, looked_through=True)
    finally:
        over.set()
        for thread in copying:
            thread.join()


def test_a_larger_limit_makes_a_volume_larger_and_a_smaller_one_leaves_it(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    sizes = []
    for size in (SIZE, 4 * SIZE, SIZE):
        volumes.enter(home, size)
        room = volumes.room(home)
        assert room is not None
        sizes.append(room.total_bytes)
        (home / "file").write_text((home / "file").read_text() + "x" if sizes[1:] else "x")
        volumes.leave(home, looked_through=True)
    assert sizes[1] >= 4 * SIZE
    assert sizes[2] == sizes[1]
    volumes.enter(home, SIZE)
    assert (home / "file").read_text() == "xxx"
    volumes.leave(home, looked_through=True)


def test_a_volume_with_errors_is_repaired(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    (home / "file").write_text("kept")
    volumes.leave(home, looked_through=True)
    image = image_of(state / "volumes", home)
    subprocess.run(["debugfs", "-w", "-R", "set_super_value state 2", str(image)], check=True, capture_output=True)
    subprocess.run(["debugfs", "-w", "-R", "set_super_value error_count 3", image], check=True, capture_output=True)
    volumes.enter(home, SIZE)
    assert (home / "file").read_text() == "kept"
    assert loops.device_of(image) is not None
    volumes.leave(home, looked_through=True)
    told = subprocess.run(["dumpe2fs", "-h", image], check=True, capture_output=True, text=True).stdout
    assert "FS Error count" not in told
    assert "Filesystem state:         clean" in told


def test_a_volume_that_can_not_be_used_says_so_and_leaves_nothing_mounted(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    volumes.enter(home, SIZE)
    volumes.leave(home, looked_through=True)
    image = image_of(state / "volumes", home)
    with image.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.truncate(0)
        file.truncate(size)
    with pytest.raises(VolumeUnavailable, match="damaged; an operator can repair"):
        volumes.enter(home, SIZE)
    until_free(state)
    assert image.exists(), "what may hold somebody's work is never removed"


def test_files_of_a_time_without_volumes_stay_where_they_are(state: Path, volumes: Volumes) -> None:
    home = home_of(state)
    (home / "workspace").mkdir(parents=True)
    (home / "workspace" / "old").write_text("work")
    volumes.enter(home, SIZE)
    assert (home / "workspace" / "old").read_text() == "work"
    assert volumes.room(home) is None
    assert volumes.unfinished() == ["sesn_one"]
    volumes.leave(home, looked_through=True)
    assert (home / "workspace" / "old").read_text() == "work"


AS_NOBODY = """
import os, sys
from pathlib import Path
from hostler.sandbox.volumes import VolumeTrial
os.setresuid(65534, 65534, 65534)
print(VolumeTrial(Path(sys.argv[1])).hindrance())
"""


def test_a_host_without_volumes_says_why_and_works_without(state: Path) -> None:
    state.chmod(0o755)
    told = subprocess.run([sys.executable, "-c", AS_NOBODY, "/tmp"], check=True, capture_output=True, text=True).stdout
    assert "not limited: only root can mount volumes. Run the server as root." in told
    plain = PlainFolders(state / "sessions", told.strip(), state / "volumes")
    plain.enter(home_of(state), SIZE)
    (home_of(state) / "file").touch()
    assert plain.room(home_of(state)) is None
    assert plain.unfinished() == ["sesn_one"]
    plain.leave(home_of(state), looked_through=True)
    plain.close()


def test_a_session_on_a_volume_is_not_begun_anew_without_it(state: Path, volumes: Volumes) -> None:
    volumes.enter(home_of(state), SIZE)
    volumes.leave(home_of(state), looked_through=True)
    plain = PlainFolders(state / "sessions", "no loop devices", state / "volumes")
    with pytest.raises(VolumeUnavailable, match="no loop devices"):
        plain.enter(home_of(state), SIZE)


def test_the_label_says_who_limits_the_disk(state: Path) -> None:
    bare = IsolationLabel("bubblewrap", "per_sandbox", "cgroup_v1")
    assert VolumeTrial(state).amend(bare).disk_by == "volume"


def test_a_volume_writes_no_faster_than_it_may_and_its_device_is_free_of_that_afterwards(state: Path) -> None:
    if not rate_files():
        pytest.skip("this host lets us bound no device")
    found, _ = open_volumes(state / "volumes", state / "sessions", VolumeTrial(state), bytes_per_second=123 * MB)
    home = home_of(state)
    found.enter(home, SIZE)
    device = os.stat(home).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"

    def rules() -> list[str]:
        return [line for file in rate_files() for line in file.read_text().splitlines() if line.startswith(f"{name} ")]

    assert rules()
    assert all(str(123 * MB) in rule for rule in rules())
    found.leave(home, looked_through=True)
    assert rules() == []
    found.enter(home, SIZE)
    found.close()
    assert rules() == []


def test_the_rate_is_written_as_each_version_of_control_groups_wants_it(tmp_path: Path) -> None:
    first, second = tmp_path / "blkio.throttle.write_bps_device", tmp_path / "io.max"
    rate = WriteRate(1000, [first, second, tmp_path / "absent" / "io.max"])
    rate.bound(os.makedev(7, 3))
    assert (first.read_text(), second.read_text()) == ("7:3 1000\n", "7:3 wbps=1000\n")
    rate.free(os.makedev(7, 3))
    assert (first.read_text(), second.read_text()) == ("7:3 0\n", "7:3 wbps=max\n")
