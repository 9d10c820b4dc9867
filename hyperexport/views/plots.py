"""Pictures for a page that has to work by itself: SVG without scripts, styles or references.

pygal draws; what it draws is then reduced to shapes and text, so that no word can become anything else. The colours
are those of the page.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final
from xml.etree import ElementTree as ET

import pygal

_SVG: Final = "{http://www.w3.org/2000/svg}"
_SHAPES: Final = frozenset({"svg", "g", "path", "rect", "line", "circle", "text"})
_ATTRIBUTES: Final = frozenset(
    {"class", "d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "ry", "width", "height", "viewBox"}
    | {"transform", "text-anchor"}
)


def line_plot(points: Sequence[tuple[str, float]], *, shown: Callable[[float], str]) -> str:
    """A line through values, in their order.

    Args:
        points: What each is called, and its value.
        shown: Puts a value into words.
    """
    return _draw(pygal.Line(**_settings(points, shown), dots_size=3), points)


def bar_plot(points: Sequence[tuple[str, float]], *, shown: Callable[[float], str]) -> str:
    """A bar for each value, in their order."""
    return _draw(pygal.Bar(**_settings(points, shown)), points)


def _settings(points: Sequence[tuple[str, float]], shown: Callable[[float], str]) -> dict[str, Any]:
    every = max(1, (len(points) + 4) // 5)  # about five labels: more overlap
    return {
        "width": 560,
        "height": 190,
        "margin": 6,
        "js": (),
        "show_legend": False,
        "truncate_label": -1,
        "disable_xml_declaration": True,
        "include_x_axis": True,
        "x_labels": [name for name, _ in points],
        "x_labels_major_every": every,
        "show_minor_x_labels": False,
        "y_labels_major_count": 3,
        "show_minor_y_labels": False,
        "value_formatter": shown,
    }


def _draw(chart: Any, points: Sequence[tuple[str, float]]) -> str:
    chart.add("", [value for _, value in points])
    root = ET.fromstring(chart.render())  # noqa: S314 - pygal's own, of a moment ago
    clean = _reduced(root)
    clean.set("role", "img")
    return ET.tostring(clean, encoding="unicode")


def _reduced(element: ET.Element) -> ET.Element:
    """The element with those of its children, attributes and words that are shapes and text."""
    clean = ET.Element(element.tag.removeprefix(_SVG))
    clean.attrib = {name: value for name, value in element.attrib.items() if name in _ATTRIBUTES}
    clean.text, clean.tail = element.text, element.tail
    told = {child.get("class"): child.text for child in element if child.tag == f"{_SVG}desc"}
    if told.get("value"):  # what pygal's script would show beside the pointer; a browser shows a title
        title = ET.SubElement(clean, "title")
        title.text = ": ".join(words for words in (told.get("x_label"), told["value"]) if words)
    for child in element:
        if child.tag.removeprefix(_SVG) in _SHAPES:
            clean.append(_reduced(child))
    return clean
