"""Which columns of a table stand beside each other where there is little room, and which below their row."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

_PHRASE: Final = 28
"""A cell that has spaces and is longer is a sentence, which may be wrapped; nothing else is ever broken."""
_READABLE: Final = 24
"""Characters of a line in which a sentence can be read."""
_NOTHING: Final = frozenset({"", "-"})


class Size(NamedTuple):
    """How wide a column is."""

    width: int
    """Where nothing is wrapped."""
    least: int
    """Where it is still easy to read."""
    wraps: bool
    """Whether it holds sentences."""


def sizes_of(columns: Sequence[str], rows: Iterable[Sequence[str]], width_of: Callable[[str], int] = len) -> list[Size]:
    """The sizes of the columns.

    Args:
        columns: Their names.
        rows: A cell for each.
        width_of: How wide a text is.
    """
    return [_size(cells, width_of) for cells in zip(columns, *rows, strict=True)]


def _size(cells: Sequence[str], width_of: Callable[[str], int]) -> Size:
    width = max(map(width_of, cells))
    wraps = any(width_of(cell) > _PHRASE and " " in cell for cell in cells[1:])
    word = max((width_of(word) for cell in cells for word in cell.split()), default=0)
    return Size(width, min(width, max(word, _READABLE)) if wraps else width, wraps)


def beside(sizes: Sequence[Size], room: int, gap: int) -> list[int]:
    """The columns that fit on one line, from the left; sentences do not belong there.

    Args:
        sizes: Those of all columns; the first is what a row is about, and always there.
        room: Characters of the line.
        gap: Characters between two columns.
    """
    chosen, used = [0], sizes[0].width
    for number, size in enumerate(sizes):
        if number and not size.wraps and used + gap + size.width <= room:
            chosen.append(number)
            used += gap + size.width
    return chosen


def says(cell: str) -> bool:
    """Whether a cell says anything, so that it deserves a line of its own."""
    return cell not in _NOTHING
