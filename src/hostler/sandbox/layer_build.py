"""What happens in the process that builds one layer? `python -m hostler.sandbox.layer_build ORDER`, as root.

It mounts a volume of limited size and, over the base image, an overlay that writes to it; runs the installers one after
the other in sandboxes on that; and copies what they wrote. All mounts are in a namespace of its own, so nothing of a
build outlives it. It dies with the worker, and its sandboxes die with it.

Written to standard output, one JSON object on a line: `{"step": "pip"}` as one begins; last
`{"bytes": 1, "entries": 1}`, or `{"failed": "pip", "status": 1, "said": "…", "full": false}`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox import idmapped
from hostler.sandbox.layer_tree import LayerTree, TreeTooLarge

SAID_BYTES: Final = 16_384
"""What is kept of the last things that an installer said."""

CAPABILITIES: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID")
"""What dpkg and its scripts need to be root among files, and nothing else, in a user namespace."""

PROXY: Final = "http://127.0.0.1:3128"
CERTIFICATES: Final = "/run/hostler/ca.crt"
ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "npm_config_https_proxy"), PROXY),
    **dict.fromkeys(
        (
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "PIP_CERT",
            "NODE_EXTRA_CA_CERTS",
            "CARGO_HTTP_CAINFO",
        ),
        CERTIFICATES,
    ),
    "npm_config_cafile": CERTIFICATES,
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_NO_CACHE_DIR": "1",
    "GOBIN": "/usr/local/bin",
    "GOPROXY": "https://proxy.golang.org",
    "GOTOOLCHAIN": "local",
    "CARGO_REGISTRIES_CRATES_IO_PROTOCOL": "sparse",  # the other one is a git repository on another host
}


@dataclass(frozen=True, slots=True)
class Order:
    """All that one build needs to know."""

    parent: int
    """Process id of the worker."""
    place: str
    """Folder of this build. The layer is written to `tree` in it."""
    image: str
    """Root file system of the base image."""
    volume_bytes: int
    first_id: int
    """First of 65,536 unused user and group ids of the host."""
    egress_socket: str
    certificates: str
    """Host file with the certificates of authorities to trust."""
    filter: str
    """File with the system call filter."""
    stage: str
    """Folder of the host over which this process may mount, in its own namespace."""
    bwrap: str
    entrances: Sequence[str]
    """Files to which a process writes `0` to come under the limits."""
    steps: Sequence[tuple[str, Sequence[str]]]
    """Names and commands, in their order."""

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))


def main(file: str) -> int:
    order = Order(**json.loads(Path(file).read_text()))
    idmapped.die_with_parent(order.parent)
    os.umask(0o022)
    try:
        result = _build(order)
    except (OSError, subprocess.SubprocessError, SandboxUnavailable, RecursionError) as error:
        result = {"failed": "", "status": 1, "said": str(error), "full": False}
    _tell(result)
    return 0


def _tell(what: Mapping[str, object]) -> None:
    print(json.dumps(what), flush=True)


def _build(order: Order) -> dict[str, object]:
    idmapped.private_mounts()
    os.chdir(order.place)  # so that no option of a mount holds a path of the host, with whatever is in its name
    volume = _volume(order.volume_bytes)
    upper, work = Path("volume/upper"), Path("volume/work")
    for folder in (upper, work):
        folder.mkdir(mode=0o755)
    os.chown(upper, order.first_id, order.first_id)
    namespace = idmapped.user_namespace(order.first_id)
    lower, stage = Path("lower"), Path("stage")
    for folder in (lower, stage, stage / "root"):
        folder.mkdir(mode=0o755)
    idmapped.mount_seen_through(namespace, Path(order.image), lower)
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    plain = "index=off,redirect_dir=off,metacopy=off"  # whoever mounts the layer need not know of these
    flags = idmapped.MS_NOSUID | idmapped.MS_NODEV
    idmapped.mount("overlay", str(stage / "root"), "overlay", flags, f"{layers},{plain}")
    for name, source in (("egress.sock", order.egress_socket), ("ca.crt", order.certificates)):
        (stage / name).touch()
        idmapped.mount(source, str(stage / name), None, idmapped.MS_BIND)
    idmapped.mount(str(stage), order.stage, None, idmapped.MS_BIND | idmapped.MS_REC)
    for name, command in order.steps:
        _tell({"step": name})
        status, said = _run(order, namespace, command)
        if status != 0:
            free = os.statvfs(volume)
            full = free.f_bavail * free.f_frsize < 1 << 20 or free.f_favail < 16
            return {"failed": name, "status": status, "said": said, "full": full}
    tree = LayerTree(upper, Path("tree"), order.first_id, idmapped.IDS, order.volume_bytes)
    try:
        tree.copy()
    except TreeTooLarge:
        return {"failed": order.steps[-1][0], "status": 0, "said": "", "full": True}
    return {"bytes": tree.bytes, "entries": tree.entries}


def _volume(size: int) -> Path:
    """A file system of this size, mounted on `volume`: the hard limit of what installers may write."""
    with open("volume.img", "xb") as image:
        image.truncate(size)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    _tool("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", options, "volume.img")
    volume = Path("volume")
    volume.mkdir(mode=0o700)
    _tool("mount", "-o", "loop,nosuid,nodev,noatime", "volume.img", "volume")
    return volume


def _tool(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SandboxUnavailable(f"no volume for packages can be made: {command[0]}: {done.stderr.strip()[-400:]}")


def _run(order: Order, namespace: int, command: Sequence[str]) -> tuple[int, str]:
    """Runs one installer in a sandbox of its own; its exit status and the end of what it said."""
    with open(order.filter, "rb") as filter_:
        process = subprocess.Popen(
            [*_sandbox(order, namespace, filter_.fileno()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            pass_fds=(namespace, filter_.fileno()),
            preexec_fn=_entering(order),  # this process has one thread
        )
    assert process.stdout is not None
    said = bytearray()

    def read(stream: Any) -> None:
        while piece := stream.read1(65536):
            said.extend(piece)
            del said[:-SAID_BYTES]

    reader = threading.Thread(target=read, args=(process.stdout,))
    reader.start()
    status = process.wait()
    reader.join()
    process.stdout.close()
    return status, said.decode("utf-8", "replace")


def _entering(order: Order) -> Callable[[], None]:
    def enter() -> None:
        for entrance in order.entrances:
            Path(entrance).write_text("0")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        idmapped.become(order.first_id)

    return enter


def _sandbox(order: Order, namespace: int, filter_: int) -> list[str]:
    inside = (
        "socat TCP-LISTEN:3128,bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:/run/hostler/egress.sock "
        "</dev/null >/dev/null 2>&1 & until grep -q ':0C38 .* 0A ' /proc/net/tcp; do sleep 0.01; done; "  # it listens
        'exec "$@"'
    )
    words = [
        *(order.bwrap, "--userns", str(namespace), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *(
            "--unshare-cgroup",
            "--die-with-parent",
            "--new-session",
            "--uid",
            "0",
            "--gid",
            "0",
            "--hostname",
            "sandbox",
        ),
        *("--cap-drop", "ALL", *(word for name in CAPABILITIES for word in ("--cap-add", f"CAP_{name}"))),
        *("--bind", f"{order.stage}/root", "/", "--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--tmpfs", "/dev/shm", "--perms", "1777", "--tmpfs", "/tmp", "--tmpfs", "/run"),
        *("--ro-bind", f"{order.stage}/egress.sock", "/run/hostler/egress.sock"),
        *("--ro-bind", f"{order.stage}/ca.crt", CERTIFICATES),
        *("--chdir", "/tmp", "--seccomp", str(filter_), "--clearenv"),
    ]
    for name, value in ENVIRONMENT.items():
        words += ["--setenv", name, value]
    return [*words, "--", "/bin/sh", "-c", inside, "sh"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
