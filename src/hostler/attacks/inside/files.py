"""B4, C1, C5, C7: what of the host, and of an earlier sandbox, is in the files that a sandbox sees?

Where something could be changed, the kernel is asked whether it would let us; it isn't changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from hostler.attacks.inside.battery import probe

HOME = "/home/agent"


def _mark(given: dict[str, Any]) -> bytes:
    """The planted words. They come backwards, so that the request itself doesn't hold them."""
    return str(given["mark_backwards"])[::-1].encode()


def _holds(path: str, words: bytes, most: int = 1 << 20) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return words in os.read(fd, most)
    except OSError:
        return False
    finally:
        os.close(fd)


# -------------------------------------------------------------------------------------------------------- C1: links


def _link(name: str, target: str) -> str:
    path = f"/workspace/{name}"
    if os.path.lexists(path):
        os.unlink(path)
    os.symlink(target, path)
    return path


@probe
def absolute_link(given: dict[str, Any]) -> list[str]:
    path = _link("to-secret", given["secret_file"])
    return ["a link to a file of the host was followed"] if _holds(path, _mark(given)) else []


@probe
def relative_link(given: dict[str, Any]) -> list[str]:
    path = _link("up", "../" * 20 + given["secret_file"].lstrip("/"))
    return ["a relative link to a file of the host was followed"] if _holds(path, _mark(given)) else []


@probe
def folder_link(given: dict[str, Any]) -> list[str]:
    folder, name = os.path.split(given["secret_file"])
    path = _link("folder", folder)
    return ["a link to a folder of the host was followed"] if _holds(f"{path}/{name}", _mark(given)) else []


@probe
def proc_root_link(given: dict[str, Any]) -> list[str]:
    """The root folders and working folders of other processes, by their links in /proc."""
    found = []
    for pid in _pids():
        for door in ("root", "cwd"):
            if _holds(f"/proc/{pid}/{door}/{given['secret_file'].lstrip('/')}", _mark(given)):
                found.append(f"/proc/{pid}/{door} leads to the host")
    return found


@probe
def named_file(given: dict[str, Any]) -> list[str]:
    """By its own name, and from the folders that containers like to be given."""
    found = []
    for top in ("", "/host", "/mnt", "/rootfs", "/media", "/srv", "/proc/1/root"):
        if _holds(top + given["secret_file"], _mark(given)):
            found.append(f"a file of the host can be read at {top + given['secret_file']}")
    return found


@probe
def hard_links(given: dict[str, Any]) -> list[str]:
    """A second name in the workspace, for something that is not the session's own, would outlive its protection."""
    found = []
    for source in ("/etc/passwd", "/usr/bin/env", "/opt/hostler/claude", "/run/hostler/model.sock"):
        for folder in ("/workspace", "/mnt/session/outputs"):
            target = f"{folder}/.hard-{os.getpid()}"
            try:
                os.link(source, target)
            except OSError:
                continue
            found.append(f"{source} got a second name in {folder}")
            os.unlink(target)
    return found


@probe
def moved_workspace(given: dict[str, Any]) -> list[str]:
    """Renaming or removing what is mounted would let something else take its place."""
    found = []
    for path in ("/workspace", "/mnt/session/outputs", f"{HOME}/.claude", "/run/hostler"):
        try:
            os.rename(path, path + ".moved")
        except OSError:
            continue
        os.rename(path + ".moved", path)
        found.append(f"{path} could be renamed")
    return found


# ------------------------------------------------------------------------------------- B4: descriptors, sockets, agents


@probe
def descriptors(given: dict[str, Any]) -> list[str]:
    """What is open besides the three streams and what this probe opened itself."""
    found = []
    for fd in range(3, 1024):
        try:
            at = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if (
            (at.startswith("pipe:") and fd <= 4)
            or at.startswith("/proc/")
            or at == given.get("program", "/opt/hostler/claude")
        ):
            continue
        if _holds(f"/proc/self/fd/{fd}", _mark(given)) or not at.startswith(("pipe:", "anon_inode:")):
            found.append(f"descriptor {fd} is open: {at}")
    return found


@probe
def engine_sockets(given: dict[str, Any]) -> list[str]:
    found = []
    for path in (
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
        "/run/crio/crio.sock",
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/run/snapd.socket",
        "/run/user",
        "/tmp/.X11-unix",
        "/run/secrets/kubernetes.io",
        "/var/run/secrets/kubernetes.io",
        given["engine_socket"],
    ):
        if os.path.exists(path):
            found.append(f"{path} is there")
    return found


@probe
def agent_variables(given: dict[str, Any]) -> list[str]:
    names = ("SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "GPG_AGENT_INFO", "DOCKER_HOST", "KUBECONFIG", "XAUTHORITY",
             "LISTEN_FDS", "NOTIFY_SOCKET", "CONTAINER_HOST", "WAYLAND_DISPLAY")  # fmt: skip
    return [f"{name} is {os.environ[name]!r}" for name in names if name in os.environ]


@probe
def abstract_socket(given: dict[str, Any]) -> list[str]:
    import socket

    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect("\0" + given["abstract"])
        except OSError:
            return []
    return ["an abstract socket of the host answered"]


@probe
def shared_memory(given: dict[str, Any]) -> list[str]:
    """A System V segment that the worker made, for everybody, under a key that is given."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.shmget(given["memory_key"], 0, 0) >= 0:
        return ["a shared memory segment of the host can be had"]
    return []


# -------------------------------------------------------------------------------------------- the host's own files


HOST_PLACES = (
    *("/root", "/boot", "/var/log", "/var/lib/dpkg/status", "/etc/shadow", "/etc/ssh", "/var/spool", "/lost+found"),
    *(f"{HOME}/{name}" for name in (".ssh", ".aws", ".config/gcloud", ".kube", ".docker")),
)


@probe
def host_places(given: dict[str, Any]) -> list[str]:
    found = []
    for path in HOST_PLACES:
        try:
            if os.path.isdir(path):
                seen = os.listdir(path)
            else:
                seen = [os.path.basename(path)] if os.access(path, os.R_OK) else []
        except OSError:
            continue
        if seen and path not in given["image_places"]:
            found.append(f"{path} can be read ({', '.join(sorted(seen)[:3])})")
    return found


@probe
def searched_mark(given: dict[str, Any]) -> list[str]:
    """Every small file that can be read, searched for the planted words."""
    mark = _mark(given)
    return [
        f"{path} holds the planted words"
        for path in _files("/", ("proc", "sys", "usr", "dev", "lib", "opt"))
        if _holds(path, mark)
    ]


def _files(top: str, without: Any) -> Iterator[str]:
    seen = 0
    for folder, folders, names in os.walk(top):
        if folder == top:
            folders[:] = [name for name in folders if name not in without]
        for name in names:
            path = os.path.join(folder, name)
            try:
                if stat.S_ISREG(os.lstat(path).st_mode):
                    seen += 1
                    yield path
            except OSError:
                pass
            if seen > 20_000:
                return


# ------------------------------------------------------------------------------------------------ C7: what would run


CHANGEABLE = {
    "the agent's program": ("/opt/hostler/claude", "/opt/hostler", "/opt"),
    "the loader": ("/etc/ld.so.preload", "/etc/ld.so.conf.d", "/etc", "/lib", "/usr/lib"),
    "Python": ("/usr/lib/python3/dist-packages", "/usr/lib/python3", "/usr/local/lib"),
    "programs": ("/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin", "/sbin"),
    "shells": ("/etc/profile", "/etc/profile.d", "/etc/bash.bashrc", "/etc/environment"),
    "git": ("/etc/gitconfig", "/usr/share/git-core/templates"),
    "managed settings": ("/etc/claude-code", "/etc/claude-code/managed-settings.json", "/usr/share"),
    "names and certificates": ("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/ssl/certs", "/etc/passwd"),
    "the roads": ("/run/hostler", "/run"),
}


def _changeable(what: str) -> list[str]:
    found = []
    for path in CHANGEABLE[what]:
        if os.path.lexists(path) and os.access(path, os.W_OK):
            found.append(f"{path} can be changed")
    return found


@probe
def changes_program(given: dict[str, Any]) -> list[str]:
    return _changeable("the agent's program")


@probe
def changes_loader(given: dict[str, Any]) -> list[str]:
    return _changeable("the loader")


@probe
def changes_python(given: dict[str, Any]) -> list[str]:
    return _changeable("Python")


@probe
def changes_programs(given: dict[str, Any]) -> list[str]:
    return _changeable("programs")


@probe
def changes_shells(given: dict[str, Any]) -> list[str]:
    return _changeable("shells")


@probe
def changes_git(given: dict[str, Any]) -> list[str]:
    return _changeable("git")


@probe
def changes_managed(given: dict[str, Any]) -> list[str]:
    return _changeable("managed settings")


@probe
def changes_names(given: dict[str, Any]) -> list[str]:
    return _changeable("names and certificates")


@probe
def changes_roads(given: dict[str, Any]) -> list[str]:
    return _changeable("the roads")


@probe
def environment(given: dict[str, Any]) -> list[str]:
    """Exactly what the specification says."""
    expected = given["environment"]
    found = [f"{name} was added: {value[:60]!r}" for name, value in os.environ.items() if name not in expected]
    found += [
        f"{name} is {os.environ.get(name)!r}" for name, value in expected.items() if os.environ.get(name) != value
    ]
    return [sentence for sentence in found if not sentence.startswith(("PWD ", "LC_CTYPE ", "HOSTNAME "))]


# ------------------------------------------------------------------------------------------------- C5: left-overs


PLACES = ("/tmp", "/var/tmp", "/dev/shm", HOME, "/home", "/run", "/var", "/mnt", "/opt", "/")
KEPT = ("/workspace", "/mnt/session/outputs", f"{HOME}/.claude")


@probe
def leave(given: dict[str, Any]) -> list[str]:
    """Leaves the planted words wherever something can be written. For the next sandbox to find."""
    mark = _mark(given)
    left = 0
    for place in (*PLACES, *KEPT):
        for name in (".left", ".bash_history", ".netrc", ".git-credentials"):
            try:
                with open(os.path.join(place, name), "wb") as file:
                    file.write(mark)
                left += 1
            except OSError:
                pass
    if not left:
        raise RuntimeError("nothing could be left anywhere")
    return []


@probe
def finds_elsewhere(given: dict[str, Any]) -> list[str]:
    """In a new sandbox of the same session: only what is kept may be there."""
    mark = _mark(given)
    found = []
    for path in _files("/", ("proc", "sys", "usr", "lib")):
        if not path.startswith(tuple(kept + "/" for kept in KEPT)) and _holds(path, mark):
            found.append(f"{path} is left of the sandbox before")
    return found


@probe
def finds_anywhere(given: dict[str, Any]) -> list[str]:
    """In a new sandbox of another session: nothing may be there."""
    mark = _mark(given)
    return [
        f"{path} is left of another session"
        for path in _files("/", ("proc", "sys", "usr", "lib"))
        if _holds(path, mark)
    ]


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]
