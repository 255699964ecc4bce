"""What exactly is started, and how does it get from the worker's rights down to the sandbox's?

The launcher is one chain of `exec`s in one process: `env` (forgets the worker's environment) → `unshare` (a mount
namespace, only when root) → `bash` (joins the control groups, sets limits, closes descriptors, mounts what the
sandbox's user couldn't reach) → `setpriv` (becomes that user) → `bwrap` (builds the namespaces) → `sh` inside (starts
the egress forwarder) → `claude`. About 6 ms on a small machine. No argument of `claude` is ever parsed, only passed on.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostler.engine.sandbox_port import SandboxSpec, SandboxUnavailable
from hostler.sandbox import layered_root, programs

MARK = "HOSTLER_SANDBOX"
"""Environment variable of the launcher (never of what runs inside) by which a sandbox's processes are found."""

UID_INSIDE = 1000
EGRESS_PORT = 3128
HALF_OPEN_SECONDS = 300
"""How long the forwarder keeps one direction of a connection when the other has ended."""

_ARGUMENTS_FD, _SECCOMP_FD = 3, 4

_STAGE_CANDIDATES = ("/mnt", "/media", "/srv", "/opt")
"""Directories over which the launcher may mount, in its own mount namespace, what the sandbox's user is to reach."""

_PASSWD = f"""\
root:x:0:0:root:/root:/usr/sbin/nologin
agent:x:{UID_INSIDE}:{UID_INSIDE}:agent:/home/agent:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = f"root:x:0:\nagent:x:{UID_INSIDE}:\nnogroup:x:65534:\n"
_ETC_FILES = {
    "passwd": _PASSWD,
    "group": _GROUP,
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
}
ETC_FROM_HOST = (
    *("alternatives", "ld.so.cache", "ssl/certs", "ssl/openssl.cnf", "pki/tls/certs", "pki/ca-trust"),
    *sorted(folder.name for folder in Path("/etc").glob("java-*-openjdk")),
)
"""What of the host's `/etc` is visible: links of Debian's alternatives, the loader's cache, public certificates, and
the part of Debian's Java without which it doesn't start."""

_PACKAGES = {
    "bwrap": "bubblewrap",
    "socat": "socat",
    "bash": "bash",
    "env": "coreutils",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}


@dataclass(frozen=True, slots=True)
class Tools:
    """Absolute paths of the programs in the chain. The last three are there when the worker is root."""

    env: str
    bash: str
    bwrap: str
    socat: str
    unshare: str = ""
    mount: str = ""
    setpriv: str = ""


USUAL_PLACES = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def find_tools(*, root: bool, places: str = USUAL_PLACES) -> Tools:
    """Looks on PATH and in `places`. SandboxUnavailable names every package that is missing, at once."""
    names = ["env", "bash", "bwrap", "socat", *(["unshare", "mount", "setpriv"] if root else [])]
    path = os.pathsep.join(filter(None, [os.environ.get("PATH"), places]))
    found = {name: shutil.which(name, path=path) for name in names}
    missing = sorted({_PACKAGES[name] for name, where in found.items() if where is None})
    if missing:
        raise SandboxUnavailable(f"missing on this host: install with: apt-get install {' '.join(missing)}")
    paths = {name: os.path.abspath(where) for name, where in found.items() if where is not None}
    for where in paths.values():
        if len(where.split()) != 1:
            raise SandboxUnavailable(f"the path of {where!r} has a space in it; install it below /usr/bin")
    if not os.path.realpath(paths["socat"]).startswith("/usr/"):
        raise SandboxUnavailable(f"{paths['socat']} isn't below /usr, so a sandbox can't see it: apt-get install socat")
    return Tools(**paths)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a sandbox is on the host."""

    sandbox_id: str
    uid: int | None
    """Host uid and gid of its own; None: the worker's."""


def prepare_etc(directory: Path) -> None:
    """Writes the `/etc` that all sandboxes share, below `directory`; again each time, so that an update arrives."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory.chmod(0o755)
    for name, text in _ETC_FILES.items():
        new = directory / f".{name}.{os.getpid()}"
        new.write_text(text)
        new.chmod(0o644)
        new.replace(directory / name)
    for name in ETC_FROM_HOST:
        source, target = Path("/etc", name), directory / name
        if source.is_dir():
            target.mkdir(mode=0o755, parents=True, exist_ok=True)
        elif source.is_file():
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            target.touch(mode=0o644)
    release = directory / "os-release"
    if not release.is_symlink() and Path("/usr/lib/os-release").exists():
        release.symlink_to("../usr/lib/os-release")


def write(
    directory: Path,
    etc: Path,
    spec: SandboxSpec,
    identity: Identity,
    tools: Tools,
    entrances: Sequence[Path],
    filter_: Path,
) -> Path:
    """Writes the launcher and all that it reads into `directory` (private to the worker). Gives the launcher's path."""
    sources: dict[str, Path] = {
        "workspace": spec.workspace,
        "outputs": spec.outputs,
        "harness": spec.harness_state,
        "etc": etc,
        "model.sock": spec.model_socket,
        "egress.sock": spec.egress_socket,
        "claude": spec.program,
    }
    sources |= {f"mount-{number}": mount.source for number, mount in enumerate(spec.mounts)}
    live = {f"mount-{number}" for number, mount in enumerate(spec.mounts) if mount.live}
    sources |= layered_root.sources(spec, root=identity.uid is not None)
    visible = {name: os.path.abspath(source) for name, source in sources.items()}
    staging: list[str] = []
    if identity.uid is not None:
        stage = directory / "stage"
        stage.mkdir(mode=0o711)
        stage.chmod(0o711)  # whatever the umask
        table = directory / "fstab"
        over = stage_point()
        lines = []
        for name, source in visible.items():
            target = stage / name
            target.mkdir() if os.path.isdir(source) else target.touch()
            how = "rbind" if name in live else "bind"
            lines.append(f"{_fstab(source)} {_fstab(str(target))} none {how} 0 0\n")
        # Last: the sources may themselves be below the place that this hides.
        lines.append(f"{_fstab(str(stage))} {_fstab(over)} none rbind 0 0\n")
        if spec.layer is not None:
            (stage / "root").mkdir()
            lines.append(layered_root.table_line(over))
        table.write_text("".join(lines))
        visible = {name: f"{over}/{name}" for name in visible}
        staging = [f"{tools.mount} -aT {shlex.quote(str(table))}"]
    arguments = directory / "bwrap.args"
    words = _bwrap(spec, visible)
    _no_nul(words)
    arguments.write_bytes(b"".join(os.fsencode(word) + b"\0" for word in words))
    arguments.chmod(0o600)
    launcher = directory / "launcher"
    programs.write(launcher, _script(spec, identity, tools, entrances, staging, arguments, filter_))
    _write_entrance(directory, spec, identity, tools, entrances, filter_)
    return launcher


def _write_entrance(
    directory: Path, spec: SandboxSpec, identity: Identity, tools: Tools, entrances: Sequence[Path], filter_: Path
) -> None:
    """Writes the program that runs further commands inside, and what it reads, next to the launcher."""
    settings = directory / "entrance.json"
    mark = f"{MARK}={identity.sandbox_id}"
    settings.write_text(
        json.dumps(
            {
                "mark": mark,
                "root": identity.uid is not None,
                "entrances": [str(entrance) for entrance in entrances],
                "open_files": spec.limits.open_files,
                "filter": str(filter_),
                "environment": dict(spec.environment),
            }
        )
    )
    settings.chmod(0o600)
    entrance = directory / "entrance"
    words = (sys.executable, "-I", "-S", "-E", str(Path(__file__).with_name("enter.py")), str(settings))
    programs.write(
        entrance,
        f"#!{tools.env} -S -i {mark} {tools.bash} -p\n"
        f'unset PWD OLDPWD SHLVL _\nexec {" ".join(map(shlex.quote, words))} "$@"\n',
    )


def _script(
    spec: SandboxSpec,
    identity: Identity,
    tools: Tools,
    entrances: Sequence[Path],
    staging: Sequence[str],
    arguments: Path,
    filter_: Path,
) -> str:
    # `slave`: what is unmounted on the host, such as the volume of another session, goes away here as well.
    mount_namespace = f"{tools.unshare} --mount --propagation slave " if identity.uid is not None else ""
    become = ""
    if identity.uid is not None:
        become = f"{tools.setpriv} --reuid {identity.uid} --regid {identity.uid} --clear-groups --no-new-privs "
    socat = tools.socat if spec.layer is None else layered_root.SOCAT
    inside = (
        f"unset PWD OLDPWD SHLVL; ( {shlex.quote(socat)} -t{HALF_OPEN_SECONDS}"
        f" TCP-LISTEN:{EGRESS_PORT},bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:/run/hostler/egress.sock"
        ' </dev/null >/dev/null 2>&1 & ); exec /opt/hostler/claude "$@"'
    )
    lines = [
        f"#!{tools.env} -S -i {MARK}={identity.sandbox_id} {mount_namespace}{tools.bash} -p",
        "set -eu",
        "cd /",
        # The kernel takes its time: meanwhile the rest is made ready. Nothing of the session runs before `wait`.
        f"{{ :; {' '.join(f'echo $$ > {shlex.quote(str(entrance))};' for entrance in entrances)} }} & joining=$!",
        "ulimit -c 0",
        f"ulimit -n {spec.limits.open_files}",
        # Attack B4: descriptors that somebody forgot to close. bash's own (this script) closes itself at exec.
        "for open in /proc/self/fd/*; do n=${open##*/}; if (( n > 2 )) && [[ -e $open && ! $open -ef $0 ]]; then",
        '  eval "exec $n>&-"; fi; done',
        *staging,
        f"exec {_ARGUMENTS_FD}<{shlex.quote(str(arguments))} {_SECCOMP_FD}<{shlex.quote(str(filter_))}",
        "wait $joining; unset joining",
        "unset PWD OLDPWD SHLVL _",
        f'exec {become}{tools.bwrap} --args {_ARGUMENTS_FD} -- /bin/sh -c {shlex.quote(inside)} claude "$@"',
    ]
    return "\n".join(lines) + "\n"


def _bwrap(spec: SandboxSpec, visible: Mapping[str, str]) -> list[str]:
    size = str(spec.limits.tmp_bytes)
    words = [
        *("--unshare-user", "--unshare-all", "--disable-userns", "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", "--uid", str(UID_INSIDE), "--gid", str(UID_INSIDE), "--hostname", "sandbox"),
        *(_host_system(visible) if spec.layer is None else layered_root.words(spec, visible)),
        *("--proc", "/proc"),
        *("--dev", "/dev", "--perms", "1777", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),
        *("--perms", "1777", "--size", size, "--tmpfs", "/tmp"),
        *("--perms", "0755", "--size", size, "--tmpfs", "/home", "--perms", "0700", "--dir", "/home/agent"),
        *("--bind", visible["harness"], "/home/agent/.claude"),
        *("--bind", visible["workspace"], "/workspace"),
        *("--bind", visible["outputs"], "/mnt/session/outputs"),
        *("--ro-bind", visible["model.sock"], "/run/hostler/model.sock"),
        *("--ro-bind", visible["egress.sock"], "/run/hostler/egress.sock"),
        *("--ro-bind", visible["claude"], "/opt/hostler/claude"),
    ]
    for number, mount in enumerate(spec.mounts):
        if not mount.inside.startswith("/") or os.path.normpath(mount.inside) != mount.inside:
            raise ValueError(f"{mount.inside!r} is not an absolute, normalised path")
        words += ["--bind" if mount.writable else "--ro-bind", visible[f"mount-{number}"], mount.inside]
    words += [
        *layered_root.last_words(spec),
        *("--remount-ro", "/", "--chdir", "/workspace", "--seccomp", str(_SECCOMP_FD), "--clearenv"),
    ]
    for name, value in spec.environment.items():
        if not name or "=" in name:
            raise ValueError(f"{name!r} can't be the name of an environment variable")
        words += ["--setenv", name, value]
    return words


def _host_system(visible: Mapping[str, str]) -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        system = Path("/", name)
        if system.is_symlink():  # merged /usr
            words += ["--symlink", os.readlink(system), str(system)]
        elif system.is_dir():
            words += ["--ro-bind", str(system), str(system)]
    words += ["--ro-bind", visible["etc"], "/etc"]
    for name in ETC_FROM_HOST:
        if Path("/etc", name).exists():
            words += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    return words


def _no_nul(words: Sequence[str]) -> None:
    # Attack D1: a NUL in a value would end it and make what follows an option of bwrap.
    if any("\0" in word for word in words):
        raise ValueError("a NUL character in the environment or in a path of a sandbox")


def stage_point() -> str:
    for candidate in _STAGE_CANDIDATES:
        if os.path.isdir(candidate) and not os.path.islink(candidate):
            return candidate
    raise SandboxUnavailable(f"none of {', '.join(_STAGE_CANDIDATES)} is a directory on this host; create /mnt")


def _fstab(path: str) -> str:
    for character, code in (("\\", "\\134"), (" ", "\\040"), ("\t", "\\011"), ("\n", "\\012"), ("#", "\\043")):
        path = path.replace(character, code)
    return path
