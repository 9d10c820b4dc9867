"""Plots as SVG of shapes and text: no script, no reference, no word that becomes anything else.

Colours are attributes, which a page's own style sheet overrides by class: ``guide``, ``line``, ``dot``, ``bar``.
"""

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final, NamedTuple

_COLORS: Final = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#b91c1c")
_LEGEND_COLUMNS: Final = 3
_LEGEND_ROW: Final = 18
_LONGEST_NAME: Final = 40
_LABELS_OF_X: Final = 5

Points = Sequence[tuple[float, float]]


class _Frame(NamedTuple):
    """The rectangle of the values within a picture, in pixels, and the values at its right and upper edges."""

    left: float
    top: float
    right: float
    bottom: float
    most: tuple[float, float]

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * value / self.most[0]

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.most[1]


def line_plot(points: Sequence[tuple[str, float]], *, shown: Callable[[float], str]) -> str:
    """A line through sizes, in their order.

    Args:
        points: What each is called, and its value in bytes.
        shown: Puts a value into words.
    """
    frame, parts = _categories(points, shown)
    places = [(frame.x(position + 0.5), frame.y(value)) for position, (_, value) in enumerate(points)]
    parts.append(_line(places, _COLORS[0]))
    for (x, y), (name, value) in zip(places, points, strict=True):
        title = escape(f"{name}: {shown(value)}")
        dot = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_COLORS[0]}"/>'
        parts.append(f"<g><title>{title}</title>{dot}</g>")
    return _picture(560, 190, parts)


def bar_plot(points: Sequence[tuple[str, float]], *, shown: Callable[[float], str]) -> str:
    """A bar for each size, in their order; arguments as for :func:`line_plot`."""
    frame, parts = _categories(points, shown)
    for position, (name, value) in enumerate(points):
        left, right, top = frame.x(position + 0.1), frame.x(position + 0.9), frame.y(value)
        place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{frame.bottom - top:.1f}"'
        bar = f'<rect class="bar" {place} fill="{_COLORS[0]}"/>'
        parts.append(f"<g><title>{escape(f'{name}: {shown(value)}')}</title>{bar}</g>")
    return _picture(560, 190, parts)


def curves_plot(curves: Sequence[tuple[str, Points]], *, x_title: str, y_title: str) -> str:
    """One line for each curve, with a legend below, on a white ground, as a file of its own.

    Args:
        curves: What each is called, and its points; none is negative.
        x_title: What is on the x axis.
        y_title: What is on the y axis.
    """
    columns = min(len(curves), _LEGEND_COLUMNS)
    height = 290 + _LEGEND_ROW * ceil(len(curves) / columns)
    points = [point for _, curve in curves for point in curve]
    across, up = (_ticks(max(point[axis] for point in points), most=8 if axis == 0 else 6) for axis in (0, 1))
    frame = _Frame(70, 12, 864, 240, (max(point[0] for point in points) or 1, up[-1]))
    parts = [f'<rect width="880" height="{height}" fill="white"/>']
    parts += _y_axis(frame, [(value, f"{value:g}") for value in up])
    parts += _x_axis(frame, [(value, f"{value:g}") for value in across if value <= frame.most[0]])
    parts.append(_text((frame.left + frame.right) / 2, frame.bottom + 34, x_title, "middle"))
    middle = (frame.top + frame.bottom) / 2
    parts.append(f'<g transform="translate(16 {middle:.1f}) rotate(-90)">{_text(0, 0, y_title, "middle")}</g>')
    for number, (name, curve) in enumerate(curves):
        color = _COLORS[number % len(_COLORS)]
        parts.append(_line([(frame.x(x), frame.y(y)) for x, y in curve], color))
        row, column = divmod(number, columns)
        x, y = frame.left + column * (frame.right - frame.left) / columns, 290 + row * _LEGEND_ROW
        parts.append(f'<rect x="{x:.1f}" y="{y - 10}" width="12" height="12" fill="{color}"/>')
        parts.append(_text(x + 18, y, name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"))
    return _picture(880, height, parts, 'xmlns="http://www.w3.org/2000/svg" ')


def _categories(points: Sequence[tuple[str, float]], shown: Callable[[float], str]) -> tuple[_Frame, list[str]]:
    """The frame and the axes of values that have names, about five of which are shown: more overlap."""
    highest = max((value for _, value in points), default=0)
    up = _ticks(highest, most=3, unit=1024 ** max(0, floor(log10(max(highest, 1)) / log10(1024))))
    frame = _Frame(70, 10, 554, 164, (max(len(points), 1), up[-1]))
    every = max(1, (len(points) + _LABELS_OF_X - 1) // _LABELS_OF_X)
    named = [(position + 0.5, name) for position, (name, _) in enumerate(points) if position % every == 0]
    return frame, [*_y_axis(frame, [(value, shown(value)) for value in up]), *_x_axis(frame, named)]


def _ticks(highest: float, *, most: int, unit: float = 1) -> list[float]:
    """From 0 in round steps (1, 2 or 5 times a power of ten of a unit) up to the first that is not below a value."""
    rough = highest / unit / most if highest > 0 else 1
    power = 10.0 ** floor(log10(rough))
    step = unit * next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [step * number for number in range(max(1, ceil(highest / step - 1e-9)) + 1)]


def _y_axis(frame: _Frame, labels: Sequence[tuple[float, str]]) -> list[str]:
    parts: list[str] = []
    for value, words in labels:
        y = frame.y(value)
        parts.append(f'<path class="guide" d="M{frame.left} {y:.1f}H{frame.right}" stroke="#ddd" fill="none"/>')
        parts.append(_text(frame.left - 6, y + 4, words, "end"))
    return parts


def _x_axis(frame: _Frame, labels: Sequence[tuple[float, str]]) -> list[str]:
    parts: list[str] = []
    for value, words in labels:
        x = frame.x(value)
        parts.append(f'<path class="guide" d="M{x:.1f} {frame.top}V{frame.bottom}" stroke="#ddd" fill="none"/>')
        parts.append(_text(x, frame.bottom + 16, words, "middle"))
    return parts


def _line(places: Points, color: str) -> str:
    way = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return f'<path class="line" d="M{way}" stroke="{color}" stroke-width="2" fill="none"/>' if places else ""


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="#444" font-family="sans-serif" font-size="12">{escape(words)}</text>'


def _picture(width: int, height: int, parts: Sequence[str], namespace: str = "") -> str:
    return f'<svg {namespace}viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
