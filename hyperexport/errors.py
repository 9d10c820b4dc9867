"""The errors of HyperExport: one class for each code.

A message says what failed, on what, why, and what to do. Code decides by the type and its attributes, never by the
text: ``transient`` says whether a retry of the step may succeed, ``code`` is a stable name to search for,
``exit_code`` is the exit code of the command. Names in a message come from outside: control characters are escaped.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

from hyperexport.base.text import escape_controls, sentences

USE_ANOTHER_EXPORT: Final = "Use another export of the VM; hyperexport verify shows which are sound"
"""What to do where a stored file is damaged, missing, or not a file."""


class HyperExportError(Exception):
    """The base class; only its subclasses are raised.

    Args:
        what: What failed and on what, with the reason, as one sentence without a full stop.
        fix: What the reader can do about it, as one imperative sentence without a full stop.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False
    failed_step: str | None = None
    """The step that raised it, as its runner notes."""
    cleaned_up: tuple[str, ...] = ()
    """What was cleaned up after the job that it ended, and what could not be."""

    def __init__(self, what: str, *, fix: str | None = None) -> None:
        self.what = _on_one_line(what)
        self.fix = None if fix is None else _on_one_line(fix)
        super().__init__(self.what, self.fix)

    def __str__(self) -> str:
        if not self.fix:
            return self.what
        return sentences(self.what, self.fix)

    def __reduce__(self) -> tuple[object, ...]:
        # Prefect pickles exceptions between processes; the keyword argument must survive.
        noted = {"failed_step": self.failed_step, "cleaned_up": self.cleaned_up}
        return _rebuild, (type(self), self.what, self.fix), noted


def _on_one_line(words: str) -> str:
    return escape_controls(" ".join(words.splitlines()))


def _rebuild(kind: type[HyperExportError], what: str, fix: str | None) -> HyperExportError:
    return kind(what, fix=fix)


def note_step(error: BaseException, step: str) -> None:
    """Note the step that an error comes from; the innermost one stays."""
    if failed_step(error) is None:
        error.failed_step = step  # pyright: ignore[reportAttributeAccessIssue] - any exception takes an attribute


def failed_step(error: BaseException) -> str | None:
    """The step that an error comes from; None where it comes from none."""
    return getattr(error, "failed_step", None)


def note_cleanup(error: BaseException, cleaned_up: Iterable[str]) -> None:
    """Note what was cleaned up after the job that this error ended, and what could not be."""
    error.cleaned_up = tuple(cleaned_up)  # pyright: ignore[reportAttributeAccessIssue] - any exception takes one


def cleaned_up(error: BaseException) -> tuple[str, ...]:
    """What was cleaned up after the job that this error ended, and what could not be."""
    return getattr(error, "cleaned_up", ())


class TransientError(HyperExportError):
    """A retry of the whole step may succeed."""

    code = "transient"
    transient = True


class UsageError(HyperExportError):
    """An option or argument is invalid, or options contradict each other; nothing was changed."""

    code = "usage"
    exit_code = 2


class Interrupted(HyperExportError):
    """The run was stopped by Ctrl-C, SIGTERM or a cancellation."""

    code = "interrupted"
    exit_code = 130


class FleetFailure(HyperExportError):
    """None of several VMs could be exported."""

    code = "fleet-failure"
    fleet: object = None
    """The whole :class:`~hyperexport.results.FleetResult`, in the process that raised it; pickling loses it."""


class PartialFleetFailure(FleetFailure):
    """Some of several VMs failed; the others are exported."""

    code = "partial-failure"
    exit_code = 3


class SetupUnfit(HyperExportError):
    """A check of the setup found what an export with these options would fail on."""

    code = "setup-unfit"
    report: object = None
    """The whole :class:`~hyperexport.results.SetupReport`, in the process that raised it; pickling loses it."""


# -- connecting -------------------------------------------------------------------------------------------------------


class ServerUnreachable(TransientError):
    """No answer from the address given: refused, timed out, or its name does not resolve."""

    code = "server-unreachable"


class NotVSphere(HyperExportError):
    """The address answers, but not as a vSphere server."""

    code = "not-vsphere"


class CertificateUntrusted(HyperExportError):
    """The server's certificate is not trusted: neither a known CA nor the given thumbprint matches it."""

    code = "certificate-untrusted"


class LoginRefused(HyperExportError):
    """The server refused the user name or the password."""

    code = "login-refused"


class SessionLost(TransientError):
    """The session ended on the server, and another login did not help."""

    code = "session-lost"


class PermissionMissing(HyperExportError):
    """The user lacks a privilege on an object; the message names both."""

    code = "permission-missing"


class ServerFault(HyperExportError):
    """The server reported a fault that has no class of its own here."""

    code = "server-fault"


class ServerBusy(TransientError):
    """The server is at a limit or runs a conflicting task; a later retry may succeed."""

    code = "server-busy"


class PrefectFailed(HyperExportError):
    """Prefect refused a request, or could not carry out a run; the message has its words."""

    code = "prefect-failed"


# -- the VM -----------------------------------------------------------------------------------------------------------


class VmNotFound(HyperExportError):
    """No VM has this name or inventory path."""

    code = "vm-not-found"


class VmAmbiguous(HyperExportError):
    """Several VMs have this name; the message lists their paths."""

    code = "vm-ambiguous"


class TagNotFound(HyperExportError):
    """No tag has this category and name."""

    code = "tag-not-found"


class TagAmbiguous(HyperExportError):
    """The colons in ``CATEGORY:NAME`` can be read as more than one tag that is there."""

    code = "tag-ambiguous"


class TaggingUnavailable(HyperExportError):
    """The server has no API for tags: only vCenter has one."""

    code = "tagging-unavailable"


class VmPoweredOn(HyperExportError):
    """A running VM can be exported only from a snapshot."""

    code = "vm-powered-on"


class VmUnavailable(HyperExportError):
    """vSphere has lost the VM's host or files, or does not give its configuration."""

    code = "vm-unavailable"


class VmChanged(HyperExportError):
    """The VM was powered on or changed while its disks were read, so they do not belong together."""

    code = "vm-changed"


class NothingToExport(HyperExportError):
    """No disk of the VM can be exported; the message gives the reason for each."""

    code = "nothing-to-export"


class SnapshotFailed(HyperExportError):
    """The server did not create the snapshot."""

    code = "snapshot-failed"


class QuiesceFailed(SnapshotFailed):
    """The guest could not be quiesced and ``--quiesce-required`` forbids a crash-consistent snapshot."""

    code = "quiesce-failed"


class SnapshotChainTooLong(SnapshotFailed):
    """Another snapshot would come too close to vSphere's limit of 32 in a chain."""

    code = "snapshot-chain-too-long"


class SnapshotLeaked(HyperExportError):
    """A snapshot that this tool made could not be removed; the message names it."""

    code = "snapshot-leaked"


class ChangeTrackingUnavailable(HyperExportError):
    """The changed areas of a disk are unknown; the whole disk has to be transferred."""

    code = "change-tracking-unavailable"


# -- the transfer -----------------------------------------------------------------------------------------------------


class LeaseFailed(TransientError):
    """The NFC lease failed or did not become ready; a retry may succeed."""

    code = "lease-failed"


class LeaseRefused(HyperExportError):
    """The NFC lease was refused, and a retry would be refused, too; the message gives the reason."""

    code = "lease-refused"


class LeaseExpired(TransientError):
    """The NFC lease ended before the transfer did."""

    code = "lease-expired"


class TransferInterrupted(TransientError):
    """The connection broke, stalled or answered with an error in the middle of a file."""

    code = "transfer-interrupted"


class StreamCorrupt(TransientError):
    """The bytes that came are not a whole, well-formed disk; the message gives the offset."""

    code = "stream-corrupt"
    offset: int | None = None
    """Where in the file, in bytes, for programs; pickling loses it."""


class ChecksumMismatch(TransientError):
    """The bytes received differ from those that the server says it sent."""

    code = "checksum-mismatch"


class TransportUnavailable(HyperExportError):
    """Parts of a disk cannot be read the way that was chosen (``--transport``); the message says why."""

    code = "transport-unavailable"


class DescriptorFailed(HyperExportError):
    """The server could not describe the VM as OVF; the message carries its reasons."""

    code = "descriptor-failed"


# -- the store --------------------------------------------------------------------------------------------------------


class StoreUnusable(HyperExportError):
    """The store cannot be read or written: permissions, a missing bucket, a wrong key, a file in the way."""

    code = "store-unusable"


class StoreUnreachable(TransientError):
    """The object store did not answer, or answered that it is overloaded."""

    code = "store-unreachable"


class VmHeld(HyperExportError):
    """Another run is at work on the VM or on its exports in the store; the message says which."""

    code = "vm-held"


class DiskFull(HyperExportError):
    """The local filesystem has no room for the export."""

    code = "disk-full"


class ExportNotFound(HyperExportError):
    """The store has no complete export of this name."""

    code = "export-not-found"


class ManifestInvalid(HyperExportError):
    """An ``export.json`` is not a manifest, or its seal does not prove it; or it could not be read."""

    code = "manifest-invalid"
    problem: str | None = None
    """A :class:`hyperexport.model.damaged.Problem`, for programs; pickling loses it."""
    reason: str = ""
    """What is wrong, without the place."""


class VerificationFailed(HyperExportError):
    """What is stored is not what was exported; the message names the file and the offset."""

    code = "verification-failed"
    exports: tuple[Any, ...] = ()
    """What was found of every export that was looked at, sound ones too; pickling loses it."""


# -- conversion -------------------------------------------------------------------------------------------------------


class TargetExists(HyperExportError):
    """A file of this name exists; nothing is overwritten."""

    code = "target-exists"


class ToolMissing(HyperExportError):
    """A program that does part of the work is not installed; the message names it."""

    code = "tool-missing"


class ConversionFailed(HyperExportError):
    """The export could not be written in the other form; the message has the reason."""

    code = "conversion-failed"


# -- restore ----------------------------------------------------------------------------------------------------------


class PlaceNotFound(HyperExportError):
    """No folder, pool, host, datastore or network of this name is there, or several are; the message lists them."""

    code = "place-not-found"


class DatastoreFull(HyperExportError):
    """The datastore has no room for the VM."""

    code = "datastore-full"


class ImportRefused(HyperExportError):
    """vSphere refused to create a VM from the export; the message has its reasons."""

    code = "import-refused"


class RestoreFailed(HyperExportError):
    """The restore failed before the VM was complete; nothing of the VM is left."""

    code = "restore-failed"


class RestoreLeaked(HyperExportError):
    """A VM that a restore left half made could not be removed; the message names it."""

    code = "restore-leaked"


# -- drills -----------------------------------------------------------------------------------------------------------


class DrillFailed(HyperExportError):
    """An export did not start, or gave no sign of life; the message has the reason of each."""

    code = "drill-failed"
    drills: tuple[Any, ...] = ()
    """What came of every drill, passed ones too; pickling loses it."""


# -- files of a guest -------------------------------------------------------------------------------------------------


class GuestFileNotFound(HyperExportError):
    """The guest has nothing of that path, or nothing that can be read; the message says which."""

    code = "guest-file-not-found"


class GuestFilesystemDamaged(HyperExportError):
    """The guest's own filesystem cannot be read there, although the disk's bytes are those that were exported."""

    code = "guest-filesystem-damaged"


class ExtractionFailed(HyperExportError):
    """A file of the guest could not be written here; the message has the reason."""

    code = "extraction-failed"


# -- notifications ---------------------------------------------------------------------------------------------------


class NotificationFailed(HyperExportError):
    """A mail or a message was not sent, or not to everyone. An export never fails for it; a test of it does."""

    code = "notification-failed"
