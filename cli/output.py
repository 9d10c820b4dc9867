"""The two streams of a terminal, and the form in which answers are given.

Standard output has answers and nothing else: tables and sentences, or key=value lines, or one JSON document at the
end. Progress, warnings and errors go to standard error.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from hyperexport.base.json_logs import JsonLines
from hyperexport.base.text import escape_controls, one_line
from hyperexport.errors import UsageError
from hyperexport.options.lists import write_names

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from hyperexport.base.display import Pairs
    from hyperexport.base.terminal_table import TerminalTable
    from hyperexport.model.vm import Value

_PIPED_WIDTH = 200  # columns of a table without a terminal


class OutputFormat(StrEnum):
    """How a command answers."""

    PRETTY = "pretty"
    QUIET = "quiet"
    JSON = "json"


def output_format_of(*, quiet: bool, json: bool) -> OutputFormat:
    """Choose the form of the answer from the flags.

    Raises:
        UsageError: Both are given.
    """
    if quiet and json:
        raise UsageError("--quiet and --json exclude each other", fix="Choose one form of output")
    return OutputFormat.QUIET if quiet else OutputFormat.JSON if json else OutputFormat.PRETTY


class Output:
    """Gives answers in the form that was asked for."""

    def __init__(self, output_format: OutputFormat, *, json_logs: bool = False) -> None:
        self.output_format = output_format
        self.json_logs = json_logs
        from hyperexport.cli.console import PipeSafeConsole  # not for --help

        self.errors = PipeSafeConsole(stderr=True, quiet=json_logs)  # no bar and no spinner among JSON lines
        # A character that the locale lacks must not end an export.
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType]
        wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
        self._console = PipeSafeConsole(width=wide, highlight=False)
        self._blocks = 0
        self._document: dict[str, list[Any]] = {}

    def answer(
        self,
        key: str,
        *,
        pretty: "Callable[[Console], None]",
        quiet: Sequence[str] | Callable[[], Sequence[str]],
        document: Any | Callable[[], Any],
    ) -> None:
        """Give one answer, in the form that was asked for.

        Args:
            key: The list of the JSON document that it belongs to.
            pretty: Draws it.
            quiet: Its key=value lines, or what makes them where that takes time.
            document: Its JSON value, or what makes it.
        """
        self._document.setdefault(key, [])
        if self.output_format is OutputFormat.JSON:
            self._document[key].append(document() if callable(document) else document)
        elif self.output_format is OutputFormat.PRETTY:
            pretty(self._console)
        elif lines := quiet() if callable(quiet) else quiet:
            self.say(*([""] if self._blocks else []), *lines)
            self._blocks += 1

    def result(self, key: str, result: "Value") -> None:
        """Give a result as an answer: its page, its pairs, or itself as JSON.

        Args:
            key: The list of the JSON document that it belongs to.
            result: Of a kind that ``hyperexport/views/`` has a page for.
        """
        self.answer(
            key,
            pretty=lambda console: show(console, result),
            quiet=lambda: pair_lines(result),
            document=lambda: result.model_dump(mode="json"),
        )

    @property
    def is_quiet(self) -> bool:
        """Whether only key=value lines were asked for."""
        return self.output_format is OutputFormat.QUIET

    def draw(self, pretty: "Callable[[Console], None]") -> None:
        """Draw on the terminal, beside the answers."""
        pretty(self._console)

    def say(self, *lines: str) -> None:
        """Write lines exactly as they are: not wrapped, not coloured."""
        self._console.out(*lines, sep="\n", highlight=False)

    def nothing(self, key: str) -> None:
        """Have the list in the JSON document even if it stays empty."""
        self._document.setdefault(key, [])

    def finish(self, failures: Sequence[dict[str, str | None]]) -> None:
        """Write the JSON document, if that is what was asked for."""
        if self.output_format is OutputFormat.JSON:
            self.say(json.dumps({**self._document, "errors": list(failures)}, indent=2))

    def progress(self) -> AbstractContextManager[None]:
        """While the block runs, show on standard error how far its items are; nothing where that is to be quiet."""
        if self.is_quiet or self.json_logs:  # JSON lines have the steps
            return nullcontext()
        from hyperexport.views.progress import showing_progress

        return showing_progress(self.errors)

    def waiting(self, for_what: str) -> AbstractContextManager[object]:
        """While the block runs, show at a terminal what the program waits for."""
        return self.errors.status(for_what) if self.errors.is_terminal else nullcontext()


def key_value(key: str, value: object) -> str:
    """One line of ``--quiet``: no line break in a VM's name makes a key of its own."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{key}={escape_controls(text)}"


def as_flag(value: object) -> str:
    """A JSON value as a flag takes it; empty where there is none."""
    if isinstance(value, list):
        return write_names(cast("list[object]", value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def pair_lines(result: object) -> list[str]:
    """The key=value lines of a result."""
    from hyperexport.base.display import blocks_of, pairs_of

    unknown = pairs_of.dispatch(type(result)) is pairs_of.dispatch(object)
    if unknown and blocks_of.dispatch(type(result)) is blocks_of.dispatch(object):
        import hyperexport.views.pages  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers all pairs

    return block_lines(blocks_of(result))


def block_lines(blocks: "Iterable[Pairs]") -> list[str]:
    """Blocks of key=value lines, with an empty line between them."""
    return [line for block in blocks for line in ("", *(key_value(key, value) for key, value in block))][1:]


def make_table(title: str, columns: Sequence[str], rows: "Iterable[Sequence[str]]") -> "TerminalTable":
    """Draw a table of what is no result, such as options or schedules; no cell is markup."""
    from hyperexport.base.display import Table, rich_table

    return rich_table(Table(title, tuple(columns), tuple(tuple(row) for row in rows)))


def show(console: "Console", *values: object) -> None:
    """Print the page of each value: tables as wide as the terminal, sentences unwrapped, so that grep finds them."""
    from rich.text import Text

    from hyperexport.base.display import Page, pages_of, rich_parts

    for value in values:
        if not isinstance(value, Page) and pages_of.dispatch(type(value)) is pages_of.dispatch(object):
            import hyperexport.views.pages  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers all pages
        for part in rich_parts((value,) if isinstance(value, Page) else pages_of(value)):
            console.print(part, soft_wrap=isinstance(part, Text))


def show_rows(console: "Console", title: str, values: "Sequence[object]") -> None:
    """Print values as one table."""
    from hyperexport.base.display import rich_table, table
    from hyperexport.views.pages import rows_of

    for each in table(title, rows_of(values)):
        console.print(rich_table(each))


def say(console: "Console", words: str) -> None:
    """Print a sentence as it is: no markup, no wrapping, so that it can be searched for."""
    from rich.text import Text

    console.print(Text(escape_controls(words)), soft_wrap=True)


def noted(mark: str, style: str, words: str) -> "Text":
    """A coloured word, and after it what it is about."""
    from rich.text import Text

    return Text(mark, style=style).append(escape_controls(words), style="default")


class LogLines(logging.Handler):
    """Shows warnings of the engine; with ``--debug`` everybody's decisions."""

    def __init__(self, console: "Console", *, debug: bool) -> None:
        super().__init__()
        # prefect.logging.configuration: a handler with a formatter and a public name has the root logger to itself.
        self.setFormatter(logging.Formatter("%(message)s"))
        self._console = console
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, or leave it to the run's own log."""
        ours = record.name.partition(".")[0] == "hyperexport"
        told_anyway = record.name == "hyperexport.flows"  # the sentence that a failed flow ends with
        asked_for = record.name == "hyperexport.chosen"  # who is meant by a pattern is shown before anything is done
        warning = record.levelno >= logging.WARNING
        if not self._debug and not asked_for and (not ours or told_anyway or not warning):
            return
        name = "" if ours else f"{record.name}: "
        told = self.format(record)
        told = one_line(told) if ours and not record.exc_info else escape_controls(told, keep="\n")
        from rich.text import Text

        words = Text(f"hyperexport: {name}{told}", style="yellow" if warning else "dim")
        with suppress(OSError):
            self._console.print(words, soft_wrap=True)


class JsonLogLines(logging.Handler):
    """Writes the engine's decisions as JSON, for programs; only its warnings if it is to be quiet."""

    def __init__(self, *, debug: bool, quiet: bool) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self._debug = debug
        self._least = logging.WARNING if quiet else logging.INFO

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or leave it to the run's own log."""
        ours = record.name.partition(".")[0] == "hyperexport" and record.name != "hyperexport.flows"
        if self._debug or (ours and record.levelno >= self._least):
            with suppress(OSError):
                print(self.format(record), file=sys.stderr, flush=True)


@contextmanager
def showing_logs(output: Output, *, debug: bool) -> Generator[None]:
    """While the block runs, show log lines on standard error: warnings, and with ``debug`` every decision.

    As JSON, where the environment asks for it, decisions too.
    """
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = debug  # else Prefect prints each line of log that its server does not take
    as_json, in_words = JsonLogLines(debug=debug, quiet=output.is_quiet), LogLines(output.errors, debug=debug)
    handler = as_json if output.json_logs else in_words
    logging.getLogger().addHandler(handler)
    logging.getLogger("hyperexport").setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
