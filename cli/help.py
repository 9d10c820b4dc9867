"""The text of ``--help``: what a command does, its commands and its flags, in lines that fit the terminal.

Drawn from the flags' own declarations. cyclopts' page needs rich, and takes longer than the rest of the command.
"""

import inspect
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Final, Literal, NamedTuple, cast, get_args, get_origin

from cyclopts import App, Group, Parameter

from hyperexport.cli.flags import flags_of

FLAGS: Final = ("--help", "-h")
_LABELS: Final = 30  # columns at most for a flag and its value; a longer one has a line of its own
_WIDEST: Final = 110
_HELP: Final = "Show every option (-h: only their names), or after a command its own."
_MORE: Final = "hyperexport --help explains every option, hyperexport COMMAND --help those of a command."
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_VALUES: Final[dict[Any, str]] = {int: "N", float: "N", str: "TEXT", Path: "FILE", list[str]: "TEXT"}
_POSITIONAL: Final = {
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
}


class _Flag(NamedTuple):
    """A flag or an argument, as the page shows it."""

    group: str
    position: float
    label: str
    meaning: str
    required: bool
    usage: str


def help_is_wanted(words: Sequence[str]) -> bool:
    """Whether a command line asks for help, anywhere before ``--``.

    Args:
        words: Without the program's name.
    """
    options = words[: words.index("--")] if "--" in words else words
    return any(word in FLAGS for word in options)


def print_help(app: App, command: str, commands: Mapping[str, str], *, short: bool = False) -> None:
    """Print the page of a command.

    Args:
        app: The parser, with the flags of this command.
        command: Its name; "" for the whole program.
        commands: What the whole program's page says of each command.
        short: Only name the flags.
    """
    bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    print(help_page(app, command, {} if command else commands, width=width, bold=bold, short=short), end="")


def help_page(
    app: App, command: str, commands: Mapping[str, str], *, width: int, bold: bool = False, short: bool = False
) -> str:
    """Draw the page of a command.

    Args:
        app: The parser, with the flags of this command.
        command: Its name; "" for the whole program.
        commands: Other commands and what each does, for the whole program.
        width: Columns.
        bold: Whether headings are bold.
        short: Only name the flags, by what they are about.
    """
    shown = app[command] if command else app
    function = shown.default_command
    assert function is not None
    flags = [_flag(parameter) for parameter in inspect.signature(function).parameters.values()]
    usage = [flag.usage for flag in flags if flag.usage] if command else ["[COMMAND]"]
    called = " ".join(["Usage:", app.name[0], *([command] if command else []), *usage, "[OPTIONS]"])
    folded = wrap(called, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    lines = [*folded, ""]
    for paragraph in inspect.cleandoc(shown.help).split("\n\n"):
        lines += [*_paragraph(paragraph, width), ""]
    sections = list(_sections(flags, commands))
    for title, entries in _shortened(sections) if short else sections:
        lines += [f"{_BOLD}{title}{_PLAIN}" if bold else title, *_table(entries, width), ""]
    return "\n".join([*lines, *wrap(_MORE, width), ""] if short else lines)


def _shortened(sections: Sequence[tuple[str, list[tuple[str, str]]]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The commands, and of each other section its flags without their meanings."""
    for title, entries in sections:
        if title == "Commands":
            yield title, entries
    names = {
        title: " ".join(label.split(" ")[0].rstrip(",") for label, _ in entries)
        for title, entries in sections
        if title != "Commands"
    }
    yield "Options", list(names.items())


def _flag(parameter: inspect.Parameter) -> _Flag:
    kind, *described = get_args(parameter.annotation)
    said = next(each for each in described if isinstance(each, Parameter))
    group = next(iter(cast("tuple[Group, ...]", said.group or ())), None)
    positional = parameter.kind in _POSITIONAL
    name, off = flags_of(parameter)
    required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    label = name if positional else _with_value(name, off, kind, said)
    many = "..." if parameter.kind is parameter.VAR_POSITIONAL else ""
    usage = f"{label}{many}" if required else f"[{label}{many}]" if positional else ""
    if group is None:
        return _Flag("Arguments" if positional else "Options", -1, label, _meaning(kind, said), required, usage)
    return _Flag(group.name, cast("float", group.sort_key), label, _meaning(kind, said), required, usage)


def _with_value(name: str, off: str, kind: Any, said: Parameter) -> str:
    """A flag with what its value looks like; one that is on by default with the flag that turns it off."""
    bare = _bare(kind)
    if bare is bool:
        return f"{name}, {off}" if any(on in (said.help or "") for on in ("default: yes", "default: on")) else name
    return f"{name} {said.metavar or _VALUES.get(bare, 'TEXT')}"


def _bare(kind: Any) -> Any:
    """The type of a value that is given, without the None that stands for none."""
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return kinds[0] if type(None) in get_args(kind) and len(kinds) == 1 else kind


def _meaning(kind: Any, said: Parameter) -> str:
    choices = get_args(kind) if get_origin(kind) is Literal and said.metavar is None else ()
    return " ".join([said.help or "", *([f"One of {', '.join(choices)}."] if choices else [])])


def _sections(flags: Iterable[_Flag], commands: Mapping[str, str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The tables of the page: title, then names with their meanings."""
    if commands:
        yield "Commands", sorted(commands.items())
    ordered = sorted(flags, key=lambda flag: flag.position)
    for title in dict.fromkeys(flag.group for flag in ordered):
        entries = [
            (flag.label, f"{flag.meaning} [required]" if flag.required and flag.label[0] == "-" else flag.meaning)
            for flag in ordered
            if flag.group == title
        ]
        if title == "Terminal":
            entries.append((", ".join(reversed(FLAGS)), _HELP))
            entries += [("--version", "Show the version.")] if commands else []
        yield title, entries


def _paragraph(text: str, width: int) -> list[str]:
    """Wrap a paragraph; one with indented lines, such as examples, stays as it is."""
    lines = text.splitlines()
    return (
        lines if any(line.startswith(" ") for line in lines) else wrap(" ".join(lines), width, break_on_hyphens=False)
    )


def _table(entries: Sequence[tuple[str, str]], width: int) -> list[str]:
    column = min(max(len(label) for label, _ in entries), _LABELS) + 4
    lines: list[str] = []
    for label, meaning in entries:
        shown = wrap(meaning, max(width - column, 20), break_on_hyphens=False) or [""]
        fits = len(label) + 4 <= column
        lines += [] if fits else [f"  {label}"]
        lines += [f"{f'  {label}' if fits and not number else '':{column}}{line}" for number, line in enumerate(shown)]
    return lines
