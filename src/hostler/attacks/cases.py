"""What is a case of the corpus, who promises that it fails, and what can be said of it afterwards?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from hostler.engine.sandbox_port import IsolationLabel, Technology

if TYPE_CHECKING:
    from hostler.attacks.grounds import ProxyGround
    from hostler.attacks.rooms import SandboxGround

Severity = Literal["critical", "high", "medium"]
"""`critical`: what gets through is a way out, a secret, or another session. A production session doesn't start then."""

Verdict = Literal["held", "broken", "not_promised", "not_run"]

Promise = Literal[
    "roads",
    "world",
    "end",
    "calls",
    "kernel",
    "users",
    "limits",
    "disk",
]

PROMISES: Final[dict[Promise, str]] = {
    "roads": "The two sockets are the only way out, and the proxy on them keeps the session's rules.",
    "world": "Nothing of the host or of another session can be seen or changed: files, processes, sockets, secrets.",
    "end": "When a sandbox ends, all of it ends, and the next one begins empty.",
    "calls": "Dangerous calls to the host's kernel are refused before it looks at their arguments.",
    "kernel": "The host's kernel answers no call of the sandbox: a hole in it is not in reach.",
    "users": "Each sandbox is another user of the host.",
    "limits": "Memory, processes and processor time end at the limit; a neighbour goes on.",
    "disk": "What is kept of a session can't fill the host's disk.",
}


def promises_of(label: IsolationLabel) -> frozenset[Promise]:
    """What a rung promises on a host that gives this label."""
    kept: set[Promise] = {"roads", "world", "end"}
    if label.kernel == "host":
        kept.add("calls")
    else:
        kept.add("kernel")
    if label.host_user == "per_sandbox" or label.kernel == "own":
        kept.add("users")
    if label.limits_by != "none":
        kept.add("limits")
    if label.disk_by != "none":
        kept.add("disk")
    return frozenset(kept)


TYPICAL: Final[dict[Technology, IsolationLabel]] = {
    "bubblewrap": IsolationLabel("bubblewrap", "per_sandbox", "cgroup_v2", "host", "volume"),
    "docker": IsolationLabel("docker", "engine", "engine", "host", "volume"),
    "podman": IsolationLabel("podman", "engine", "engine", "host", "volume"),
    "gvisor": IsolationLabel("gvisor", "per_sandbox", "cgroup_v2", "user_space", "volume"),
    "microvm": IsolationLabel("microvm", "per_sandbox", "machine", "own", "volume"),
}
"""The labels of a root worker on a current host, for the table of the threat model."""


class CouldNotRun(Exception):
    """The attack could not be made, so nothing is known. The message says why, and what to do."""


OnProxy = Callable[["ProxyGround"], Awaitable[Sequence[str]]]
OnSandbox = Callable[["SandboxGround"], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Inside:
    """An attack that is a function of `hostler.attacks.inside`, run in one sandbox together with others.

    `through`: whether the program of the launcher runs it, or a command that came in by the entrance later.
    """

    probe: str
    through: Literal["launcher", "entrance"] = "launcher"


@dataclass(frozen=True, slots=True)
class Case:
    """One attack. What it gives back, whichever way it is made, is what succeeded, one sentence each."""

    id: str
    """Class, point, number: `A2.3`. Never given to another attack."""
    title: str
    """What the attacker does."""
    severity: Severity
    needs: Promise
    """Run only where it is promised that it fails."""
    proxy: OnProxy | None = None
    """For attacks on the roads themselves, which are the same on every rung."""
    sandbox: OnSandbox | None = None
    """For attacks that need sandboxes of their own."""
    inside: Inside | None = None

    @property
    def attack_class(self) -> str:
        return self.id.partition(".")[0]

    @property
    def of_rung(self) -> bool:
        """Whether the outcome depends on the isolation technology."""
        return self.proxy is None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one case."""

    case: Case
    verdict: Verdict
    found: tuple[str, ...] = ()
    """`broken`: what succeeded. `not_run`: why not. `not_promised`: the promise that this rung doesn't make."""


CLASSES: Final[dict[str, str]] = {
    "A1": "an empty allow-list taken for everything",
    "A2": "names that only look like an allowed one",
    "A3": "addresses instead of names",
    "A4": "names that lead to private addresses, or change",
    "A5": "a CONNECT, a TLS server name and a Host that disagree",
    "A6": "other ports and other protocols",
    "A7": "ways round the proxy",
    "A8": "the model's host as a way out",
    "A9": "requests that two readers understand differently",
    "A10": "the proxy dies",
    "A11": "clients that exhaust the proxy",
    "B1": "a server echoes the secret",
    "B2": "the placeholder sent elsewhere",
    "B3": "secrets in /proc",
    "B4": "inherited descriptors, sockets of engines, agents and buses",
    "B5": "planted secrets, searched for afterwards",
    "C1": "links out of the workspace",
    "C2": "hostile archives",
    "C3": "floods",
    "C4": "processes that outlive their session",
    "C5": "left-overs of an earlier sandbox",
    "C6": "the kernel's dangerous doors",
    "C7": "files that change what runs",
}
