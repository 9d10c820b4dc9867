"""Names from outside are shown, and never act: on a terminal, in key=value lines, in a log, in a mail, in an error."""

import io
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hyperexport.base.text import escape_controls, one_line
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import LogLines, pair_lines, show
from hyperexport.errors import VmNotFound
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.ownership import Run
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.model.vm import NicInfo, PowerState, SnapshotInfo, VmInfo
from hyperexport.store.contents import StoreContents
from hyperexport.tasks.logs import _harmless
from hyperexport.views.mail import start_mail, to_message
from hyperexport.views.markdown import table
from hyperexport.views.progress import Lines, describe, showing_progress
from tests import examples

HOSTILE = "db01\nverified=true\r\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\u2028\x00\x7f[/bold]"
ACTING = [sign for sign in HOSTILE if unicodedata.category(sign) in {"Cc", "Cf", "Zl", "Zp"}]


def hostile_vm() -> VmInfo:
    disk = examples.a_disk(label=HOSTILE, file=HOSTILE)
    snapshot = SnapshotInfo(moref="snapshot-1", name=HOSTILE, created=examples.NOW)
    return VmInfo(
        ref=examples.VM.model_copy(update={"name": HOSTILE, "path": HOSTILE}),
        power_state=PowerState.ON,
        guest_os=HOSTILE,
        cpus=1,
        memory_mb=1,
        hardware_version=HOSTILE,
        firmware=HOSTILE,
        tools_status=HOSTILE,
        provisioned=1,
        used=1,
        change_tracking=False,
        change_tracking_supported=False,
        consolidation_needed=False,
        template=False,
        encrypted=False,
        host=HOSTILE,
        datastores=(HOSTILE,),
        disks=(disk,),
        nics=(NicInfo(label=HOSTILE, type="Vmxnet3", network=HOSTILE),),
        snapshots=(snapshot,),
    )


def acts(text: str, *, allowed: str = "\n") -> list[str]:
    return [sign for sign in text if sign in ACTING and sign not in allowed]


@given(st.text())
def test_nothing_that_is_shown_acts_and_nothing_else_is_changed(text: str) -> None:
    shown = escape_controls(text)
    assert not {unicodedata.category(sign) for sign in shown.replace("\u200c", "").replace("\u200d", "")} & {
        "Cc", "Cf", "Cs", "Zl", "Zp",
    }  # fmt: skip
    assert escape_controls(shown) == shown
    if text.isprintable():
        assert shown == text
    shown.encode()


def test_what_people_write_stays_as_it_is() -> None:
    for name in ("db01", "Büro – Server №5", "データベース", "👩‍💻", "می‌خواهم", "a\u00a0b"):
        assert escape_controls(name) == name
    assert escape_controls("a\nb\tc", keep="\n") == "a\nb\\tc"
    assert one_line(" a\n\tb\x1b ") == "a b\\x1b"


def test_no_name_forges_a_line_for_scripts() -> None:
    info = hostile_vm()
    lines = pair_lines(info)
    assert [line.partition("=")[0] for line in lines] == [
        "name", "path", "power_state", "guest_os", "cpu", "memory_mb", "storage_bytes",
    ]  # fmt: skip
    assert not acts("".join(lines), allowed="")
    assert all(len(line.splitlines()) == 1 for line in lines)


def test_no_escape_sequence_reaches_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=200)
    show(console, hostile_vm())
    bad = DamagedExport(folder=HOSTILE, problem=Problem.INVALID, reason=HOSTILE)
    show(console, StoreContents(store=HOSTILE, exports=(), damaged=(bad,)))
    assert "db01" in screen.getvalue()
    assert not acts(screen.getvalue())


def test_a_log_line_stays_one_line() -> None:
    screen = io.StringIO()
    handler = LogLines(Console(file=screen, force_terminal=True, color_system=None, width=400), debug=False)
    handler.emit(logging.LogRecord("hyperexport.steps", logging.WARNING, "", 0, "%s: slow", (HOSTILE,), None))
    assert not acts(screen.getvalue(), allowed="\n")
    assert len(screen.getvalue().splitlines()) == 1

    record = logging.LogRecord("hyperexport.steps", logging.INFO, "", 0, "%s: %d bytes", (HOSTILE, 5), None)
    assert _harmless(record)
    assert not acts(record.getMessage(), allowed="")
    assert record.getMessage().endswith(": 5 bytes")


def test_progress_shows_a_hostile_name_as_it_is_spelt() -> None:
    moving = Progress(
        examples.VM.model_copy(update={"name": HOSTILE}), HOSTILE, Stage.REMOVE_SNAPSHOT, 100, 100, 0, done=True
    )
    stream = io.StringIO()
    Lines(stream)(moving)
    assert not acts(stream.getvalue() + describe(moving))
    screen = io.StringIO()
    with showing_progress(Console(file=screen, force_terminal=True, color_system=None, width=300)):
        report(moving)
    assert "[/bold]" in screen.getvalue(), "no markup is read out of a name"
    assert "\x1b]0;owned" not in screen.getvalue()


def test_an_error_carries_no_character_that_acts(capsys: pytest.CaptureFixture[str]) -> None:
    error = VmNotFound(f"no VM named {HOSTILE}", fix=f"Did you mean {HOSTILE}?")
    assert not acts(str(error), allowed="")
    for debug in (False, True):
        for raised in (error, ValueError(HOSTILE)):
            Failure(raised, HOSTILE).report(debug=debug)
            assert not acts(capsys.readouterr().err)


def test_a_mail_gets_no_header_and_a_page_no_row_from_a_name() -> None:
    mail = start_mail(vm=HOSTILE, vcenter=HOSTILE, export_format="ovf", started=examples.NOW, run=Run(HOSTILE))
    raw = to_message(mail, sender="a@example.com", recipients=["b@example.com"]).as_bytes().decode()
    assert not acts(mail.subject, allowed="")
    assert not any(line.startswith("verified=") for line in raw.splitlines())
    assert not acts("\n".join(table(("VM",), [(HOSTILE,)])))
