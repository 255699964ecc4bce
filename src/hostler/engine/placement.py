"""On which rung of the ladder does a session run, and which promise keeps it from running here at all?

An environment says what it needs; the host gives what it gives (`Rungs`); the operator says what the preset
`production` demands (`PresetTerms`). A need that nothing here can meet is an error that names it: when the environment
is made or changed, when a session is made, and once more when a session gets its sandbox, for the host may have
changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from hostler.domain.environments import CloudConfig, SelfHostedConfig
from hostler.domain.errors import InvalidRequest
from hostler.domain.isolation import SANDBOX_LIMITS, TECHNOLOGIES, Preset, SandboxLimit, Technology
from hostler.domain.networking import Unrestricted
from hostler.domain.values import listed
from hostler.engine.sandbox_port import IsolationLabel, Rungs, SandboxUnavailable, rung

_SEE: Final = " (see `hostler doctor`)"
_NAMES: Final[Mapping[SandboxLimit, str]] = {
    "memory_mb": "memory",
    "cpus": "processors",
    "pids": "processes",
    "disk_mb": "disk",
    "open_files": "open files",
}


class Verified(Protocol):
    """What the attack corpus has shown on this host."""

    def critical_failures(self, technology: Technology, label: IsolationLabel) -> Sequence[str] | None:
        """The critical cases that did not hold there, each in a sentence.

        None: the corpus has not been run against what this label says, or too long ago.
        """
        ...


class NothingVerified:
    """Where the corpus has never been run."""

    def critical_failures(self, technology: Technology, label: IsolationLabel) -> Sequence[str] | None:
        return None


@dataclass(frozen=True, slots=True)
class PresetTerms:
    """What the operator makes of the presets."""

    default: Preset = "development"
    """Of environments that name none, and of self-hosted ones."""
    minimum: Technology = "gvisor"
    """Production: every technology of this rung and those above it will do."""
    approvals: Literal["required", "agent"] = "required"
    """Production: `required`: whatever writes asks a person, whatever the agent's policies are. `agent`: they count."""
    limits: Literal["enforced", "any"] = "enforced"
    """Production: `any` lets sessions run where a limit is not enforced."""
    attacks: Literal["held", "any"] = "held"
    """Production: `any` lets sessions run where the attack corpus failed or was not run."""
    preferred: Technology | None = None
    """Technology of environments that name none. None: the strongest that the host gives."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a session asks of the place that it runs in."""

    preset: Preset = "development"
    technology: Technology | None = None
    """None: the operator's choice, or the strongest."""
    limits: frozenset[SandboxLimit] = frozenset()
    """Limits that its environment names, and that have to be enforced."""
    rooms: bool = False
    """Whether several sessions are to share a sandbox."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Versions of `claude` that this server has."""

    bundled: str
    paths: Mapping[str, Path]
    """The program of each version, the bundled one among them."""

    def path(self, version: str | None) -> Path:
        """Of that version; None: of the bundled one. Raises SandboxUnavailable."""
        found = self.paths.get(version or self.bundled)
        if found is None:
            raise SandboxUnavailable(f"{self.unknown(version or self.bundled)}.")
        return found

    def unknown(self, version: str) -> str:
        return (
            f"this server has no claude {version}; it has {listed(sorted(self.paths))}. Choose one of these, or have "
            "the operator add a folder with that version to claude.directories"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session runs now."""

    technology: Technology
    label: IsolationLabel


class Placement:
    """Answers for one host."""

    def __init__(
        self, rungs: Rungs, programs: Programs, terms: PresetTerms | None = None, verified: Verified | None = None
    ) -> None:
        self.terms = terms or PresetTerms()
        self.programs = programs
        self._rungs = rungs
        self._verified = verified or NothingVerified()

    async def survey(self) -> Survey:
        """What is true now, for checks inside a transaction."""
        return Survey(await self._rungs.rungs(), self.terms, self.programs, self._verified)

    async def place(self, needs: Needs) -> Place:
        """Where a session runs that is to start now. Raises SandboxUnavailable, with what to do."""
        survey = await self.survey()
        try:
            return survey.choose(needs)
        except InvalidRequest as error:
            raise SandboxUnavailable(error.message) from error


@dataclass(frozen=True, slots=True)
class Survey:
    """The host, the operator and the attack corpus at one moment. Pure."""

    given: Mapping[Technology, IsolationLabel | str]
    terms: PresetTerms
    programs: Programs
    verified: Verified

    def check(self, config: CloudConfig | SelfHostedConfig) -> None:
        """Raises InvalidRequest, naming the promise, when sessions with this configuration can't run here."""
        needs = needs_of(config, self.terms)
        if isinstance(config, CloudConfig):
            if needs.preset == "production" and isinstance(config.networking, Unrestricted):
                raise InvalidRequest(
                    "config.networking: is unrestricted, which the preset production does not allow; list the hosts "
                    "(type limited, allowed_hosts), or choose the preset development"
                    + ("" if config.preset else "; production is the default of this server"),
                    code="preset_conflict",
                )
            version = config.hosting.cli_version
            if version is not None and version not in self.programs.paths:
                raise InvalidRequest(
                    f"config.hosting.cli_version: {self.programs.unknown(version)}", code="cli_version_unknown"
                )
        self.choose(needs)

    def choose(self, needs: Needs) -> Place:
        """The place for these needs. Raises InvalidRequest that says why no technology will do."""
        if needs.technology is not None:
            label, why, code = self._judge(needs.technology, needs)
            if label is None:
                raise InvalidRequest(f"config.{why}", code=code)
            return Place(needs.technology, label)
        reasons: list[str] = []
        for technology in self._in_order(needs):
            label, why, _ = self._judge(technology, needs)
            if label is not None:
                return Place(technology, label)
            reasons.append(why.partition(": ")[2].removesuffix(_SEE))
        least = f" ({self.terms.minimum} or stronger)" if needs.preset == "production" else ""
        raise InvalidRequest(
            f"config.isolation: nothing on this host gives what the preset {needs.preset}{least} and the limits of "
            f"this environment demand: {'; '.join(reasons)}{_SEE}",
            code="isolation_unavailable",
        )

    def _in_order(self, needs: Needs) -> list[Technology]:
        """The operator's choice alone; where there is none, or it is too weak, the strongest first."""
        least = rung(self.terms.minimum) if needs.preset == "production" else 0
        if self.terms.preferred is not None and rung(self.terms.preferred) >= least:
            return [self.terms.preferred]
        return sorted((one for one in TECHNOLOGIES if rung(one) >= least), key=rung, reverse=True)

    def _judge(self, technology: Technology, needs: Needs) -> tuple[IsolationLabel | None, str, str]:
        """The label of a technology that will do; or why it won't, and the code of that."""
        found = self.given.get(technology, "it is not configured on this server")
        if needs.preset == "production" and rung(technology) < rung(self.terms.minimum):
            why = (
                f"isolation.technology: {technology} is weaker than {self.terms.minimum}, which is the least that the "
                "preset production takes here"
            )
            return None, why, "preset_conflict"
        if isinstance(found, str):
            found = _sentence(found)
            why = f"isolation.technology: {technology} is not available on this host: {found}{_SEE}"
            return None, why, "isolation_unavailable"
        if needs.rooms and found.no_rooms:
            why = f"hosting.pattern: shared is not available with {technology} on this host: {found.no_rooms}"
            return None, why, "rooms_unavailable"
        open_ = self._needed(needs) & found.unenforced
        if open_:
            named = sorted(open_ & needs.limits)
            if named:
                why = f"limits.{named[0]}: {technology} can't limit {_words(open_)} on this host{_missing(found)}"
                return None, why, "limit_not_enforced"
            why = (
                f"isolation.technology: {technology} can't limit {_words(open_)} on this host, which the preset "
                f"production demands{_missing(found)}"
            )
            return None, why, "preset_conflict"
        if needs.preset == "production":
            why = self._unsafe(technology, found)
            if why:
                return None, f"isolation.technology: {why}", "preset_conflict"
        return found, "", ""

    def _needed(self, needs: Needs) -> frozenset[SandboxLimit]:
        if needs.preset == "production" and self.terms.limits == "enforced":
            return frozenset(SANDBOX_LIMITS)
        return needs.limits

    def _unsafe(self, technology: Technology, label: IsolationLabel) -> str:
        """What else keeps production from running there."""
        if self.terms.limits == "enforced" and label.host_user == "shared" and label.kernel == "host":
            return (
                f"{technology} runs every sandbox as the same host user here, which the preset production does not "
                "take; run Hostler as root"
            )
        if self.terms.attacks == "any":
            return ""
        failed = self.verified.critical_failures(technology, label)
        if failed is None:
            return (
                f"the attack corpus has not been run against {technology} on this host, or not lately, and the preset "
                "production demands it; run `hostler doctor --attack`"
            )
        if failed:
            cases = "; ".join(_sentence(case) for case in failed)
            return f"attacks on {technology} succeeded on this host: {cases} (see `hostler doctor --attack`)"
        return ""


def needs_of(config: CloudConfig | SelfHostedConfig, terms: PresetTerms) -> Needs:
    """What sessions with this configuration need. A self-hosted one says nothing: the server's preset counts."""
    if isinstance(config, SelfHostedConfig):
        return Needs(terms.default)
    named = frozenset(name for name in SANDBOX_LIMITS if getattr(config.limits, name) is not None)
    rooms = config.hosting.pattern == "shared"
    return Needs(config.preset or terms.default, config.isolation.technology, named, rooms)


def _words(limits: Iterable[SandboxLimit]) -> str:
    return listed(_NAMES[name] for name in SANDBOX_LIMITS if name in set(limits))


def _missing(label: IsolationLabel) -> str:
    return f" ({' '.join(label.missing)})" if label.missing else ""


def _sentence(text: str) -> str:
    return text.rstrip().removesuffix(".")
