"""The options themselves, in groups: type, default, bounds, one line of help, unit.

Each is declared here, once. ``precedence.py`` decides how they reach the user, and which value wins.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, field_validator

from hyperexport.base.secrets import refuse_login
from hyperexport.base.units import MIB, Duration, parse_duration
from hyperexport.model.bandwidth_windows import Window, parse_window
from hyperexport.options.declaring import Format, Group, NbdkitPlugin, TransportChoice, VerifyMode, option, read_verify
from hyperexport.options.lists import Names, Windows, Words


class Destination(Group):
    """Where the export is stored."""

    output: Path = option(Path("exports"), "Local store folder", flag="--output", title="Local folder")
    format: Format = option(Format.OVF, "Package format: an OVF folder or a single OVA file", flag="--format")
    upload: str | None = option(
        None,
        "Also upload the export to S3 (s3://bucket/prefix)",
        flag="--upload",
        title="Upload to S3",
        pattern=r"^s3://[^/\s]+(/\S*)?$",
        examples=["s3://bucket/prefix"],
    )
    keep_local: bool = option(
        True, "Keep the local copy of an uploaded export", flag="--keep-local", title="Keep the local copy"
    )
    s3_endpoint: str | None = option(
        None,
        "S3 endpoint URL, for servers other than AWS",
        flag="--s3-endpoint",
        pattern=r"^https?://\S+$",
        examples=["https://minio.example.com:9000"],
    )
    s3_credentials: str | None = option(
        None,
        "Saved S3 credentials block: aws-credentials/NAME or minio-credentials/NAME (default: boto3's own chain)",
        flag="--s3-credentials",
        pattern=r"^(aws|minio)-credentials/[a-z0-9-]+$",
        examples=["aws-credentials/backups"],
    )

    def contradiction(self) -> str | None:
        """Require a place to keep the export."""
        if not self.keep_local and self.upload is None:
            return "--no-keep-local needs --upload: without either, nothing would be kept"
        if not self.keep_local and self.format is Format.OVA:
            return (
                "an OVA cannot be streamed to S3 without a local copy: its first bytes give the sizes of its last. "
                "Use --format ovf, or keep the local copy"
            )
        return None

    @field_validator("s3_endpoint")
    @classmethod
    def _no_login(cls, value: str | None) -> str | None:
        return refuse_login(value)

    @field_validator("upload")
    @classmethod
    def _no_login_before_the_bucket(cls, value: str | None) -> str | None:
        bucket = value.removeprefix("s3://").partition("/")[0] if value else ""
        return refuse_login(value) if {":", "@"} & set(bucket) else value


class Snapshot(Group):
    """The snapshot that a running VM is exported from."""

    take: bool = option(
        False, "Export from a temporary snapshot; required for a running VM", flag="--snapshot", title="Take a snapshot"
    )
    delete: bool | None = option(
        None,
        "Remove the snapshot after the export, even if it fails (default: yes; no with --keep-snapshots)",
        flag="--delete-snapshot",
        title="Remove the snapshot afterwards",
    )
    name: str | None = option(
        None,
        "Snapshot name (default: hyperexport- and the UTC time)",
        flag="--snapshot-name",
        title="Snapshot name",
        min_length=1,
        max_length=80,
    )
    memory: bool = option(
        False,
        "Include the VM's memory; cannot be combined with quiescing",
        flag="--snapshot-memory",
        title="Include the memory",
    )
    quiesce: bool | None = option(
        None, "Quiesce the guest's file systems (default: yes; no with --snapshot-memory)", flag="--snapshot-quiesce"
    )
    quiesce_required: bool = option(
        False,
        "Fail if the guest cannot be quiesced, instead of taking a crash-consistent snapshot",
        flag="--quiesce-required",
    )
    keep: int = option(
        0,
        "Keep the N newest snapshots created by this tool (0: no limit)",
        flag="--keep-snapshots",
        title="Snapshots to keep",
        ge=0,
        le=30,
    )
    consolidate: bool = option(
        False,
        "Merge all snapshots into the base disks after the export; removes every snapshot of the VM",
        flag="--consolidate-snapshots",
        title="Consolidate afterwards",
    )

    def contradiction(self) -> str | None:
        """Memory excludes quiescing."""
        if self.memory and (self.quiesce or self.quiesce_required):
            return "a snapshot has the VM's memory or a quiesced filesystem, not both"
        if self.quiesce is False and self.quiesce_required:
            return "--quiesce-required contradicts --no-snapshot-quiesce"
        return None

    @property
    def quiesces(self) -> bool:
        """Whether quiescing is wanted, with the default worked out."""
        return not self.memory if self.quiesce is None else self.quiesce

    @property
    def deletes(self) -> bool:
        """Whether the snapshot is removed afterwards, with the default worked out."""
        return self.keep == 0 if self.delete is None else self.delete


class Bandwidth(Group):
    """Bandwidth limits of the run."""

    limit: float = option(
        0,
        "Limit this run, all disks and uploads together (default: no limit)",
        flag="--bandwidth-limit",
        unit="MB/s",
        ge=0,
        le=100_000,
    )
    burst: float | None = option(
        None,
        "Burst allowed at the start and after a pause (default: 2 s of the limit)",
        flag="--bandwidth-burst",
        unit="MB",
        gt=0,
        le=1_000_000,
    )
    adaptive: bool = option(
        False,
        "Slow down when transfers fail or latency rises, then recover up to the limit",
        flag="--adaptive-bandwidth",
    )
    window: Windows = option(
        (),
        "Limit for times of the week, in local time; =0 means no limit, the first match wins",
        flag="--bandwidth-window",
        title="Limits by time",
        unit="MB/s",
        examples=["mon-fri 08:00-18:00=5"],
    )
    shared: str | None = option(
        None,
        "Share a bandwidth budget with all runs of this name: a Prefect global concurrency limit, one slot per MB. "
        "Created with --bandwidth-limit MB/s if it does not exist",
        flag="--bandwidth-shared",
        title="Shared budget",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$",
        examples=["wan-link"],
    )

    @field_validator("window")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_window(text)
        return value

    @property
    def windows(self) -> tuple[Window, ...]:
        """When another limit holds."""
        return tuple(parse_window(text) for text in self.window)

    @property
    def bytes_per_second(self) -> float | None:
        """The limit in bytes per second; None without one."""
        return self.limit * MIB if self.limit else None

    @property
    def burst_bytes(self) -> int | None:
        """The burst in bytes; None for the default."""
        return None if self.burst is None else int(self.burst * MIB)

    def contradiction(self) -> str | None:
        """A burst is one of a limit."""
        limited = self.limit or any(window.limit for window in self.windows)
        return "--bandwidth-burst needs --bandwidth-limit" if self.burst is not None and not limited else None


class Incremental(Group):
    """Incremental exports."""

    enabled: bool = option(
        False,
        "Transfer and store only what changed since the last export",
        flag="--incremental",
        title="Incremental export",
    )
    force_full: bool = option(False, "Transfer every disk, even with --incremental", flag="--force-full")
    full_after: Duration = option(
        parse_duration("30d"),
        "Make a full export when the last one is older than this",
        flag="--full-after",
        title="Full export after",
    )
    max_chain: int = option(
        30,
        "Store changed disks as deltas, at most N on a whole disk; then the disk is stored whole (0: always whole)",
        flag="--max-chain",
        ge=0,
        le=200,
    )
    synthetic_full: bool = option(
        False,
        "Store every disk whole: from the store's own grains, reading only what changed where a transport can",
        flag="--synthetic-full",
    )
    enable_tracking: bool = option(
        False,
        "Enable change tracking (CBT) where it is off; changes the VM's configuration",
        flag="--enable-change-tracking",
        title="Enable change tracking",
    )
    transport: TransportChoice = option(
        TransportChoice.AUTO,
        "How changed blocks are read: in ranges (datastore, nbdkit) or out of the whole stream (lease)",
        flag="--transport",
    )
    nbdkit_plugin: NbdkitPlugin = option(
        NbdkitPlugin.NONE,
        "Plugin of this machine's nbdkit that reads ranges of disks (default: none; vddk with --transport nbdkit)",
        flag="--nbdkit-plugin",
        title="Plugin of nbdkit",
    )
    transport_sample: float = option(
        0.1,
        "Share of the blocks reported as unchanged that is read again and compared with the store, at least 16 blocks",
        flag="--transport-sample",
        unit="%",
        ge=0,
        le=100,
    )

    def contradiction(self) -> str | None:
        """A range transport reads what changed since a base."""
        if self.transport in {TransportChoice.AUTO, TransportChoice.LEASE} or self.enabled:
            return None
        return f"--transport {self.transport} needs --incremental: it reads only the blocks of a disk that changed"

    @property
    def plugin(self) -> Literal["vddk", "nfc"] | None:
        """The plugin in force, with the default worked out; None where nbdkit is not to be used."""
        if self.nbdkit_plugin is NbdkitPlugin.NONE:
            return "vddk" if self.transport is TransportChoice.NBDKIT else None
        return "nfc" if self.nbdkit_plugin is NbdkitPlugin.NFC else "vddk"


class Cleanup(Group):
    """Which old exports are deleted."""

    enabled: bool = option(
        False, "Delete old exports; with --vm, after its export", flag="--cleanup", title="Delete old exports"
    )
    max_age: Duration | None = option(
        None,
        "Delete exports older than this (default: 720h if no other limit is given; 0: no limit)",
        flag="--cleanup-max-age",
        title="Maximum age",
    )
    max_count: int = option(
        0,
        "Keep at most N exports per VM (0: no limit)",
        flag="--cleanup-max-count",
        title="Exports to keep per VM",
        ge=0,
    )
    max_size: int = option(
        0,
        "Delete the oldest exports while the store is larger than this (0: no limit)",
        flag="--cleanup-max-size",
        title="Maximum size of the store",
        unit="bytes",
        ge=0,
    )
    min_free: int = option(
        0,
        "Delete the oldest exports until this much space is free (0: no limit)",
        flag="--cleanup-min-free",
        title="Free space to keep",
        unit="bytes",
        ge=0,
    )
    keep_daily: int = option(
        0,
        "Never delete the newest export of each of the last N days with exports, per VM (0: no rule)",
        flag="--cleanup-keep-daily",
        ge=0,
    )
    keep_weekly: int = option(0, "The same for the last N weeks (0: no rule)", flag="--cleanup-keep-weekly", ge=0)
    keep_monthly: int = option(0, "The same for the last N months (0: no rule)", flag="--cleanup-keep-monthly", ge=0)
    keep_yearly: int = option(0, "The same for the last N years (0: no rule)", flag="--cleanup-keep-yearly", ge=0)
    preserve: Names = option(
        (),
        "Never delete exports whose VM name, path or id matches this pattern (* and ?); repeatable",
        flag="--cleanup-preserve",
    )
    trust_clock: bool = option(
        False,
        "Trust this machine's clock, even if another clock or an export contradicts it or none confirms it",
        flag="--cleanup-trust-clock",
    )
    dry_run: bool = option(
        False,
        "Print what would be deleted and delete nothing; implies --cleanup",
        flag="--cleanup-dry-run",
        title="Dry run",
    )

    @property
    def wanted(self) -> bool:
        """Whether old exports are looked at: to ask what a cleanup would delete is to ask for one."""
        return self.enabled or self.dry_run


class EmailTls(StrEnum):
    """How the connection to the SMTP server is protected."""

    STARTTLS = "starttls"
    SSL = "ssl"
    NONE = "none"


_CUSTOMARY_PORT: Final = {EmailTls.STARTTLS: 587, EmailTls.SSL: 465, EmailTls.NONE: 25}
_ADDRESS: Final = re.compile(r"[^@\s,;<>\x00-\x1f]+@[^@\s,;<>\x00-\x1f]+")
_BLOCK: Final = re.compile(r"[a-z0-9-]+/[a-z0-9-]+")


class Email(Group):
    """Email and chat notifications. Passwords are not options: name a saved block."""

    notify: bool = option(False, "Email the result of each export", flag="--email-notify", title="Send email")
    smtp_host: str | None = option(
        None,
        "SMTP server host name",
        flag="--email-smtp-host",
        pattern=r"^[^\s/@:]+$|^[0-9a-fA-F:]+$",
        examples=["smtp.example.com"],
    )
    smtp_port: int | None = option(
        None,
        "SMTP port (default: 587; 465 with --email-tls ssl, 25 with --email-tls none)",
        flag="--email-smtp-port",
        ge=1,
        le=65_535,
    )
    tls: EmailTls = option(
        EmailTls.STARTTLS,
        "Connection security; certificates are always verified",
        flag="--email-tls",
        title="Connection security",
    )
    username: str | None = option(
        None,
        "SMTP user name (default: no login); the password comes from HYPEREXPORT_EMAIL_PASSWORD",
        flag="--email-username",
        title="User name",
        min_length=1,
    )
    credentials: str | None = option(
        None,
        "Saved Email Server Credentials block with server and login; recommended for scheduled runs",
        flag="--email-credentials",
        title="Saved credentials",
        pattern=r"^[a-z0-9-]+$",
        examples=["backup-mail"],
    )
    sender: str | None = option(
        None,
        "Sender address (default: --email-username if it is an address)",
        flag="--email-from",
        title="Sender",
        pattern=f"^{_ADDRESS.pattern}$",
        examples=["backup@example.com"],
    )
    to: Words = option(
        (),
        "Recipient addresses, separated by commas",
        flag="--email-to",
        title="Recipients",
        examples=["admin@example.com,ops@example.com"],
    )
    on_start: bool = option(False, "Email when an export starts", flag="--email-on-start")
    on_complete: bool = option(True, "Email when an export completes", flag="--email-on-complete")
    on_failure: bool = option(True, "Email when an export fails", flag="--email-on-failure")
    webhooks: Words = option(
        (),
        "Saved notification block to send the same messages to, such as slack-webhook/NAME; repeatable",
        flag="--notify-webhook",
        title="Notification blocks",
        examples=["slack-webhook/backups"],
    )

    @field_validator("to")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ADDRESS.fullmatch(word) for word in value):
            raise ValueError("these are not all addresses such as admin@example.com")
        return value

    @field_validator("webhooks")
    @classmethod
    def _blocks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_BLOCK.fullmatch(word) for word in value):
            raise ValueError("these are not all of the form slack-webhook/NAME")
        return value

    def contradiction(self) -> str | None:
        """A saved password is sent only to the server that it was saved for."""
        server = self.smtp_host or self.smtp_port or self.username or self.tls is not EmailTls.STARTTLS
        if self.credentials and server:
            return (
                "--email-credentials names the server and the login: "
                "leave out --email-smtp-host, --email-smtp-port, --email-tls and --email-username"
            )
        return None

    @property
    def port(self) -> int:
        """The port, with the default worked out."""
        return self.smtp_port or _CUSTOMARY_PORT[self.tls]


class Execution(Group):
    """How the run is carried out."""

    verify: Annotated[VerifyMode, BeforeValidator(read_verify)] = option(
        VerifyMode.OFF,
        "Read the stored export back and verify it; 'deep' also downloads it from S3",
        flag="--verify",
    )
    dry_run: bool = option(False, "Print what would be done and change nothing", flag="--dry-run")
    parallel: int = option(
        4, "Disks to transfer in parallel", flag="--parallel", title="Disks in parallel", ge=1, le=16
    )
    leases_per_host: int = option(
        0,
        "Limit NFC leases per ESXi host across all runs and workers with a Prefect global concurrency limit for "
        "each host (0: no limit)",
        flag="--leases-per-host",
        ge=0,
        le=50,
    )
    leases_per_vcenter: int = option(
        0,
        "Limit NFC leases per vCenter across all runs and workers (0: no limit)",
        flag="--leases-per-vcenter",
        ge=0,
        le=500,
    )


class Fleet(Group):
    """Exports of several VMs."""

    max_vms: int = option(4, "VMs to export in parallel", flag="--max-vms", title="VMs in parallel", ge=1, le=200)
    max_per_host: int = option(
        4,
        "VMs to export in parallel on one ESXi host",
        flag="--max-per-host",
        title="VMs in parallel per host",
        ge=1,
        le=32,
    )
    max_per_datastore: int = option(
        4,
        "VMs to export in parallel on one datastore",
        flag="--max-per-datastore",
        title="VMs in parallel per datastore",
        ge=1,
        le=32,
    )
    skip_newer_than: Duration | None = option(
        None, "Skip VMs whose newest complete export is newer than this", flag="--skip-newer-than"
    )
    spread: bool = option(
        False,
        "Distribute the VMs over all workers instead of exporting them in this process; needs workers "
        "(hyperexport serve) that can reach the store",
        flag="--spread",
        title="Spread over workers",
    )
