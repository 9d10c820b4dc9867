"""A table as a terminal has room for it.

No id, path or number is ever broken, since people copy them. Sentences are wrapped where that leaves them readable.
Where it does not, a row has the columns that fit on its first line, and the others below it, each with its name.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

_PHRASE: Final = 28
"""A cell that has spaces and is longer may be wrapped."""
_READABLE: Final = 24
"""Columns of a terminal in which a sentence can be read."""
_GAP: Final = 2
_INDENT: Final = 4
_BORDER: Final = 3
_NOTHING: Final = frozenset({"", "-"})


class _Size(NamedTuple):
    """How wide a column is."""

    width: int
    """Where nothing is wrapped."""
    least: int
    """Where it is still easy to read."""
    wraps: bool
    """Whether it holds sentences."""


def _size(cells: Sequence[str]) -> _Size:
    """The size of a column of these cells, of which the first is its name."""
    width = max(map(cell_len, cells))
    wraps = any(cell_len(cell) > _PHRASE and " " in cell for cell in cells[1:])
    word = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
    return _Size(width, min(width, max(word, _READABLE)) if wraps else width, wraps)


class TerminalTable:
    """Rows below the names of their columns.

    Args:
        title: What stands above them.
        columns: The names; the first column is what a row is about.
        rows: A cell for each column.
    """

    def __init__(self, title: Text | None, columns: Sequence[Text], rows: Sequence[Sequence[Text]]) -> None:
        self._title = title
        self._columns = columns
        self._rows = rows
        self._sizes = [_size([cell.plain for cell in column]) for column in zip(columns, *rows, strict=True)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Draw it, with borders where there is room for them."""
        del console
        room = options.max_width - _BORDER * len(self._sizes) - 1
        if sum(size.least for size in self._sizes) <= room or len(self._sizes) <= len(("name", "value")):
            yield self._boxed(room)
        else:
            yield from self._folded(options.max_width)

    def _boxed(self, room: int) -> RichTable:
        named = any(self._columns)
        drawn = RichTable(
            title=self._title, title_justify="left", title_style="bold", box=box.SQUARE, show_header=named
        )
        spare = room - sum(size.least for size in self._sizes)
        for column, size in zip(self._columns, self._sizes, strict=True):
            more = max(min(size.width - size.least, spare), 0)
            spare -= more
            drawn.add_column(column, overflow="fold", width=size.least + more)
        for row in self._rows:
            drawn.add_row(*row)
        return drawn

    def _folded(self, room: int) -> Iterator[RenderableType]:
        beside = self._beside(room)
        below = [number for number in range(len(self._columns)) if number not in beside]
        if self._title:
            yield Text(self._title.plain, style="bold")
        heading = self._line(self._columns, beside)
        heading.stylize("bold")
        yield heading
        for row in self._rows:
            yield self._line(row, beside)
            said = [number for number in below if row[number].plain not in _NOTHING]
            short = [self._named(number, row) for number in said if not self._sizes[number].wraps]
            sentences = [self._named(number, row) for number in said if self._sizes[number].wraps]
            for words in ([Text(", ").join(short)] if short else []) + sentences:
                yield Padding(words, (0, 0, 0, _INDENT), expand=False)

    def _named(self, number: int, row: Sequence[Text]) -> Text:
        return Text.assemble((f"{self._columns[number].plain}: ", "dim"), row[number])

    def _beside(self, room: int) -> list[int]:
        """The columns that fit on one line, from the left; those of sentences do not belong there."""
        chosen, used = [0], self._sizes[0].width
        for number, size in enumerate(self._sizes):
            if number and not size.wraps and used + _GAP + size.width <= room:
                chosen.append(number)
                used += _GAP + size.width
        return chosen

    def _line(self, cells: Sequence[Text], chosen: Sequence[int]) -> Text:
        line = Text(no_wrap=True, overflow="fold")
        for number in chosen:
            line.append_text(cells[number])
            if number != chosen[-1]:
                line.append(" " * (self._sizes[number].width - cell_len(cells[number].plain) + _GAP))
        line.rstrip()
        return line
