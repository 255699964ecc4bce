"""What of the files that installers wrote is in a layer, and what is not?"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from hostler.sandbox.layer_tree import OPAQUE, LayerTree, TreeTooLarge

pytestmark = pytest.mark.needs_root

FIRST, IDS = 400_000, 65536


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    made = tmp_path / "upper"
    (made / "usr/bin").mkdir(parents=True)
    (made / "usr/bin/tool").write_text("#!/bin/sh\n")
    for path in (made, *made.rglob("*")):
        os.chown(path, FIRST, FIRST)
    return made


def copied(upper: Path, most_bytes: int = 1 << 20) -> Path:
    target = upper.parent / "tree"
    LayerTree(upper, target, FIRST, IDS, most_bytes).copy()
    return target


def test_files_keep_what_they_say_and_lose_what_they_may(upper: Path) -> None:
    tool = upper / "usr/bin/tool"
    tool.chmod(0o6755)
    subprocess.run(["setcap", "cap_net_raw+ep", str(tool)], check=True)
    os.utime(tool, (1000, 1000))
    os.link(tool, upper / "usr/bin/same")
    os.chown(upper / "usr/bin", FIRST + 33, FIRST + 8)
    (upper / "usr/sticky").mkdir(mode=0o1777)
    (upper / "usr/sticky").chmod(0o3777)
    tree = copied(upper)
    info = (tree / "usr/bin/tool").stat()
    assert stat.S_IMODE(info.st_mode) == 0o755
    assert (info.st_uid, info.st_gid, info.st_mtime, info.st_nlink) == (0, 0, 1000, 2)
    assert "security.capability" not in os.listxattr(tree / "usr/bin/tool")
    assert (tree / "usr/bin/same").stat().st_ino == info.st_ino
    assert ((tree / "usr/bin").stat().st_uid, (tree / "usr/bin").stat().st_gid) == (33, 8)
    assert stat.S_IMODE((tree / "usr/sticky").stat().st_mode) == 0o1777
    assert (tree / "usr/bin/tool").read_text() == "#!/bin/sh\n"


def test_links_are_copied_and_never_followed(upper: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("of the host")
    (upper / "usr/lib").symlink_to(secret)
    (upper / "usr/key").symlink_to("/etc/shadow")
    (upper / "opt").symlink_to("../../../secret")
    tree = copied(upper)
    assert os.readlink(tree / "usr/lib") == str(secret)
    assert os.readlink(tree / "usr/key") == "/etc/shadow"
    assert os.readlink(tree / "opt") == "../../../secret"
    assert [path.name for path in tree.rglob("*") if path.is_file() and not path.is_symlink()] == ["tool"]


def test_what_was_removed_stays_removed(upper: Path) -> None:
    os.mknod(upper / "usr/gone", stat.S_IFCHR, 0)
    os.setxattr(upper / "usr/bin", OPAQUE, b"y")
    tree = copied(upper)
    info = (tree / "usr/gone").lstat()
    assert stat.S_ISCHR(info.st_mode)
    assert info.st_rdev == 0
    assert os.getxattr(tree / "usr/bin", OPAQUE) == b"y"


def test_devices_pipes_sockets_and_places_of_sandboxes_are_left_out(upper: Path) -> None:
    os.mknod(upper / "usr/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(upper / "usr/disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    os.mkfifo(upper / "usr/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(upper / "usr/socket"))
    for name in ("root/.npm", "home/agent", "tmp", "var/cache/apt", "var/lib/apt/lists", "var/lib/gems", "workspace"):
        (upper / name).mkdir(parents=True)
        (upper / name / "file").touch()
    (upper / "etc").mkdir()
    (upper / "etc/hosts").write_text("127.0.0.1 pypi.org\n")
    (upper / "etc/tool.conf").touch()
    tree = copied(upper)
    files = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir())
    assert files == ["etc/tool.conf", "usr/bin/tool", "var/lib/gems/file"]


def test_a_file_of_nothing_but_holes_does_not_fill_the_disk_of_the_host(upper: Path) -> None:
    with (upper / "usr/large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TreeTooLarge):
        copied(upper)
    assert not (upper.parent / "tree/usr/large").exists()
