"""Text of an agent can't command the terminal that shows it (attack E3)."""

from __future__ import annotations

import io
import string

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hostler.cli.show import Show
from hostler.cli.terminal import PlainStream, plain, plain_line

HOSTILE = {
    "colour": ("\x1b[31mred\x1b[0m", "red"),
    "erase the screen": ("a\x1b[2J\x1b[Hb", "ab"),
    "window title": ("\x1b]0;owned\x07title", "title"),
    "clipboard": ("\x1b]52;c;cm0gLXJmIC8=\x1b\\x", "x"),
    "hyperlink": ("\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\", "click"),
    "device control": ("\x1bPq#0;2;0;0;0\x1b\\x", "x"),
    "one-byte CSI": ("\x9b31mx", "x"),
    "one-byte OSC": ("\x9d0;owned\x9cx", "x"),
    "overwrite the line": ("rm -rf /\rls", "rm -rf /\nls"),
    "backspace": ("safe\b\b\b\bevil", "safeevil"),
    "direction": ("\u202egnp.exe\u202c", "gnp.exe"),
    "invisible": ("a\u200bb\U000e0041c", "abc"),
    "reset": ("\x1bcx", "x"),
    "lone surrogate": ("a\ud800b", "a\ufffdb"),
    "unfinished": ("x\x1b]0;never ends", "x]0;never ends"),
    "kept": ("a\tb\nc ü 漢 🙂", "a\tb\nc ü 漢 🙂"),
}


def test_control_sequences_are_removed_whole() -> None:
    assert {name: plain(text) for name, (text, _) in HOSTILE.items()} == {n: said for n, (_, said) in HOSTILE.items()}


def test_sequences_cut_anywhere_are_removed_as_well() -> None:
    for name, (text, said) in HOSTILE.items():
        for cut in range(len(text) + 1):
            stream = PlainStream()
            assert stream.feed(text[:cut]) + stream.feed(text[cut:]) + stream.end() == said, (name, cut)


def test_unfinished_sequence_does_not_hold_back_text_for_ever() -> None:
    stream = PlainStream()
    shown = stream.feed("\x1b]0;") + "".join(stream.feed("x" * 50) for _ in range(20))
    assert shown.count("x") > 500


@given(st.lists(st.text(alphabet=string.printable + "\x1b\x9b\x9d\x07\x00\u202e", max_size=20), max_size=20))
def test_nothing_but_line_breaks_and_tabs_controls(pieces: list[str]) -> None:
    stream = PlainStream()
    shown = "".join([*(stream.feed(piece) for piece in pieces), stream.end(), plain("".join(pieces))])
    assert all(character in "\n\t" or character.isprintable() for character in shown)


def test_line_is_one_short_line() -> None:
    assert plain_line("a\nb\r\nc\x1b[2K" + "d" * 500, 20) == "a b c" + "d" * 14 + "…"


def test_every_part_of_a_session_is_shown_without_control_sequences() -> None:
    bad = "\x1b[2J\x1b]0;owned\x07\x9b1m[bold]x[/bold]"
    written = io.StringIO()
    show = Show(Console(file=written, force_terminal=False, markup=False, highlight=False, width=100))
    show.prompt(bad)
    message = {"type": "agent.message", "id": "sevt_1", "content": [{"type": "text", "text": f"hello {bad}"}]}
    delta = {"type": "content_delta", "index": 0, "content": {"type": "text", "text": "hello \x1b"}}
    show.event({"type": "event_start", "event": {"type": "agent.message", "id": "sevt_1"}})
    show.event({"type": "event_delta", "event_id": "sevt_1", "delta": delta})
    show.event({**message, "content": [{"type": "text", "text": f"hello {bad}"}]})
    show.event({"type": "agent.tool_use", "id": "sevt_2", "name": bad, "input": {"command": bad}})
    result = {"type": "agent.tool_result", "id": "sevt_3", "tool_use_id": "sevt_2", "is_error": True}
    show.event({**result, "content": [{"type": "text", "text": bad}]})
    error = {"type": bad, "message": bad, "retry_status": {"type": "exhausted"}}
    show.event({"type": "session.error", "error": error})
    show.summary()
    text = written.getvalue()
    assert all(character == "\n" or character.isprintable() for character in text), repr(text)
    assert "owned" not in text
    assert text.count("[bold]x[/bold]") >= 5  # shown as it is, not taken for markup
