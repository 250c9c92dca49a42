"""The outcome as a picture for people: how many times as fast as each peer we are, as SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.bench.goals import LINK, Reached

_ROW, _BAR = 22, 14
_LABELS, _BARS, _FIGURES = 360, 420, 60
_TOP, _BOTTOM = 48, 34
_LEAST, _MOST = 0.25, 64.0
_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
_FASTER, _SLOWER, _GOAL = "#3a7d44", "#b5542b", "#888"


def chart(reached: Sequence[Reached], title: str) -> str:
    """One bar for each comparison with a peer, on a logarithmic scale; the tick beside it is the goal."""
    rows = [one for one in reached if one.goal.peer != LINK]
    height = _TOP + _ROW * len(rows) + _BOTTOM
    width = _LABELS + _BARS + _FIGURES
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
        f'<text x="{_LABELS}" y="38" fill="#555">times as fast (1: equal); grey marks: the goals</text>',
    ]
    for tick in _TICKS:
        x, colour = _x(tick), "#333" if tick == 1 else "#ddd"
        lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{height - _BOTTOM}" stroke="{colour}"/>')
        lines.append(f'<text x="{x:.1f}" y="{height - 14}" text-anchor="middle" fill="#555">{tick:g}×</text>')
    for index, one in enumerate(rows):
        lines += _row(one, _TOP + index * _ROW)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _x(ratio: float) -> float:
    share = math.log(min(max(ratio, _LEAST), _MOST) / _LEAST) / math.log(_MOST / _LEAST)
    return _LABELS + share * _BARS


def _row(one: Reached, top: int) -> list[str]:
    start, end, goal = _x(1), _x(one.ratio), _x(one.goal.times)
    label = f"{one.goal.workload}, {one.goal.step}: {one.goal.peer}"
    middle = top + _BAR - 3
    return [
        f'<text x="{_LABELS - 8}" y="{middle}" text-anchor="end">{escape(label)}</text>',
        f'<rect x="{min(start, end):.1f}" y="{top}" width="{max(abs(end - start), 1):.1f}" height="{_BAR}" '
        f'fill="{_FASTER if one.ratio >= 1 else _SLOWER}"/>',
        f'<line x1="{goal:.1f}" x2="{goal:.1f}" y1="{top - 2}" y2="{top + _BAR + 2}" stroke="{_GOAL}" '
        'stroke-width="3"/>',
        f'<text x="{_LABELS + _BARS + 6}" y="{middle}">{one.ratio:.3g}×</text>',
    ]
