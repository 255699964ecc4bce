"""How is a report of costs drawn? One bar for each group, of model requests and of running time, as SVG.

Written by hand: a chart of bars needs no library, and the file needs nothing but a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from html import escape

_MOST = 60
"""Bars; of more groups the smallest are one bar together."""
_WIDTH, _NAMES, _NUMBERS, _ROW, _TOP, _BOTTOM = 900, 260, 90, 22, 70, 40
_BLUE, _ORANGE, _GREY = "#3b6ea8", "#d98c3f", "#666"


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    models: Decimal
    """US dollars."""
    runtime: Decimal

    @property
    def total(self) -> Decimal:
        return self.models + self.runtime


def draw(title: str, bars: Sequence[Bar]) -> str:
    """The text of an SVG file, in the order of the groups."""
    bars = _few(bars)
    span = _WIDTH - _NAMES - _NUMBERS
    most = max((bar.total for bar in bars), default=Decimal())
    step = _step(most)
    end = step * max(Decimal(1), (most / step).to_integral_value(ROUND_CEILING))
    height = _TOP + _ROW * max(1, len(bars)) + _BOTTOM

    def wide(amount: Decimal) -> float:
        return round(float(amount / end) * span, 2)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{_text(title, 200)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="24" font-size="16" font-weight="bold">{_text(title, 100)}</text>',
        f'<rect x="12" y="38" width="12" height="12" fill="{_BLUE}"/><text x="30" y="48">model requests</text>',
        f'<rect x="140" y="38" width="12" height="12" fill="{_ORANGE}"/><text x="158" y="48">running time</text>',
    ]
    floor = _TOP + _ROW * max(1, len(bars))
    tick = Decimal()
    while most and tick <= end:
        x = _NAMES + wide(tick)
        lines.append(f'<line x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{floor}" stroke="#ddd"/>')
        lines.append(f'<text x="{x}" y="{floor + 18}" text-anchor="middle" fill="{_GREY}">${_short(tick)}</text>')
        tick += step
    if not bars:
        lines.append(f'<text x="12" y="{_TOP + 14}" fill="{_GREY}">Nothing was used.</text>')
    for place, bar in enumerate(bars):
        y = _TOP + _ROW * place
        first, second = wide(bar.models), wide(bar.runtime)
        middle, after = round(_NAMES + first, 2), round(_NAMES + first + second + 6, 2)
        name = _text(bar.name, 38)
        lines.append(f'<text x="{_NAMES - 8}" y="{y + 14}" text-anchor="end">{name}</text>')
        lines.append(f'<rect x="{_NAMES}" y="{y + 3}" width="{first}" height="{_ROW - 7}" fill="{_BLUE}"/>')
        lines.append(f'<rect x="{middle}" y="{y + 3}" width="{second}" height="{_ROW - 7}" fill="{_ORANGE}"/>')
        lines.append(f'<text x="{after}" y="{y + 14}">${bar.total:.4f}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _few(bars: Sequence[Bar]) -> list[Bar]:
    if len(bars) <= _MOST:
        return list(bars)
    kept = set(sorted(range(len(bars)), key=lambda place: -bars[place].total)[: _MOST - 1])
    rest = [bar for place, bar in enumerate(bars) if place not in kept]
    models, runtime = sum((bar.models for bar in rest), Decimal()), sum((bar.runtime for bar in rest), Decimal())
    return [*(bars[place] for place in sorted(kept)), Bar(f"{len(rest)} others", models, runtime)]


def _step(most: Decimal) -> Decimal:
    """Between two lines of the scale: 1, 2 or 5 times a power of ten, so that there are four to ten of them."""
    if not most:
        return Decimal(1)
    power = Decimal(10) ** (most.adjusted() - 1)
    return next(power * factor for factor in (1, 2, 5, 10, 20) if most / (power * factor) <= 8)


def _short(amount: Decimal) -> str:
    return f"{amount.normalize():f}" if amount else "0"


def _text(text: str, longest: int) -> str:
    """For the inside of an element. What XML can't hold, and what hides or turns text around, is left out."""
    shown = "".join(char for char in text if char.isprintable())
    return escape(shown if len(shown) <= longest else shown[: longest - 1] + "…")
