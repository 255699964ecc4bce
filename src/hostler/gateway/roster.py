"""Who may be asked for which model, and who first?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostler.engine.model_port import Asked, Choice, Persistence, Target
from hostler.gateway.desk import OneAttempt
from hostler.gateway.errors import Refusal


@dataclass(frozen=True, slots=True)
class Entry:
    """One upstream of several."""

    name: str
    order: int = 0
    """Lower is asked first."""
    weight: int = 1
    """Among those of the same order."""
    models: Mapping[str, str] | None = None
    """Our name -> its name. None: any model, under its own name."""


class FirstEntry:
    """Implements `Upstreams`: the first entry that has the first of the models, once."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = sorted(entries, key=lambda entry: entry.order)

    def persist(self, asked: Asked, choice: Choice) -> Persistence:
        for model in choice.models:
            for entry in self._entries:
                spelled = model if entry.models is None else entry.models.get(model)
                if spelled is not None:
                    return OneAttempt(Target(entry.name, model, spelled))
        raise Refusal(404, "not_found_error", f"No upstream of the gateway has the model {choice.models[0]}.")
