"""The words of what watches over the exports: ``report``, ``metrics`` and ``automations``."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Group, Parameter

from hyperexport.base.units import parse_duration
from hyperexport.cli.flags import WHAT, Asked
from hyperexport.cli.request import Mode, Observing, Request
from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions

_METRICS: Final = Group("Where to", sort_key=1)
_WITHIN: Final = "26h"
_ACTIONS: Final = ("create", "list", "remove")


def report(
    asked: Asked,
    *,
    html: Annotated[
        Path | None, Parameter(metavar="FILE", group=WHAT, help="Also write one self-contained page with plots.")
    ] = None,
    rpo: Annotated[
        str,
        Parameter(metavar="DURATION", group=WHAT, help="How old the last good export may be. [default: 26h]"),
    ] = _WITHIN,
) -> Request:
    """Show how well each VM in the stores is protected: its last good export, its age, its proof, what is missing."""
    return asked.request(Mode.REPORT, observing=Observing(html=html, rpo=_duration("--rpo", rpo)))


def metrics(
    asked: Asked,
    *,
    listen: Annotated[
        str | None,
        Parameter(metavar="ADDRESS:PORT", group=_METRICS, help="Answer Prometheus there until stopped, such as :9108."),
    ] = None,
    textfile: Annotated[
        Path | None,
        Parameter(metavar="FILE", group=_METRICS, help="Write them once, for node_exporter's textfile collector."),
    ] = None,
) -> Request:
    """Tell Prometheus what the stores' manifests say; on standard output if nothing else is asked for."""
    if listen and textfile:
        raise UsageError("--listen and --textfile exclude each other", fix="Choose one")
    if textfile and textfile.suffix != ".prom":
        raise UsageError(f"--textfile: node_exporter reads no {textfile.name}", fix="Name it something.prom")
    observing = Observing(listen=_address(listen) if listen else None, textfile=textfile)
    return asked.request(Mode.METRICS, observing=observing)


def automations(
    asked: Asked,
    *words: Annotated[str, Parameter(name="ACTION", help="create, list or remove; list if none.")],
    within: Annotated[
        str,
        Parameter(
            metavar="DURATION",
            group=WHAT,
            help="After how long without a success of a VM to send a mail. [default: 26h]",
        ),
    ] = _WITHIN,
) -> Request:
    """Mind the Prefect automations that mail about a leaked snapshot, a damaged export, and a VM without a success.

    The mail's options are those of --email-notify; what is not given comes from the environment of the process that
    sends it, which hyperexport serve is.
    """
    action = words[0] if words else "list"
    if len(words) > 1 or action not in _ACTIONS:
        raise UsageError(f"{' '.join(words)!r} is nothing that automations do", fix="Say create, list or remove")
    if _duration("--within", within) < timedelta(minutes=1):
        raise UsageError(f"--within: {within} is too short", fix="Give at least 1m, such as 26h")
    if action != "create" and (asked.given or asked.profile):
        raise UsageError(f"automations {action} takes no options of a mail", fix="Leave them out")
    # Not checked together: what is missing here may be there where the mails are sent.
    options = ExportOptions.from_keys(asked.given)
    observing = Observing(action=action, within=_duration("--within", within))
    return asked.request(Mode.AUTOMATIONS, options=options, observing=observing)


def _duration(flag: str, text: str) -> timedelta:
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
    if not duration:
        raise UsageError(f"{flag}: {text} is no time at all", fix="Give one such as 26h")
    return duration


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"--listen: {text!r} is not of the form ADDRESS:PORT", fix="Write it as 127.0.0.1:9108")
    return host.strip("[]") or "127.0.0.1", int(port)
