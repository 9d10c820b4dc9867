"""Faults on demand: what is to go wrong, where, and how often. The rooms that serve ask here before they act.

Nothing here knows how a fault is carried out; each place that serves takes the fault that is meant for it and does
the damage itself, so that it looks on the wire as it would from a real vCenter or host.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """The ways in which a simulated vCenter or host can misbehave."""

    LATENCY = "latency"
    """Every SOAP call, download and upload waits ``delay`` seconds before it is answered."""
    CUT = "cut"
    """A download is reset (TCP RST) at byte ``at_byte`` of its stream."""
    TRUNCATE = "truncate"
    """A download ends at byte ``at_byte`` with a proper last chunk, so that it looks like success."""
    EMPTY = "empty"
    """A download answers 200 with no byte in it."""
    STALL = "stall"
    """A download sends nothing from byte ``at_byte`` on, for ``delay`` seconds or until the connection closes."""
    HTTP_STATUS = "http-status"
    """A download, an upload, or the SOAP call named by ``method``, answers with HTTP status ``status``."""
    CORRUPT = "corrupt"
    """One bit of byte ``at_byte`` of a download is flipped."""
    SESSION_EXPIRED = "session-expired"
    """All sessions end: when added, or when a download reaches byte ``at_byte``, or at a call of ``method``."""
    LEASE_EXPIRED = "lease-expired"
    """The lease times out when the download, or the upload, reaches byte ``at_byte``."""
    LEASE_ERROR = "lease-error"
    """A lease goes to ``error`` instead of ``ready``."""
    NVRAM_SIZE = "nvram-size"
    """An export lease announces the nvram with ``at_byte`` bytes, whatever it has: fileSize is only a hint."""
    LEASE_SLOW = "lease-slow"
    """A lease stays ``initializing`` for ``delay`` seconds."""
    QUIESCE_FAILED = "quiesce-failed"
    """A quiesced snapshot fails with ApplicationQuiesceFault."""
    CREATE_SNAPSHOT_FAILED = "create-snapshot-failed"
    REMOVE_SNAPSHOT_FAILED = "remove-snapshot-failed"
    SLOW_CONSOLIDATION = "slow-consolidation"
    """Removing a snapshot takes ``delay`` seconds, with progress."""
    TASK_IN_PROGRESS = "task-in-progress"
    """A conflicting operation (all, or the one named by ``method``) is refused with TaskInProgress."""
    ANSWER_LOST = "answer-lost"
    """The SOAP call named by ``method`` is carried out, and the connection closes in place of its answer."""
    METHOD_FAULT = "method-fault"
    """The SOAP call named by ``method`` (or reading the property of that name) raises ``fault``."""
    CBT_FAULT = "cbt-fault"
    """QueryChangedDiskAreas raises ``fault``: FileFault (the default) or InvalidArgument."""
    DESCRIPTOR_ERROR = "descriptor-error"
    """OvfManager.CreateDescriptor answers with an error in its list, and no descriptor."""
    MANIFEST_MISSING = "manifest-missing"
    """HttpNfcLeaseGetManifest answers with an empty list."""
    MANIFEST_SHA1 = "manifest-sha1"
    """HttpNfcLeaseGetManifest answers with SHA-1 alone, whatever was asked for."""
    MANIFEST_WRONG = "manifest-wrong"
    """HttpNfcLeaseGetManifest answers with checksums of other bytes for the file of ``disk``, or of any."""
    UPLOAD_CUT = "upload-cut"
    """An upload is reset (TCP RST) when byte ``at_byte`` of it has arrived."""
    UPLOAD_STALL = "upload-stall"
    """The host reads nothing of an upload from byte ``at_byte`` on, for ``delay`` seconds or until the lease ends."""
    DATASTORE_FULL = "datastore-full"
    """The datastore is full when byte ``at_byte`` of an upload arrives: HTTP 500, and the lease fails."""
    QUESTION = "question"
    """The next power on, or task of ``method``, asks a question, and waits for AnswerVM, or for ``delay`` seconds."""
    NO_HEARTBEAT = "no-heartbeat"
    """The guest does not start at the next power on, whatever its disk holds."""
    CBT_OMITS = "cbt-omits"
    """QueryChangedDiskAreas leaves out the grain that holds byte ``at_byte`` of the disk, or every area."""
    FOLDER_REFUSED = "folder-refused"
    """Reading a disk's extent by ``/folder`` answers HTTP status ``status``, or 500."""
    FOLDER_WHOLE = "folder-whole"
    """The same with a range answers 200 and the whole extent."""
    FOLDER_SHORT = "folder-short"
    """The same, if it holds byte ``at_byte`` or that is None, ends after half of what was announced."""
    FOLDER_WRONG = "folder-wrong"
    """The same has one bit flipped in byte ``at_byte`` of the extent, or in the first byte of each answer."""


# Without a method these concern downloads, and a power on; with one, its calls and nothing else.
_OF_THIS_METHOD = frozenset(
    {FaultKind.HTTP_STATUS, FaultKind.SESSION_EXPIRED, FaultKind.QUESTION, FaultKind.ANSWER_LOST}
)


@dataclass(frozen=True)
class Fault:
    """One thing that is to go wrong.

    Args:
        kind: What goes wrong.
        vm: Only for the VM of this name; None for any.
        disk: Only for the disk at this position (0 is the first); None for any.
        method: Only for the SOAP method of this WSDL name; None for any.
        at_byte: The byte of the served stream where it happens; None is the beginning.
        times: How many times it happens; 0 is for ever.
        after: How many occasions pass before it happens for the first time.
        delay: Seconds, for the kinds that take time.
        status: The HTTP status, for ``HTTP_STATUS``.
        privilege: The privilege named in a NoPermission fault.
        fault: The name of a fault of ``vim.fault`` or ``vmodl.fault``, such as ``InvalidState``.
    """

    kind: FaultKind
    vm: str | None = None
    disk: int | None = None
    method: str | None = None
    at_byte: int | None = None
    times: int = 1
    after: int = 0
    delay: float | None = None
    status: int | None = None
    privilege: str | None = None
    fault: str | None = None

    def __post_init__(self) -> None:
        if self.kind is FaultKind.HTTP_STATUS and self.status is None:
            raise ValueError("an HTTP status fault needs its status")
        if self.kind is FaultKind.METHOD_FAULT and not (self.method and self.fault):
            raise ValueError("a method fault needs the method and the fault's name")

    def matches(
        self, kind: FaultKind, vm: str | None, disk: int | None, method: str | None, part: tuple[int, int] | None
    ) -> bool:
        """Tell whether this fault is meant for what is about to be done."""
        if part and self.at_byte is not None and not part[0] <= self.at_byte < part[1]:
            return False
        methods = {method} if kind in _OF_THIS_METHOD else {None, method}
        return self.kind is kind and self.vm in {None, vm} and self.disk in {None, disk} and self.method in methods


class Faults:
    """The faults that are armed, and those that have happened. Safe to use from any thread."""

    def __init__(self, expire_sessions: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._armed: list[tuple[Fault, list[int]]] = []
        self._expire_sessions = expire_sessions
        self.fired: list[Fault] = []
        """What happened, in order; a fault that happens for ever is here once."""

    def add(self, fault: Fault) -> None:
        """Arm a fault; the oldest that matches is taken first."""
        at_once = fault.kind is FaultKind.SESSION_EXPIRED and fault.at_byte is None and fault.method is None
        with self._lock:
            if at_once:
                self.fired.append(fault)
            else:
                self._armed.append((fault, [fault.times, fault.after]))
        if at_once:
            self._expire_sessions()

    def clear(self) -> None:
        """Disarm all faults and forget which have happened."""
        with self._lock:
            self._armed.clear()
            self.fired.clear()

    def take(
        self,
        kind: FaultKind,
        *,
        vm: str | None = None,
        disk: int | None = None,
        method: str | None = None,
        part: tuple[int, int] | None = None,
    ) -> Fault | None:
        """Use up one occurrence of the first armed fault of this kind that matches; None where there is none.

        Args:
            kind: What may go wrong.
            vm: The VM that it would concern.
            disk: The position of its disk.
            method: The SOAP method.
            part: The bytes from and to which something is served, for faults at one of them.
        """
        with self._lock:
            for entry in self._armed:
                fault, left = entry
                if fault.matches(kind, vm, disk, method, part):
                    if left[1]:
                        left[1] -= 1
                        continue
                    if fault.times:
                        left[0] -= 1
                        if not left[0]:
                            self._armed.remove(entry)
                    if fault.times or fault not in self.fired:
                        self.fired.append(fault)
                    return fault
        return None
