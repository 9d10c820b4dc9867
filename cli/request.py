"""A command line, understood: what is asked for, of what, and how it is answered. Plain values; parses nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from hyperexport.errors import UsageError
from hyperexport.model.restore_point import RestorePoint
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection


class Mode(StrEnum):
    """What is asked for."""

    EXPORT = "export"
    VM_INFO = "vm-info"
    INCREMENTAL_INFO = "incremental-info"
    CLEANUP = "cleanup"
    VERIFY = "verify"
    LIST = "list"
    REAP_SNAPSHOTS = "reap-snapshots"
    PRESERVE = "preserve"
    CONFIG = "config"
    SAVE_PROFILE = "save-profile"
    LIST_PROFILES = "list-profiles"
    SHOW_PROFILE = "show-profile"
    DELETE_PROFILE = "delete-profile"
    SEND_TEST_EMAIL = "send-test-email"
    CHECK = "check"
    SCHEDULE = "schedule"
    SCHEDULES = "schedules"
    SERVE = "serve"
    SIMULATE = "simulate"
    REPORT = "report"
    METRICS = "metrics"
    AUTOMATIONS = "automations"
    CONVERT = "convert"
    NBD = "nbd"
    FILES = "files"


class Face(StrEnum):
    """How it is answered."""

    PRETTY = "pretty"
    QUIET = "quiet"
    JSON = "json"


@dataclass(frozen=True)
class Scheduling:
    """What is to be scheduled, or done to a schedule.

    Args:
        daemon: ``name:CRON`` of a scheduled export.
        cleanup: The interval of a scheduled cleanup.
        timezone: The cron line's time zone; this machine's if None.
        action: ``pause``, ``resume`` or ``remove``; None only lists.
        name: The schedule that is meant.
    """

    daemon: str | None = None
    cleanup: str | None = None
    timezone: str | None = None
    action: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Serving:
    """How ``hyperexport serve`` serves.

    Args:
        limit: How many runs there may be at a time.
        api_port: The jobs API's port; None for no jobs API.
        api_host: The address that it listens on.
        prefect_port: The port of the Prefect server, where none is configured.
        api_output_roots: The folders and S3 prefixes below which jobs may write; the service's own stores if empty.
    """

    limit: int
    api_port: int | None
    api_host: str
    prefect_port: int
    api_output_roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observing:
    """How the exports are watched over.

    Args:
        html: Where the report's page is written.
        rpo: How old the last good export of a VM may be.
        listen: The address and port at which the metrics are told.
        textfile: Where the metrics are written.
        action: ``create``, ``list`` or ``remove`` automations.
        within: How long a VM may be without a success before a mail is sent.
    """

    html: Path | None = None
    rpo: timedelta = timedelta(hours=26)
    listen: tuple[str, int] | None = None
    textfile: Path | None = None
    action: str | None = None
    within: timedelta = timedelta(hours=26)


@dataclass(frozen=True)
class Reading:
    """What is done with one export that is read back.

    Args:
        wanted: Which export.
        disks: Only the disks with these numbers; all if empty.
        to: The format that it is converted to.
        into: The folder for what is written.
        libvirt: Also write a libvirt domain definition.
        socket: The Unix socket to serve NBD on.
        port: The TCP port to serve NBD on, in place of a socket; 0 for any that is free.
        path: The folder or file of the guest to list; its volumes if None.
        get: Files and folders of the guest to extract.
    """

    wanted: RestorePoint
    disks: tuple[int, ...] = ()
    to: str | None = None
    into: Path | None = None
    libvirt: bool = False
    socket: Path | None = None
    port: int | None = None
    path: str | None = None
    get: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """A command line, understood.

    Args:
        mode: What is asked for.
        selection: The VMs that are meant, from the command line or else the environment.
        exports: Exports to verify, or to preserve.
        runs: Runs that the user says are over.
        options: What was given on the command line; the rest is not set.
        face: How it is answered.
        debug: Show tracebacks and every decision.
        no_prefect: Run in this process, whatever Prefect API there is.
        vsphere: The saved block with the server and the login, if one was named.
        email_password: The mail server's password, which is no option: options are stored.
        profile: The saved profile to use, to show or to delete.
        save_profile: The name to save the options under.
        preserving: Whether exports get the mark of preservation or lose it.
        simulation: The simulator's own arguments.
        scheduling: What is to be scheduled, or done to a schedule.
        serving: How to serve.
        observing: How the exports are watched over.
        reading: What is done with one export that is read back.
    """

    mode: Mode
    selection: Selection = field(default_factory=Selection)
    exports: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    options: ExportOptions = field(default_factory=ExportOptions)
    face: Face = Face.PRETTY
    debug: bool = False
    no_prefect: bool = False
    vsphere: str | None = None
    email_password: SecretStr | None = None
    profile: str | None = None
    save_profile: str | None = None
    preserving: bool = True
    simulation: Mapping[str, Any] | None = None
    scheduling: Scheduling | None = None
    serving: Serving | None = None
    observing: Observing | None = None
    reading: Reading | None = None

    @property
    def vms(self) -> tuple[str, ...]:
        """The VMs that are named one by one."""
        return self.selection.vm


def face_of(*, quiet: bool, json: bool) -> Face:
    """Tell in which form to answer."""
    if quiet and json:
        raise UsageError("--quiet and --json exclude each other", fix="Choose one form of output")
    return Face.QUIET if quiet else Face.JSON if json else Face.PRETTY
