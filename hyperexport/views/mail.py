"""The mails, each as text and as HTML of the same facts; a result's mail is made of its page.

Pure functions of values. Every text from outside becomes one line without control characters here, and is escaped in
the HTML. ``hyperexport/notify.py`` sends them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, localtime, make_msgid
from enum import StrEnum
from typing import Final, NamedTuple

from hyperexport.base.display import FACTS, Page, Table, lines, pages_of
from hyperexport.base.text import one_line
from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.errors import HyperExportError, Interrupted
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.ownership import Run
from hyperexport.results import ExportResult, FailureReport
from hyperexport.views.exports import damage_of
from hyperexport.views.failure import NOTHING_LEFT, failure_facts
from hyperexport.views.rendering import templates

_LONGEST: Final = 500
"""Characters of one text from outside: a VM's name has at most 80, an error some hundreds."""


class Tone(StrEnum):
    """How the news is; the HTML's colour."""

    NEWS = "news"
    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


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
    """Write the mail that an export starts."""
    facts = [("VM", vm), ("vCenter", vcenter), ("Format", export_format.upper()), ("Started", _time(started))]
    return _mail(f"Export of {_short(vm)} started", Tone.NEWS, "The export has started.", facts, run=run)


def success_mail(result: ExportResult, manifest: ExportManifest, *, run: Run) -> Mail:
    """Write the mail that an export is complete: what it cost, what it saved and what to look at.

    Args:
        result: What the export did.
        manifest: Its manifest.
        run: The run.
    """
    doubts = len(result.warnings) + len(damage_of(result))
    moved = format_bytes(manifest.transfer.bytes_transferred)
    noted = {0: "", 1: ", with a warning"}.get(doubts, f", with {doubts} warnings")
    return page_mail(
        f"{manifest.vm.name} exported{noted}",
        f"Complete in {format_elapsed(result.seconds)}, {moved} transferred{noted}.",
        pages_of(result)[0],
        tone=Tone.DOUBTFUL if doubts else Tone.GOOD,
        run=run,
    )


def page_mail(subject: str, sentence: str, page: Page, *, tone: Tone, run: Run) -> Mail:
    """Make a mail of the page of a result.

    Args:
        subject: The mail's subject.
        sentence: Its first sentence.
        page: The result's page. Its title is left out, the sentence says the same.
        tone: How the news is.
        run: The run.
    """
    facts = [(row[0], row[1]) for each in page.tables if each.columns == FACTS for row in each.rows]
    return _mail(subject, tone, sentence, facts, *(each for each in page.tables if each.columns != FACTS), run=run)


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
    """Write the mail that a job failed or was stopped: where, why, and what was cleaned up.

    Args:
        error: What ended it.
        vm: The VM, by its path or as it was asked for.
        step: The step that failed.
        started: When the export began.
        failed: When it failed.
        cleaned_up: What was taken back; what could not be, too.
        stopped: Whether it was stopped from outside, so that nothing is wrong.
        run: The run.
        what_failed: ``Export``, ``Restore``, ``Restore drill``.
    """
    report = FailureReport.of(error)
    if not isinstance(error, HyperExportError):  # its text is not meant for users, and may hold a secret
        what = f"an unexpected {type(error).__name__}; the run's log has its traceback"
        report = report.model_copy(update={"what": what})
    if stopped:
        what, fix = "the run was stopped from outside, by a cancellation or a signal", "Start it again at any time"
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
        *lines("Cleaned up", tuple(cleaned_up) or (NOTHING_LEFT,)),
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
    """Write the one mail for all VMs of a fleet; those that failed come first.

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
    """Write the test mail."""
    sentence = "This is a test. The recipients of this mail receive the results of exports."
    return _mail("Test of the notifications", Tone.GOOD, sentence, [("Sent", _time(sent))], run=run)


def notice_mail(subject: str, message: str, *, run: Run) -> Mail:
    """Write the mail of a Prefect automation. Its message is text: Prefect's notification blocks take nothing else.

    Args:
        subject: What it is about.
        message: A sentence, and below it ``name: value`` lines; another line is a detail without a name.
        run: The run that sends it.
    """
    first, *rest = message.splitlines() or [""]
    facts = [(name, value) for name, colon, value in (line.partition(": ") for line in rest) if colon]
    others = tuple(line for line in rest if line.strip() and ": " not in line)
    return _mail(subject, Tone.DOUBTFUL, first, facts, *lines("More", others), run=run)


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
    *parts: Table,
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
        "tables": [_harmless(part) for part in parts if part.columns and part.rows],
        "sections": [
            (part.title, [brief_line(cell) for row in part.rows for cell in row])
            for part in parts
            if not part.columns and part.rows
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
    """Make one short line without control characters of a text from outside."""
    line = one_line(words[: 2 * _LONGEST])
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _short(path: str) -> str:
    """A VM's name out of its inventory path."""
    return path.rstrip("/").rpartition("/")[2] or path


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} {moment.tzname() or 'local time'}"
