"""What does a program inside see, and who is it there?"""

from __future__ import annotations

import os
import secrets
import socket as sockets
from pathlib import Path

from hostler.engine.sandbox_port import Mount
from hostler.testing.sandboxes.ground import ENVIRONMENT, Ground

_STRANGE = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "$HOME",
    "`id`",
    "--",
    "-c",
    "*",
    "\\",
    "\n",
    "é",
    "--dangerously-skip-permissions",
]


async def arguments_arrive_as_they_are(ground: Ground) -> None:
    sandbox = await ground.create()
    done = await ground.run(sandbox.launcher, "/bin/sh", "-c", 'printf "%s\\0" "$@"', "sh", *_STRANGE)
    assert done.out.split("\0")[:-1] == _STRANGE, done


async def streams_carry_bytes_both_ways(ground: Ground) -> None:
    sandbox = await ground.create()
    given = bytes(range(256)) * 8192  # 2 MiB: more than any pipe holds
    process = await ground.start(sandbox.launcher, "/bin/sh", "-c", "cat; echo apart >&2")
    out, err = await process.communicate(given)
    assert out == given, (len(out), err[:200])
    assert err == b"apart\n"
    assert process.returncode == 0


async def input_arrives_while_it_is_written(ground: Ground) -> None:
    """A line gets its answer before the next one is written: the harness talks this way."""
    sandbox = await ground.create()
    process = await ground.start(sandbox.launcher, "/bin/sh", "-c", "while read line; do echo got $line; done")
    assert process.stdin is not None
    assert process.stdout is not None
    for word in ("one", "two", "three"):
        process.stdin.write(word.encode() + b"\n")
        assert await process.stdout.readline() == f"got {word}\n".encode()
    process.stdin.close()
    assert await process.wait() == 0


async def exit_statuses_come_out(ground: Ground) -> None:
    sandbox = await ground.create()
    assert (await ground.sh(sandbox.launcher, "exit 7")).code == 7
    other = await ground.create("two")
    assert (await ground.sh(other.launcher, "kill -9 $$")).code in (137, -9)


async def the_environment_is_the_specs(ground: Ground) -> None:
    canary = secrets.token_hex(8)
    os.environ["HOSTLER_TEST_CANARY"] = canary
    try:
        sandbox = await ground.create(environment={**ENVIRONMENT, "ODD": "a b\n'c'=\"$d\""})
        done = await ground.run(sandbox.launcher, "/usr/bin/env", "-0")
    finally:
        del os.environ["HOSTLER_TEST_CANARY"]
    seen = dict(line.partition("=")[::2] for line in done.out.split("\0") if line)
    # A shell that leads to the program may leave its own three; nothing of the worker is among them.
    seen = {name: value for name, value in seen.items() if name not in ("PWD", "OLDPWD", "SHLVL", "_")}
    assert seen == {**ENVIRONMENT, "ODD": "a b\n'c'=\"$d\""}, done
    assert canary not in done.out


async def the_user_has_no_rights(ground: Ground) -> None:
    sandbox = await ground.create()
    status = await ground.python(
        sandbox.launcher,
        "import json, os\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status') if ':' in line)\n"
        "print(json.dumps({'ids': os.getresuid() + os.getresgid(), 'groups': os.getgroups(),"
        " **{k: v.strip() for k, v in status.items() if k.startswith(('Cap', 'NoNew'))}}))",
    )
    assert 0 not in status["ids"], status
    assert set(status["groups"]) <= set(status["ids"]), status
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status.get(name, "0"), 16) == 0, status
    if "NoNewPrivs" in status:  # a kernel in user space may not say so
        assert status["NoNewPrivs"] == "1", status


async def set_user_id_programs_give_nothing(ground: Ground) -> None:
    sandbox = await ground.create()
    done = await ground.sh(
        sandbox.launcher,
        "cp /usr/bin/id /workspace/id && chmod 6755 /workspace/id; /workspace/id -u;"
        " /workspace/id -u | grep -qx 0 && echo ROOT",
    )
    assert "ROOT" not in done.out, done
    assert done.out.strip().isdigit(), done


async def the_system_is_read_only(ground: Ground) -> None:
    sandbox = await ground.create()
    done = await ground.sh(
        sandbox.launcher,
        "for d in / /usr /usr/bin /etc /bin /lib /opt /opt/hostler /run /run/hostler /mnt /dev; do"
        ' if touch "$d/hostler-was-here" 2>/dev/null; then echo "written: $d"; fi; done;'
        " ( echo x >> /etc/passwd ) 2>/dev/null && echo written: passwd;"
        " ( echo x > /opt/hostler/claude ) 2>/dev/null && echo written: claude; true",
    )
    assert done.out == "", done


async def the_kernel_is_not_to_be_set(ground: Ground) -> None:
    sandbox = await ground.create()
    done = await ground.sh(
        sandbox.launcher,
        "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/power/state; do"
        " ( echo x > $f ) 2>/dev/null && echo written: $f; done; mount -t tmpfs none /mnt 2>/dev/null && echo mounted;"
        " mknod /tmp/disk b 8 0 2>/dev/null && echo made; head -c 1 /tmp/disk >/dev/null 2>&1 && echo read; true",
    )
    said = done.out.split("\n")[:-1]
    if sandbox.label.kernel != "host" and said == ["made"]:
        return  # the name of a device that the sandbox's own kernel doesn't have
    assert said == [], done


async def there_is_private_room_to_write(ground: Ground) -> None:
    one, two = await ground.create("one"), await ground.create("two")
    script = "for d in /tmp /dev/shm /home/agent; do echo $0 > $d/mine || exit 3; done; cat; ls /tmp /dev/shm"
    first = await ground.start(one.launcher, "/bin/sh", "-c", script)
    done = await ground.sh(two.launcher, "ls /tmp /dev/shm; ls /home/agent")
    assert "mine" not in done.out, done
    out, err = await first.communicate(b"")
    assert out.count(b"mine") == 2, (out, err)
    assert first.returncode == 0


async def kept_folders_are_shared_both_ways(ground: Ground) -> None:
    spec = ground.spec()
    for number, folder in enumerate((spec.workspace, spec.outputs, spec.harness_state)):
        folder.mkdir(mode=0o700)
        (folder / "given").write_text(f"to {number}\n")
    sandbox = await ground.create()
    process = await ground.start(
        sandbox.launcher,
        "/bin/sh",
        "-c",
        "cd /workspace && cat given && cat /mnt/session/outputs/given /home/agent/.claude/given &&"
        " for d in /workspace /mnt/session/outputs /home/agent/.claude; do"
        " echo from $d > $d/made && chmod 600 $d/made && echo more >> $d/given; done;"
        " echo ready; read line; cat /workspace/later",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(3):
        assert await process.stdout.readline() == f"to {number}\n".encode()
    assert await process.stdout.readline() == b"ready\n", await process.communicate()
    inside = ("/workspace", "/mnt/session/outputs", "/home/agent/.claude")
    for folder, name in zip((spec.workspace, spec.outputs, spec.harness_state), inside, strict=True):
        assert (folder / "made").read_text() == f"from {name}\n"
        assert (folder / "given").read_text().endswith("more\n")
    (spec.workspace / "later").write_text("while it runs\n")
    (spec.workspace / "later").chmod(0o644)
    process.stdin.write(b"\n")
    assert await process.stdout.readline() == b"while it runs\n"
    await process.communicate()


async def mounts_are_where_the_spec_says(ground: Ground) -> None:
    place = ground.place("things")
    (place / "read").mkdir(parents=True)
    (place / "write").mkdir()
    (place / "read" / "file").write_text("given\n")
    (place / "single").write_text("alone\n")
    for path in (place, place / "read"):
        path.chmod(0o755)
    sandbox = await ground.create(
        mounts=(
            Mount(place / "read", "/mnt/skills/one"),
            Mount(place / "single", "/workspace/deep/single.txt"),
            Mount(place / "write", "/mnt/memory/notes", writable=True),
        )
    )
    done = await ground.sh(
        sandbox.launcher,
        "cat /mnt/skills/one/file /workspace/deep/single.txt && echo new > /mnt/memory/notes/made;"
        " ( echo x > /mnt/skills/one/file ) 2>/dev/null && echo WRITTEN;"
        " ( echo x > /workspace/deep/single.txt ) 2>/dev/null && echo WRITTEN; true",
    )
    assert done.out == "given\nalone\n", done
    assert (place / "write" / "made").read_text() == "new\n"
    assert (place / "read" / "file").read_text() == "given\n"


async def nothing_else_of_the_host_is_there(ground: Ground) -> None:
    canary = ground.root / "canary-of-the-host"
    canary.write_text("secret\n")
    canary.chmod(0o644)
    sandbox = await ground.create()
    seen = await ground.python(
        sandbox.launcher,
        "import json, os\n"
        "def environment(pid):\n"
        "    try:\n"
        "        return open(f'/proc/{pid}/environ', 'rb').read().decode('latin1')\n"
        "    except OSError:\n"  # Not to be read, or it has ended.
        "        return ''\n"
        f"print(json.dumps({{'canary': os.path.exists({str(canary)!r}),"
        " 'sockets': [p for p in ('/var/run/docker.sock', '/run/docker.sock', '/run/podman/podman.sock',"
        " '/run/containerd/containerd.sock', '/run/dbus/system_bus_socket', '/run/systemd/private')"
        " if os.path.exists(p)],"
        " 'host': os.uname().nodename,"
        " 'processes': sorted(int(p) for p in os.listdir('/proc') if p.isdigit()),"
        " 'environments': [environment(p) for p in os.listdir('/proc') if p.isdigit()],"
        " 'disks': [d for d in os.listdir('/dev')"
        " if d.startswith(('sd', 'vd', 'nvme', 'loop', 'mem', 'kmsg', 'kvm'))]}))",
    )
    assert seen["canary"] is False, seen
    assert seen["sockets"] == [], seen
    assert seen["host"] != sockets.gethostname(), seen["host"]
    assert os.getpid() not in seen["processes"] or os.getpid() < 50, seen["processes"]
    assert len(seen["processes"]) < 100, seen["processes"]
    assert seen["disks"] == [], seen
    worker = {f"{name}={value}" for name, value in os.environ.items() if len(value) > 12}
    assert not any(entry in text for text in seen["environments"] for entry in worker if "/usr" not in entry), seen


async def descriptors_are_not_inherited(ground: Ground) -> None:
    canary = ground.root / "open-in-the-worker"
    canary.write_text("secret\n")
    sandbox = await ground.create()
    fd = os.open(canary, os.O_RDONLY)
    try:
        process = await ground.start(
            sandbox.launcher, "/bin/sh", "-c", "for f in /proc/self/fd/*; do readlink $f; done", pass_fds=(fd,)
        )
        out, _ = await process.communicate()
    finally:
        os.close(fd)
    assert canary.name.encode() not in out, out


async def a_hostile_workspace_harms_nobody(ground: Ground) -> None:
    """Making a sandbox hands folders over; what links out of them must keep its owner and mode."""
    outside = ground.root / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").write_text("mine\n")
    (outside / "file").chmod(0o600)
    (outside / "linked").write_text("mine too\n")
    (outside / "linked").chmod(0o600)
    before = [os.lstat(path) for path in (outside, outside / "file", outside / "linked")]
    spec = ground.spec()
    spec.workspace.mkdir(mode=0o700)
    (spec.workspace / "folder").symlink_to(outside)
    (spec.workspace / "file").symlink_to(outside / "file")
    (spec.workspace / "deep").mkdir()
    (spec.workspace / "deep" / "root").symlink_to(Path("/"))
    sandbox = await ground.create()
    done = await ground.sh(sandbox.launcher, "cat /workspace/file /workspace/folder/linked; ls /workspace/deep")
    assert "mine" not in done.out, done
    after = [os.lstat(path) for path in (outside, outside / "file", outside / "linked")]
    assert [(s.st_uid, s.st_mode) for s in before] == [(s.st_uid, s.st_mode) for s in after]


PROMISES = (
    arguments_arrive_as_they_are,
    streams_carry_bytes_both_ways,
    input_arrives_while_it_is_written,
    exit_statuses_come_out,
    the_environment_is_the_specs,
    the_user_has_no_rights,
    set_user_id_programs_give_nothing,
    the_system_is_read_only,
    the_kernel_is_not_to_be_set,
    there_is_private_room_to_write,
    kept_folders_are_shared_both_ways,
    mounts_are_where_the_spec_says,
    nothing_else_of_the_host_is_there,
    descriptors_are_not_inherited,
    a_hostile_workspace_harms_nobody,
)
