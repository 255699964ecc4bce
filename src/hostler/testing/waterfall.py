"""How does one trace look? Spans in, a picture as SVG text out: a row for each span, in the order of the tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from hostler.testing.otlp import ReceivedSpan, children_of

_WIDTH: Final = 1200
_NAMES: Final = 400
"""Where the bars begin."""
_RIGHT: Final = 84
"""Room behind the bars, for how long the last one took."""
_ROW: Final = 26
_TOP: Final = 92
_INDENT: Final = 16
_FONT: Final = "font-family=\"ui-sans-serif, system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\""

_KINDS: Final = (
    ("HTTP request", "#4c5a67"),
    ("waiting and starting", "#b9a36b"),
    ("turn", "#2f6db5"),
    ("claude's own spans", "#9db8dd"),
    ("model request", "#7d4fa3"),
    ("tool call", "#2d8a5f"),
    ("egress decision", "#c4512f"),
)
_COLOURS: Final = dict(_KINDS)


def kind_of(span: ReceivedSpan) -> str:
    """What a span is, for a reader of the picture."""
    if span.name.startswith("claude_code."):
        return "claude's own spans"
    match span.attributes.get("gen_ai.operation.name"):
        case "invoke_agent":
            return "turn"
        case "chat":
            return "model request"
        case "execute_tool":
            return "tool call"
    if span.name.startswith("egress "):
        return "egress decision"
    return "HTTP request" if span.kind == 2 else "waiting and starting"


def rows_of(spans: Sequence[ReceivedSpan], top: ReceivedSpan, depth: int = 0) -> Iterator[tuple[int, ReceivedSpan]]:
    """`top` and all that stands under it, with its depth, as a tree is read."""
    yield depth, top
    for child in children_of(spans, top):
        yield from rows_of(spans, child, depth + 1)


def draw(spans: Sequence[ReceivedSpan], top: ReceivedSpan, title: str, note: str) -> str:
    """The picture of the part of a trace that stands under `top`."""
    rows = list(rows_of(spans, top))
    start = min(span.start for _, span in rows)
    length = max(span.end for _, span in rows) - start
    height = _TOP + _ROW * len(rows) + 58
    scale = (_WIDTH - _NAMES - _RIGHT) / length
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(24, 34, title, size=18, weight=600),
        _text(24, 56, note, size=12, colour="#5c6670"),
        *_axis(length, scale, height),
        *(
            part
            for index, (depth, span) in enumerate(rows)
            for part in _row(index, _above(rows, index), depth, span, start, scale)
        ),
        *_legend(rows, height),
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def _above(rows: Sequence[tuple[int, ReceivedSpan]], index: int) -> int:
    """How many rows up the parent is of the span in a row, less one: the branch begins under its name."""
    depth = rows[index][0]
    return next((up - 1 for up in range(1, index + 1) if rows[index - up][0] < depth), 0)


def _axis(length: int, scale: float, height: int) -> Iterator[str]:
    step = next(s for n in range(3, 13) for s in (10**n, 2 * 10**n, 5 * 10**n) if length / s <= 8)
    for at in range(0, length + 1, step):
        x = _NAMES + at * scale
        yield f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{height - 52}" stroke="#e3e7eb"/>'
        yield _text(x, _TOP - 14, _took(at), size=11, colour="#5c6670", anchor="middle")


def _row(index: int, above: int, depth: int, span: ReceivedSpan, start: int, scale: float) -> Iterator[str]:
    """`above`: how many rows up the row is that its branch begins under."""
    y = _TOP + _ROW * index
    x, width = _NAMES + (span.start - start) * scale, max(2.5, (span.end - span.start) * scale)
    colour = _COLOURS[kind_of(span)]
    if index % 2 == 0:
        yield f'<rect x="12" y="{y}" width="{_WIDTH - 24}" height="{_ROW}" fill="#3a4a5a" fill-opacity="0.04"/>'
    indent = 24 + depth * _INDENT
    if depth:
        yield (f'<path d="M{indent - 9} {y - _ROW * above + 6} V{y + _ROW // 2} h6" fill="none" stroke="#b6bfc8"/>')
    yield _text(indent, y + 17, span.name, size=12.5, colour="#a3261a" if span.error else "#1d252c")
    yield (
        f'<rect x="{x:.1f}" y="{y + 6}" width="{width:.1f}" height="{_ROW - 12}" rx="2.5" fill="{colour}">'
        f"<title>{escape(span.name)}: {_took(span.end - span.start)}</title></rect>"
    )
    yield _text(x + width + 6, y + 17, _took(span.end - span.start), size=11, colour="#5c6670")


def _legend(rows: Sequence[tuple[int, ReceivedSpan]], height: int) -> Iterator[str]:
    shown, x = {kind_of(span) for _, span in rows}, 24.0
    for kind, colour in _KINDS:
        if kind in shown:
            yield f'<rect x="{x:.0f}" y="{height - 32}" width="12" height="12" rx="2.5" fill="{colour}"/>'
            yield _text(x + 18, height - 22, kind, size=12, colour="#39434c")
            x += 18 + 7.2 * len(kind) + 22


def _text(
    x: float, y: float, words: str, *, size: float, colour: str = "#1d252c", weight: int = 400, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def _took(nanoseconds: int) -> str:
    milliseconds = nanoseconds / 1e6
    if nanoseconds == 0:
        return "0"
    if milliseconds < 1:
        return f"{milliseconds * 1000:.0f} µs"
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"
