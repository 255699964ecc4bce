"""Which ids does an imported session have, and how do they replace the old ones, wherever those are named?

Replaced is a text that is an id and nothing else. Words in which an id occurs (what people, the model and programs
said) stay as they were said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hostler.bundles.checking import Checked
from hostler.domain.ids import new_id
from hostler.engine.profile import transcript_id

_WORDS: Final = frozenset({"text", "input", "message", "system"})
"""Fields that hold what was said."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """Of one import."""

    session_id: str
    thread_id: str
    transcript_id: str
    ids: Mapping[str, str]
    """New ids by old ones. Empty: they are kept."""
    old_transcript_id: str

    @staticmethod
    def of(bundle: Checked, *, keep: bool) -> Renaming:
        document = bundle.document
        old = str(document.session["id"])
        session_id = old if keep else new_id("sesn")
        ids: dict[str, str] = {}
        if not keep:
            ids = {event: new_id(_prefix(event, "sevt")) for event in bundle.event_ids}
            ids |= {file.id: new_id("file") for file in document.files}
            ids |= {archive.id: new_id("arch") for archive in document.archives}
            ids |= {document.thread_id: new_id("sthr"), old: session_id}
        thread_id = ids.get(document.thread_id, document.thread_id)
        return Renaming(session_id, thread_id, transcript_id(session_id), ids, document.transcript_id)

    def id(self, old: str) -> str:
        return self.ids.get(old, old)

    def value(self, value: Any) -> Any:
        """JSON with the new ids."""
        if not self.ids:
            return value
        match value:
            case str():
                return self.ids.get(value, value)
            case dict():
                return {key: item if key in _WORDS else self.value(item) for key, item in value.items()}
            case list():
                return [self.value(item) for item in value]
            case _:
                return value

    def entry(self, entry: Any) -> Any:
        """An entry of a transcript: it says to which conversation it belongs, and holds no id of ours besides."""
        if isinstance(entry, dict) and entry.get("sessionId") == self.old_transcript_id:
            return {**entry, "sessionId": self.transcript_id}
        return entry


def _prefix(old: str, usual: str) -> str:
    found = re.match(r"([a-z]{2,12})_", old)
    return found[1] if found else usual
