"""What ``convert``, ``nbd`` and ``files`` share: how one export is named, and how lines are written."""

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from hyperexport.base.text import visible
from hyperexport.cli.flags import WHAT
from hyperexport.cli.request import Reading, Request
from hyperexport.model.restore_point import RestorePoint, parse_time

Export = Annotated[
    str | None, Parameter(name="EXPORT", help="An export's id or path, as hyperexport list shows it; or use --vm.")
]
Vm = Annotated[
    str | None,
    Parameter(name="--vm", group=WHAT, metavar="NAME", help="The newest good export of this VM, in place of EXPORT."),
]
At = Annotated[
    str | None,
    Parameter(
        name="--at",
        group=WHAT,
        metavar="TIME",
        help="With --vm: the newest good export begun by then, such as 2026-11-23T18:00 (local time) or ...T18:00Z.",
    ),
]


def restore_point(export: str | None, vm: str | None, at: str | None) -> RestorePoint:
    """The export that the words name.

    Raises:
        UsageError: They name no export, or two, or the time is invalid.
    """
    return RestorePoint(export=export, vm=vm, at=None if at is None else parse_time(at))


def reading_of(request: Request) -> Reading:
    """What is done with the export."""
    assert request.reading is not None
    return request.reading


def say(console: Console, words: str) -> None:
    """Print a line as it is: no markup, no wrapping."""
    console.print(Text(visible(words)), soft_wrap=True)


def key_value(key: str, value: object) -> str:
    """A line of ``--quiet``, whatever the value holds."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{key}={visible(text)}"
