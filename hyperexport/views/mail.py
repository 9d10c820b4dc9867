"""The mails: what happened, first as one plain value, then as text and HTML of the same facts.

Pure functions of values, from the start of an export to the end of a fleet. Every word from outside is made one
harmless line here and escaped in the HTML. Nothing here knows a mail server; who sends, and by what, is not told.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, localtime, make_msgid
from enum import StrEnum
from typing import Final, NamedTuple

from hyperexport.base.text import one_line
from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.errors import HyperExportError, Interrupted
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.ownership import Run
from hyperexport.results import ExportResult, FailureReport
from hyperexport.views.failure import NOTHING_LEFT, failure_facts
from hyperexport.views.rendering import templates
from hyperexport.views.summary import damage_of, disk_rows, export_facts, what_to_look_at

_LONGEST: Final = 500
"""Characters of one text from outside: a VM's name has at most 80, an error some hundreds."""


class Tone(StrEnum):
    """How the news is; the HTML's colour."""

    NEWS = "news"
    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


class Section(NamedTuple):
    """A heading with a list below it."""

    title: str
    items: tuple[str, ...]


class Table(NamedTuple):
    """A heading with a table below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Mail(NamedTuple):
    """A mail before it has a sender: its subject, and the same facts twice."""

    subject: str
    text: str
    html: str


class FleetRow(NamedTuple):
    """How one VM of a fleet fared.

    Args:
        vm: Its name.
        outcome: ``exported``, ``failed``, ``skipped``.
        bytes: Transferred; None where nothing was.
        seconds: How long it took; None where it did not begin.
        message: Its error, or what to look at; empty where there is nothing to say.
        url: Its own run.
    """

    vm: str
    outcome: str
    bytes: int | None = None
    seconds: float | None = None
    message: str = ""
    url: str | None = None


def start_mail(*, vm: str, vcenter: str, export_format: str, started: datetime, run: Run) -> Mail:
    """Say that an export began."""
    facts = [("VM", vm), ("vCenter", vcenter), ("Format", export_format.upper()), ("Started", _time(started))]
    return _mail(f"Export of {_short(vm)} started", Tone.NEWS, "The export has begun.", facts, run=run)


def success_mail(result: ExportResult, manifest: ExportManifest, *, run: Run) -> Mail:
    """Say that an export is complete, with what it cost, what it saved and what to look at.

    Args:
        result: What the export did.
        manifest: Its manifest.
        run: The run.
    """
    vm = manifest.vm
    doubts = [*result.warnings, *damage_of(result)]
    moved = format_bytes(manifest.transfer.bytes_transferred)
    sentence = f"Complete in {format_elapsed(result.seconds)}, {moved} transferred"
    noted = {0: "", 1: ", with a warning"}.get(len(doubts), f", with {len(doubts)} warnings")
    return _mail(
        f"{vm.name} exported{noted}",
        Tone.DOUBTFUL if doubts else Tone.GOOD,
        f"{sentence}{noted}.",
        [
            ("VM", vm.path),
            ("vCenter", manifest.vcenter),
            ("Started", _time(manifest.started)),
            ("Duration", format_elapsed(result.seconds)),
            *export_facts(result, manifest),
            *(("Destination", place) for place in result.locations),
        ],
        Section("Warnings", tuple(doubts)),
        Table("Disks", ("Disk", "Decision", "Why", "Stored"), _disks(result, manifest)),
        Section("What to look at", tuple(what_to_look_at(result, manifest))),
        run=run,
    )


def _disks(result: ExportResult, manifest: ExportManifest) -> tuple[tuple[str, ...], ...]:
    rows = disk_rows(result.plan, manifest)
    return tuple((disk, decision, why, size) for disk, decision, why, _, size, _ in rows)


def facts_mail(
    subject: str, sentence: str, facts: Sequence[tuple[str, str]], *parts: Section | Table, tone: Tone, run: Run
) -> Mail:
    """Say that something was done, with facts about it.

    Args:
        subject: The mail's subject.
        sentence: Its first sentence.
        facts: What and how.
        parts: Lists and tables below.
        tone: How the news is.
        run: The run.
    """
    return _mail(subject, tone, sentence, list(facts), *parts, run=run)


def failure_mail(
    error: BaseException,
    *,
    vm: str,
    step: str | None,
    started: datetime,
    failed: datetime,
    cleaned_up: Sequence[str],
    stopped: bool,
    run: Run,
    what_failed: str = "Export",
) -> Mail:
    """Say that an export or a restore failed or was stopped: where, why, and that nothing was left behind.

    Args:
        error: What ended it.
        vm: The VM, by its path or as it was asked for.
        step: The step that failed.
        started: When the export began.
        failed: When it failed.
        cleaned_up: What was taken back; what could not be, too.
        stopped: Whether somebody stopped it, so that nothing is wrong.
        run: The run.
        what_failed: ``Export``, ``Restore``, ``Restore drill``.
    """
    report = FailureReport.of(error)
    if not isinstance(error, HyperExportError):  # its text was written for nobody, and might hold anything
        what = f"an unforeseen {type(error).__name__}; the run's log has its traceback"
        report = report.model_copy(update={"what": what})
    if stopped:
        what, fix = "the run was stopped from outside, by a cancellation or a signal", "Start it again when it suits"
        report = report.model_copy(update={"what": what, "fix": fix, "code": Interrupted.code})
    facts = [
        ("VM", vm),
        *failure_facts(report.model_copy(update={"step": step})),
        ("Started", _time(started)),
        ("Stopped" if stopped else "Failed", _time(failed)),
    ]
    took, ended = format_elapsed((failed - started).total_seconds()), "was stopped" if stopped else "failed"
    return _mail(
        f"{what_failed} of {_short(vm)} {'stopped' if stopped else 'FAILED'}",
        Tone.DOUBTFUL if stopped else Tone.BAD,
        f"The {what_failed.lower()} {ended} after {took}{f', in step {step}' if step else ''}.",
        facts,
        Section("Cleaned up", tuple(cleaned_up) or (NOTHING_LEFT,)),
        run=run,
    )


def fleet_mail(
    rows: Sequence[FleetRow],
    *,
    started: datetime,
    seconds: float,
    run: Run,
    redo: str | None = None,
    retry: str | None = None,
) -> Mail:
    """Say in one mail how all VMs of a fleet fared; what failed comes first.

    Args:
        rows: One for each VM.
        started: When the fleet run began.
        seconds: How long it took.
        run: The run.
        redo: The command that exports again only what failed.
        retry: How Prefect does that with one click, where it can.
    """
    failed = sum(row.outcome == "failed" for row in rows)
    ordered = sorted(rows, key=lambda row: row.outcome != "failed")
    exported = sum(row.outcome == "exported" for row in rows)
    words = f"{exported} of {len(rows)} VMs exported"
    if failed:
        words += f", {failed} FAILED"
    moved = format_bytes(sum(row.bytes or 0 for row in rows))
    return _mail(
        words,
        Tone.BAD if failed else Tone.GOOD,
        f"{words}, {moved} in {format_elapsed(seconds)}.",
        [("VMs", str(len(rows))), ("Transferred", moved), ("Started", _time(started))],
        Table("VMs", ("VM", "Outcome", "Transferred", "Duration", "Note"), tuple(_fleet_row(row) for row in ordered)),
        run=run,
        links={row.vm: row.url for row in rows if row.url},
        redo=redo,
        retry=retry,
    )


def _fleet_row(row: FleetRow) -> tuple[str, ...]:
    moved = "-" if row.bytes is None else format_bytes(row.bytes)
    took = "-" if row.seconds is None else format_elapsed(row.seconds)
    return row.vm, row.outcome.upper() if row.outcome == "failed" else row.outcome, moved, took, row.message


def probe_mail(*, sent: datetime, run: Run) -> Mail:
    """Say that mails arrive."""
    sentence = "This is a test. The recipients of this mail receive the results of exports."
    return _mail("Test of the notifications", Tone.GOOD, sentence, [("Sent", _time(sent))], run=run)


def notice_mail(subject: str, message: str, *, run: Run) -> Mail:
    """Say what an automation was told.

    Args:
        subject: What it is about.
        message: A sentence, and below it ``name: value`` lines; another line is a detail without a name.
        run: The run that sends it.
    """
    first, *lines = message.splitlines() or [""]
    facts = [(name, value) for name, colon, value in (line.partition(": ") for line in lines) if colon]
    others = tuple(line for line in lines if line.strip() and ": " not in line)
    return _mail(subject, Tone.DOUBTFUL, first, facts, Section("More", others), run=run)


def to_message(mail: Mail, *, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """Address a mail: text and HTML as alternatives (RFC 2046), marked as written by a program (RFC 3834).

    Raises:
        ValueError: An address is none; its line breaks, too, end here.
    """
    message = EmailMessage(policy=SMTP if "".join((sender, *recipients)).isascii() else SMTPUTF8)
    message["From"] = _address(sender, "HyperExport")
    message["To"] = [_address(recipient) for recipient in recipients]
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])  # not this machine's name, nor a DNS lookup
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    message.add_alternative(mail.html, subtype="html")
    return message


def _address(text: str, name: str = "") -> Address:
    """An address of RFC 6532, too: its local part may hold any letter, which ``addr_spec`` would refuse."""
    if text.isascii():
        return Address(name, addr_spec=text)
    user, _, domain = text.rpartition("@")
    return Address(name, username=user, domain=domain)


def _mail(
    subject: str,
    tone: Tone,
    sentence: str,
    facts: Sequence[tuple[str, str]],
    *parts: Section | Table,
    run: Run,
    links: Mapping[str, str] | None = None,
    redo: str | None = None,
    retry: str | None = None,
) -> Mail:
    """Put the same values into both templates.

    Args:
        subject: What it is about.
        tone: How the news is.
        sentence: What happened.
        facts: Names and values.
        parts: Lists and tables below them.
        run: The run.
        links: Where the first cell of a table's row leads, by its text.
        redo: A command, whole however long it is.
        retry: What to do in its place.
    """
    values = {
        "subject": brief_line(subject),
        "tone": tone.value,
        "sentence": brief_line(sentence),
        "facts": [(name, brief_line(value)) for name, value in (*facts, ("Run", run.name))],
        "tables": [_harmless(part) for part in parts if isinstance(part, Table) and part.rows],
        "sections": [
            (part.title, [brief_line(item) for item in part.items])
            for part in parts
            if isinstance(part, Section) and part.items
        ],
        "url": _web_address(run.url),
        "links": {brief_line(words): _web_address(url) for words, url in (links or {}).items()},
        "redo": one_line(redo) if redo else None,
        "retry": retry,
    }
    text, html = (templates().get_template(name).render(values) for name in ("mail.txt.j2", "mail.html.j2"))
    return Mail(f"HyperExport: {brief_line(subject)}", text, html)


def _web_address(url: str | None) -> str | None:
    return url if url and url.startswith(("http://", "https://")) else None


def _harmless(table: Table) -> Table:
    return table._replace(rows=tuple(tuple(brief_line(cell) for cell in row) for row in table.rows))


def brief_line(words: str) -> str:
    """Make one harmless line of a text from outside, no longer than anybody reads."""
    line = one_line(words[: 2 * _LONGEST])
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _short(path: str) -> str:
    """A VM's name out of its inventory path."""
    return path.rstrip("/").rpartition("/")[2] or path


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} {moment.tzname() or 'local time'}"
