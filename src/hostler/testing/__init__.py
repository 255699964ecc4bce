"""Shipped for users' own tests: the rehearsal model."""

from hostler.testing import rehearsal
from hostler.testing.rehearsal import RecordedRequest, RehearsalModel, Script, ScriptError

__all__ = ["RecordedRequest", "RehearsalModel", "Script", "ScriptError", "rehearsal"]
