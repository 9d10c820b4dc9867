"""Tables in terminals of any width."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from hyperexport.base.display import Table, rich_table

NOTHING = "-"
"""A cell that says nothing; it is left out where it would stand below its row."""
WORD = st.text("abcdefghij0123456789-/.", min_size=1, max_size=12)
IDS = st.lists(WORD, min_size=3, max_size=3).map("".join)
SENTENCES = st.lists(WORD, min_size=1, max_size=12).map(" ".join)


def drawn(table: Table, width: int) -> list[str]:
    terminal = io.StringIO()
    Console(width=width, file=terminal).print(rich_table(table))
    return terminal.getvalue().splitlines()


@st.composite
def tables(draw: st.DrawFn) -> Table:
    kinds = [IDS, *draw(st.lists(st.sampled_from([WORD, IDS, SENTENCES]), min_size=2, max_size=8))]
    rows = draw(st.lists(st.tuples(*kinds), min_size=1, max_size=4))
    return Table("", tuple(f"C{number}" for number in range(len(kinds))), tuple(rows))


@given(tables(), st.integers(60, 200))
def test_no_word_is_broken_or_lost_and_no_line_is_too_long(table: Table, width: int) -> None:
    shown = drawn(table, width)
    assert max(map(cell_len, shown)) <= width
    words = " ".join(shown).replace("│", " ").replace(",", " ").split()
    for row in table.rows:
        for cell in row:
            for word in cell.split() if cell != NOTHING else ():
                assert word in words, shown


def test_below_a_row_stands_only_what_says_something() -> None:
    names, row = ("Id", "A", "B", "C"), ("i" * 20, "a" * 20, NOTHING, "c" * 20)
    assert drawn(Table("", names, (row, (*row[:2], "b" * 20, "c"))), 60)[1:] == [
        f"{row[0]}  {row[1]}",
        f"    C: {row[3]}",
        f"{row[0]}  {row[1]}",
        f"    B: {'b' * 20}, C: c",
    ]


def test_what_does_not_fit_beside_stands_below_with_its_name() -> None:
    row = ("02704539", "vm-01", "2026-11-29 10:13 UTC", "incremental", "282.3 KB", "264.5 KB", "never", "f791b0e8")
    names = ("Id", "VM", "Created", "Kind", "Adds", "Read", "Verified", "Shares bytes with")
    assert drawn(Table("", names, (row,)), 78) == [
        "Id        VM     Created               Kind         Adds      Read",
        "02704539  vm-01  2026-11-29 10:13 UTC  incremental  282.3 KB  264.5 KB",
        "    Verified: never, Shares bytes with: f791b0e8",
    ]


def test_a_table_that_fits_has_borders() -> None:
    assert drawn(Table("", ("Id", "VM"), (("02704539", "vm-01"),)), 80)[1] == "│ Id       │ VM    │"
