"""How does text of others reach a terminal without commanding it?

What an agent, a tool or a web page wrote may hold escape sequences that move the cursor, rewrite what was shown, set
the window's title or fill the clipboard (attack E3). Sequences are removed whole; every other control character, and
every character that changes the direction of text or is invisible, is removed too. Line breaks and tabs stay.
"""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console

_HELD = 256
"""Characters of an unfinished sequence that wait for their end. A longer one is not worth waiting for."""

_SEQUENCE = re.compile(
    r"""
      (?:\x1b\[|\x9b) [0-?]* [ -/]* [@-~]                                     # CSI: colours, cursor, erasing
    | (?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]) [^\x07\x1b\x9c\n]* (?:\x07|\x1b\\|\x9c)   # OSC, DCS, SOS, PM, APC
    | \x1b [ -/]* [0-Z\\^-~]                                                  # two characters: character sets, reset
    """,
    re.X,
)
_UNFINISHED = re.compile(
    r"(?:\x1b[ -/]*|(?:\x1b\[|\x9b)[0-?]*[ -/]*|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*\x1b?|\r)\Z"
)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def plain(text: str) -> str:
    """`text` as it may be written to a terminal."""
    text = _SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", text))


def plain_line(text: str, width: int = 120) -> str:
    """The same on one line of at most `width` characters."""
    line = " ".join(plain(text[: 8 * width]).split())
    return line if len(line) <= width else line[: width - 1] + "…"


class PlainStream:
    """`plain` for text that comes in pieces: a sequence that is cut in two is still removed whole."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        text = self._held + piece
        self._held = ""
        unfinished = _UNFINISHED.search(text)
        if unfinished is not None and len(text) - unfinished.start() <= _HELD:
            self._held = text[unfinished.start() :]
            text = text[: unfinished.start()]
        return plain(text)

    def end(self) -> str:
        rest, self._held = plain(self._held), ""
        return rest


def out() -> Console:
    """The console for results. Nothing is taken for markup, nothing is highlighted, nothing is wrapped when piped."""
    return _console(sys.stdout.isatty(), stderr=False)


def err() -> Console:
    """The console for messages about the command itself."""
    return _console(sys.stderr.isatty(), stderr=True)


def nowhere() -> Console:
    """A console that shows nothing, for commands that print JSON."""
    return Console(file=io.StringIO(), quiet=True)


def _console(at_terminal: bool, *, stderr: bool) -> Console:
    width = None if at_terminal else 200
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=not at_terminal, width=width)
