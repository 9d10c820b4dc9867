"""What a run says when it is over: plain values for a terminal, an artifact, a mail, a notebook."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import Field

from hyperexport.base.text import sentences
from hyperexport.base.units import format_age, format_bytes
from hyperexport.errors import HyperExportError, cleaned_up, failed_step
from hyperexport.model.drill import DrillRecord
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.restore import RestorePlan
from hyperexport.model.vm import Value, VmRef
from hyperexport.policy.change_tracking import TrackingPlan
from hyperexport.policy.cleanup_candidates import Incoming
from hyperexport.policy.export_plan import ExportPlan
from hyperexport.policy.retention import CleanupPlan
from hyperexport.policy.snapshots import SnapshotPlan, SnapshotState, TaggedSnapshot
from hyperexport.verify.findings import Verification


class CleanupResult(Value):
    """What a cleanup deleted, or in a dry run would delete."""

    store: str = Field(description="The store, as a person names it.")
    dry_run: bool
    plan: CleanupPlan
    deleted: tuple[str, ...] = Field(default=(), description="<vm folder>/<export id> of each export that is gone.")
    failed: tuple[str, ...] = Field(default=(), description="What could not be deleted, each with its reason.")
    deferred: tuple[str, ...] = Field(
        default=(), description="What stays until a later cleanup because of what others do, each with its reason."
    )
    freed_bytes: int = Field(
        default=0, description="What the stores say became free: no links elsewhere, no older versions. 0 in a dry run."
    )
    abandoned: tuple[str, ...] = Field(
        default=(), description="Half-written exports of dead runs, removed too, or in a dry run to be."
    )

    @property
    def freed_words(self) -> str:
        """What is free again, as it was observed; in a dry run, as it is planned. In words."""
        if self.dry_run:
            return f"{format_bytes(self.plan.freed_bytes)} to be freed"
        less = self.plan.freed_bytes - self.freed_bytes
        kept = f" ({format_bytes(less)} less than planned: still there, linked or kept as older versions)"
        whole = not (self.failed or self.deferred)
        return f"{format_bytes(self.freed_bytes)} freed{kept if less > 0 and whole else ''}"


class ExportResult(Value):
    """What an export did, or in a dry run would do."""

    dry_run: bool
    plan: ExportPlan
    manifest: ExportManifest | None = Field(default=None, description="None in a dry run.")
    locations: tuple[str, ...] = Field(default=(), description="Where the export is, primary store first.")
    snapshots: SnapshotPlan = Field(default=SnapshotPlan(), description="What became of the VM's snapshots.")
    snapshot_kept: bool = Field(default=False, description="Whether the snapshot was left on the VM on purpose.")
    tracking: TrackingPlan = Field(default=TrackingPlan(), description="Whether change tracking was switched on.")
    verifications: tuple[Verification, ...] = Field(default=(), description="One for each store, with --verify.")
    cleanups: tuple[CleanupResult, ...] = Field(default=(), description="One for each store, with --cleanup.")
    incoming: tuple[Incoming, ...] = Field(
        default=(), exclude=True, repr=False, description="Dry run: what each store would get, for a fleet's cleanup."
    )
    recent: str | None = Field(
        default=None, description="The export that is young enough, so that none was made, with --skip-newer-than."
    )
    warnings: tuple[str, ...] = Field(default=(), description="The manifest's, and what failed after it.")
    seconds: float = Field(description="From the first request to the last step.")

    @property
    def verified(self) -> bool | None:
        """Whether everything stored was proved; None where it was not requested."""
        return all(found.ok for found in self.verifications) if self.verifications else None

    @property
    def moved_bytes(self) -> int:
        """What was read from vSphere, or in a dry run is expected to be, in bytes."""
        return self.manifest.transfer.bytes_transferred if self.manifest else self.plan.transfer_bytes

    @property
    def saved_bytes(self) -> int:
        """How much less that is than a full export reads, about, in bytes."""
        return self.manifest.transfer.bytes_reused if self.manifest else self.plan.saved_bytes


class ReapedSnapshot(Value):
    """A snapshot that this tool made, and what was done about it."""

    found: TaggedSnapshot
    action: str = Field(description="removed, would be removed, left alone, or NOT REMOVED with the reason.")
    problem: str | None = Field(default=None, description="Why it could not be removed, where that failed.")

    @property
    def age(self) -> timedelta:
        """The age of the snapshot, by the vSphere server's time of creation and this machine's clock."""
        return datetime.now(UTC) - self.found.snapshot.created

    def row(self) -> dict[str, object]:
        """A row of a table."""
        found = self.found
        return {
            "VM": found.vm.path,
            "Snapshot": found.snapshot.name,
            "Age": format_age(self.age),
            "Run": found.owner.run,
            "Machine": found.owner.host,
            "State": str(found.state),
            "Action": self.action,
        }


class ReapResult(Value):
    """What dead runs left, and what was done about it, or in a dry run would be."""

    dry_run: bool
    vcenter: str
    snapshots: tuple[ReapedSnapshot, ...] = Field(default=(), description="Those with an owner tag, by VM.")
    vms: tuple[str, ...] = Field(default=(), description="Half-made VMs of dead restores, by their paths.")
    stagings: tuple[str, ...] = Field(default=(), description="Half-written exports of dead runs, with their store.")
    failed: tuple[str, ...] = Field(default=(), description="What could not be removed, each with its reason.")

    def having(self, state: SnapshotState) -> tuple[ReapedSnapshot, ...]:
        """The snapshots in one state."""
        return tuple(item for item in self.snapshots if item.found.state is state)


class VerifiedExport(Value):
    """One export of a store, and what its verification found."""

    location: str
    verification: Verification
    deleted: bool = Field(default=False, description="Another run deleted it before it was verified, or meanwhile.")

    @property
    def words(self) -> str:
        """What came out, in a word or two."""
        return "deleted meanwhile" if self.deleted else "verified" if self.verification.ok else "DAMAGED"


class DrillResult(Value):
    """What came of one restore drill."""

    location: str
    vm: VmRef
    platform: str = Field(description="What it ran on, in words.")
    dry_run: bool = False
    record: DrillRecord | None = Field(default=None, description="None in a dry run, and where it could not begin.")
    problem: str | None = Field(default=None, description="Why it could not begin; nothing is proved either way.")
    unrecorded: str | None = Field(default=None, description="Why the record is not beside the export.")
    plan: RestorePlan | None = Field(default=None, description="In vSphere: the VM that is made, in a dry run only.")
    leaked: str | None = Field(default=None, description="In vSphere: why the VM that was made is still there.")

    @property
    def failed(self) -> bool:
        """Whether the guest did not come up, or could not be tried, or the VM that was made is still there."""
        if self.problem is not None or self.leaked is not None:
            return True
        return self.record is not None and not self.record.passed

    @property
    def words(self) -> str:
        """The result of the drill, in words."""
        if self.record is None:
            return self.problem or f"would be started on {self.platform}"
        left = f"; NOT REMOVED: {self.leaked}" if self.leaked else ""
        return f"{'passed' if self.record.passed else 'FAILED'}: {self.record.reason}{left}"


class FleetOutcome(StrEnum):
    """How one VM of a fleet fared."""

    EXPORTED = "exported"
    PLANNED = "planned"
    SKIPPED = "skipped"
    FAILED = "failed"
    STOPPED = "stopped"


class FailureReport(Value):
    """Why a job failed, as data: for its fleet, its mail, its event."""

    step: str | None = Field(default=None, description="The step that failed; None before the first.")
    code: str = Field(description="The stable name of the error.")
    what: str = Field(description="What failed, on what, and why, as one sentence without a full stop.")
    fix: str | None = Field(default=None, description="What to do about it.")
    cleaned_up: tuple[str, ...] = Field(default=(), description="What was cleaned up, and what could not be.")

    @classmethod
    def of(cls, error: BaseException) -> "FailureReport":
        """Describe an error. The text of an unexpected one may hold a secret, and is left out."""
        step, cleaned = failed_step(error), cleaned_up(error)
        if isinstance(error, HyperExportError):
            return cls(step=step, code=error.code, what=error.what, fix=error.fix, cleaned_up=cleaned)
        what = f"unexpected {type(error).__name__}"
        return cls(step=step, code="internal", what=what, cleaned_up=cleaned)

    def __str__(self) -> str:
        return sentences(self.what, self.fix) if self.fix else self.what


class FleetMember(Value):
    """One VM of a fleet, and what came of it."""

    vm: VmRef
    outcome: FleetOutcome
    result: ExportResult | None = Field(default=None, description="What its export did, or in a dry run would do.")
    code: str | None = Field(default=None, description="The stable name of the error, where it failed.")
    message: str = Field(default="", description="Its error, its warnings, or why it was left out.")
    failure: FailureReport | None = Field(default=None, description="Why it failed, or was stopped.")
    seconds: float | None = Field(default=None, description="None where its export did not begin.")
    url: str | None = Field(default=None, description="The VM's own run in the Prefect UI, where there is one.")

    @property
    def failed(self) -> bool:
        """Whether it has to be exported again."""
        return self.outcome in (FleetOutcome.FAILED, FleetOutcome.STOPPED)

    @property
    def moved(self) -> int | None:
        """Bytes transferred, or in a dry run expected; None where there is no export."""
        return self.result.moved_bytes if self.result else None

    def row(self) -> dict[str, object]:
        """A row of a table."""
        return {
            "VM": self.vm.path,
            "Outcome": str(self.outcome),
            "Kind": str(self.result.plan.kind) if self.result else "-",
            "Transferred": "-" if self.moved is None else format_bytes(self.moved),
            "Saved": format_bytes(self.result.saved_bytes) if self.result else "-",
            "Seconds": "-" if self.seconds is None else f"{self.seconds:.1f}",
            "Message": self.message,
        }


class FleetResult(Value):
    """What the exports of several VMs did, or in a dry run would do."""

    dry_run: bool
    members: tuple[FleetMember, ...] = Field(description="In the order of their paths.")
    cleanups: tuple[CleanupResult, ...] = Field(default=(), description="One for each store, with --cleanup.")
    warnings: tuple[str, ...] = Field(default=(), description="What concerns no single VM.")
    redo: str | None = Field(default=None, description="The command that exports again only what failed.")
    retry: str | None = Field(default=None, description="How Prefect does that with one click, where it can.")
    seconds: float

    @property
    def failed(self) -> tuple[FleetMember, ...]:
        """Those that have to be exported again."""
        return tuple(member for member in self.members if member.failed)

    @property
    def summary(self) -> str:
        """How many fared how, in words."""
        counts = Counter(member.outcome for member in self.members)
        parts = ", ".join(f"{counts[outcome]} {outcome}" for outcome in FleetOutcome if counts[outcome])
        return f"{len(self.members)} VMs: {parts}"


class Level(StrEnum):
    """What a finding means for tonight."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class SetupFinding(Value):
    """One thing that was tried before an export depends on it, and what came of it."""

    what: str = Field(description="What was checked, such as 'certificate of vcenter.example.com'.")
    level: Level
    words: str = Field(description="The result, as a sentence without its full stop.")
    fix: str | None = Field(default=None, description="What to do about it, as an imperative sentence.")

    def row(self) -> dict[str, object]:
        """A row of a table."""
        return {"Check": self.what, "Result": str(self.level), "Finding": self.words, "What to do": self.fix or ""}


class SetupReport(Value):
    """The findings of a check of the setup."""

    findings: tuple[SetupFinding, ...]

    def having(self, level: Level) -> tuple[SetupFinding, ...]:
        """The findings of one level."""
        return tuple(finding for finding in self.findings if finding.level is level)

    @property
    def summary(self) -> str:
        """What would become of tonight's export, in words."""
        failed, warned = len(self.having(Level.FAIL)), len(self.having(Level.WARN))
        if failed:
            return f"{failed} of {len(self.findings)} checks failed: an export with these options would fail"
        but = f", but {warned} should be looked at" if warned else ""
        return f"{len(self.findings)} checks, and nothing that would fail{but}"
