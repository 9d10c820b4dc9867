"""A table as a terminal has room for it.

No id, path or number is ever broken, since people copy them. Sentences are wrapped where that leaves them readable.
Where it does not, a row has the columns that fit on its first line, and the others below it, each with its name.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from hyperexport.base.folding import beside, says, sizes_of

_GAP: Final = 2
_INDENT: Final = 4
_BORDER: Final = 3


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
        cells = [[cell.plain for cell in row] for row in rows]
        self._sizes = sizes_of([column.plain for column in columns], cells, cell_len)

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
        near = beside(self._sizes, room, _GAP)
        below = [number for number in range(len(self._columns)) if number not in near]
        if self._title:
            yield Text(self._title.plain, style="bold")
        heading = self._line(self._columns, near)
        heading.stylize("bold")
        yield heading
        for row in self._rows:
            yield self._line(row, near)
            said = [number for number in below if says(row[number].plain)]
            short = [self._named(number, row) for number in said if not self._sizes[number].wraps]
            sentences = [self._named(number, row) for number in said if self._sizes[number].wraps]
            for words in ([Text(", ").join(short)] if short else []) + sentences:
                yield Padding(words, (0, 0, 0, _INDENT), expand=False)

    def _named(self, number: int, row: Sequence[Text]) -> Text:
        return Text.assemble((f"{self._columns[number].plain}: ", "dim"), row[number])

    def _line(self, cells: Sequence[Text], chosen: Sequence[int]) -> Text:
        line = Text(no_wrap=True, overflow="fold")
        for number in chosen:
            line.append_text(cells[number])
            if number != chosen[-1]:
                line.append(" " * (self._sizes[number].width - cell_len(cells[number].plain) + _GAP))
        line.rstrip()
        return line
