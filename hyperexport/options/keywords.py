"""The options as keyword arguments: what ``export("db01", snapshot=True)`` takes, for editors and type checkers.

Written by hand, because a type checker reads no program; a test holds it against the options model
(``tests/unit/test_keywords.py``).
"""

import inspect
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, cast, get_args

from hyperexport.model.restore import Identity, Provisioning
from hyperexport.options.declaring import Format, NbdkitPlugin, TransportChoice, VerifyMode
from hyperexport.options.groups import EmailTls

F = TypeVar("F", bound=Callable[..., Any])

_Names = str | Sequence[str]
_Time = timedelta | str


class DestinationKeywords(TypedDict, total=False):
    """Where exports are stored."""

    output: Path | str
    format: Format | Literal["ovf", "ova"]
    upload: str | None
    keep_local: bool
    s3_endpoint: str | None
    s3_credentials: str | None


class SnapshotKeywords(TypedDict, total=False):
    """The snapshot of a running VM."""

    snapshot: bool
    delete_snapshot: bool | None
    snapshot_name: str | None
    snapshot_memory: bool
    snapshot_quiesce: bool | None
    quiesce_required: bool
    keep_snapshots: int
    consolidate_snapshots: bool


class IncrementalKeywords(TypedDict, total=False):
    """Incremental exports."""

    incremental: bool
    force_full: bool
    full_after: _Time
    max_chain: int
    synthetic_full: bool
    enable_change_tracking: bool
    transport: TransportChoice | Literal["auto", "lease", "datastore", "nbdkit"]
    nbdkit_plugin: NbdkitPlugin | Literal["none", "vddk", "nfc"]
    transport_sample: float


class BandwidthKeywords(TypedDict, total=False):
    """Bandwidth limits."""

    bandwidth_limit: float
    bandwidth_burst: float | None
    adaptive_bandwidth: bool
    bandwidth_window: _Names
    bandwidth_shared: str | None


class ExecutionKeywords(TypedDict, total=False):
    """How the run is carried out."""

    verify: VerifyMode | bool | Literal["off", "on", "deep"]
    dry_run: bool
    parallel: int
    leases_per_host: int
    leases_per_vcenter: int


class CleanupKeywords(TypedDict, total=False):
    """Which old exports are deleted."""

    cleanup: bool
    cleanup_max_age: _Time | None
    cleanup_max_count: int
    cleanup_max_size: int
    cleanup_min_free: int
    cleanup_keep_daily: int
    cleanup_keep_weekly: int
    cleanup_keep_monthly: int
    cleanup_keep_yearly: int
    cleanup_preserve: _Names
    cleanup_trust_clock: bool
    cleanup_dry_run: bool


class EmailKeywords(TypedDict, total=False):
    """Email and chat notifications."""

    email_notify: bool
    email_smtp_host: str | None
    email_smtp_port: int | None
    email_tls: EmailTls | Literal["starttls", "ssl", "none"]
    email_username: str | None
    email_credentials: str | None
    email_from: str | None
    email_to: _Names
    email_on_start: bool
    email_on_complete: bool
    email_on_failure: bool
    notify_webhook: _Names


class FleetKeywords(TypedDict, total=False):
    """Exports of several VMs."""

    max_vms: int
    max_per_host: int
    max_per_datastore: int
    skip_newer_than: _Time | None
    spread: bool


class OptionKeywords(
    DestinationKeywords,
    SnapshotKeywords,
    IncrementalKeywords,
    BandwidthKeywords,
    ExecutionKeywords,
    CleanupKeywords,
    EmailKeywords,
    FleetKeywords,
    total=False,
):
    """Every option of an export by its key: its flag without the dashes."""


class SelectionKeywords(TypedDict, total=False):
    """Which VMs: by name, folder, tag or pattern."""

    vm: _Names
    folder: _Names
    tag: _Names
    match: _Names


class ChosenKeywords(OptionKeywords, SelectionKeywords, total=False):
    """Which VMs, and every option of their exports."""


class _RestoreFields(TypedDict, total=False):
    """The fields of RestoreRequest that no option has the name of."""

    name: str | None
    folder: str | None
    resource_pool: str | None
    host: str | None
    datastore: str | None
    networks: _Names
    disk_provisioning: Provisioning | Literal["thin", "thick", "eager"] | None
    identity: Identity | Literal["new", "keep"] | None
    attach_to: str | None
    power_on: bool


class RestoreKeywords(OptionKeywords, _RestoreFields, total=False):
    """What is to become of an export in vSphere, and every option; ``verify`` is the restore's own."""

    disks: Sequence[int]


class _Default:
    """What a signature shows for a keyword that the environment or the default decides."""

    def __repr__(self) -> str:
        return "..."


def lists_keywords(function: F) -> F:
    """Let a function's signature list the keywords that it takes as ``Unpack[...]``, for notebooks to complete.

    Type checkers and editors read ``Unpack`` themselves; IPython completes only what ``inspect.signature`` lists.
    """
    signature = inspect.signature(function)
    *named, gathered = signature.parameters.values()
    (typed,) = get_args(gathered.annotation)
    listed = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_Default(), annotation=annotation)
        for name, annotation in typed.__annotations__.items()
        if name not in signature.parameters
    ]
    cast("Any", function).__signature__ = signature.replace(parameters=[*named, *listed])
    return function
