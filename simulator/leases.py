"""Leases: HttpNfcLease, what an export offers for download, and the hold that it has on its VM.

vSphere API: HttpNfcLease. A lease is initialising, then ready until it is completed, aborted, or no client has reported
progress for ``leaseTimeout`` seconds. All that time its task runs, and what would disturb it is refused. Leases of
imports are in ``import_lease.py``.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import hashlib
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from hyperexport.simulator.disks import Frozen
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.hardware import AttachedDisk
from hyperexport.simulator.sessions import disown, own_by_session
from hyperexport.simulator.tasks import Task
from hyperexport.simulator.world import Managed

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine
    from hyperexport.simulator.snapshots import Snapshot

_CHECKSUMS = frozenset({"sha1", "sha256", "sha384", "sha512"})


@dataclass
class OfferedFile:
    """One file of a lease: where it is offered or awaited, and what has passed of it."""

    lease: "Lease"
    key: str
    name: str
    path: str
    disk: AttachedDisk | None = None
    frozen: Frozen | None = None
    content: bytes = b""
    import_key: str = ""
    """What the import spec calls it, if it is to arrive."""
    checksum: str | None = None
    """The algorithm asked for besides SHA-1."""
    size: int | None = None
    """Bytes that passed, once it passed as a whole."""
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def incoming(self) -> bool:
        """Whether it is to arrive, not to be fetched."""
        return bool(self.import_key)

    @property
    def verb(self) -> str:
        """The HTTP method by which it arrives."""
        return "PUT" if self.disk is None else "POST"

    def hashers(self) -> dict[str, Any]:
        """Fresh hash objects for one download: what its manifest entry needs."""
        if not self.lease.manifests:
            return {}
        return {algorithm: hashlib.new(algorithm) for algorithm in {"sha1", self.checksum or "sha1"}}

    def served(self, size: int, hashers: dict[str, Any]) -> None:
        """It passed as a whole."""
        self.digests = {algorithm: hasher.hexdigest() for algorithm, hasher in hashers.items()}
        self.size = size

    def forget(self) -> None:
        """It begins to pass anew."""
        self.digests, self.size = {}, None


def fault_target(file: OfferedFile) -> dict[str, Any]:
    """What faults are aimed at when a file passes: its VM, and the position of its disk."""
    return {"vm": file.lease.vm_name, "disk": file.disk.position if file.disk else -1}


class Lease(Managed):
    """vim.HttpNfcLease, for exports."""

    kind = vim.HttpNfcLease

    def __init__(self, vm: "Machine", snapshot: "Snapshot | None", timeout: float, *, manifests: bool) -> None:
        super().__init__(vm.world, f"session[{uuid.uuid4()}]{uuid.uuid4()}")
        self.machine = vm
        self.of_snapshot = snapshot
        self.manifests = manifests
        self.state = vim.HttpNfcLease.State.initializing
        self.initializeProgress = 0
        self.transferProgress = 0
        self.mode = "pushOrGet"
        self.capabilities = vim.HttpNfcLease.Capabilities(pullModeSupported=False, corsSupported=False)
        self.info: Any = None
        self.error: Any = None
        self.files: list[OfferedFile] = []
        self._timeout = timeout
        self._deadline = 0.0
        self._abort_fault: Any = None
        self.task: Any = None
        self.world.add(self)
        vm.leases.append(self)
        self._load = vm.host_system.load.leases
        self._load.rise()
        own_by_session(self, self._abandon)

    @property
    def vm_name(self) -> str:
        return self.machine.vm_name

    @property
    def alive(self) -> bool:
        """Whether it holds its VM."""
        return self.state in {"initializing", "ready"}

    # -- its life, in the thread of its export task --------------------------------------------------------------------

    def run(self, task: Task) -> None:
        """Live until the end; ends the task as the lease ends."""
        self.task = task
        faults = self.world.faults
        if slow := faults.take(FaultKind.LEASE_SLOW, vm=self.vm_name):
            self.world.sleep(slow.delay or 1.0, lambda: not self.alive)
        if faults.take(FaultKind.LEASE_ERROR, vm=self.vm_name):
            self._end(vim.HttpNfcLease.State.error, vim.fault.FileFault(msg="A file is locked.", file="disk.vmdk"))
            raise self.error
        if self.alive:
            self._become_ready()
        while self.alive and not self.world.stopping:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self.expire()
            self.world.sleep(left, lambda: not self.alive or self._deadline - time.monotonic() > left)  # noqa: B023
            task.info.progress = self.transferProgress
        if self.state != "done":
            raise self.error or vmodl.fault.RequestCanceled(msg="The task was canceled by a user.")

    def _become_ready(self) -> None:
        try:
            self.offer()
        except vmodl.MethodFault as fault:
            self._end(vim.HttpNfcLease.State.error, fault)
            raise
        self._deadline = time.monotonic() + self._timeout
        host = self.machine.host_system
        wrong = self.world.faults.take(FaultKind.NVRAM_SIZE, vm=self.vm_name)
        urls = [device_url(file, host) for file in self.files]
        for url in urls if wrong else ():
            if not url.disk:
                url.fileSize = wrong.at_byte or 0
        self.info = vim.HttpNfcLease.Info(
            lease=self.ref,
            entity=self.machine.ref,
            deviceUrl=urls,
            totalDiskCapacityInKB=sum(_capacity(file) or 0 for file in self.files) // 1024,
            leaseTimeout=max(1, round(self._timeout)),
        )
        self.initializeProgress = 100
        self.state = vim.HttpNfcLease.State.ready
        self.world.touch()

    def offer(self) -> None:
        """Make the files, as the lease becomes ready."""
        place = f"/nfc/{uuid.uuid4()}"
        for disk, frozen in self.machine.exportable(self.of_snapshot):
            name = f"disk-{len(self.files)}.vmdk"
            key = f"/{self.machine.moid}/{disk.lease_key}"
            self.files.append(OfferedFile(self, key, name, f"{place}/{name}", disk=disk, frozen=frozen))
        if self.machine.nvram:
            name = f"{self.machine.settings.name}.nvram"
            key = f"/{self.machine.moid}/nvram"
            self.files.append(OfferedFile(self, key, name, f"{place}/nvram", content=self.machine.nvram))
        self.machine.host_system.offered.update({file.path: file for file in self.files})

    def expire(self) -> None:
        """No client reported progress for too long."""
        if self.alive:
            fault = vim.fault.Timedout(msg="The lease has timed out.")
            self._end(vim.HttpNfcLease.State.error, fault)

    def _abandon(self) -> None:
        if self.alive:
            self._end(vim.HttpNfcLease.State.error, vmodl.fault.RequestCanceled(msg="The session has ended."))
        self.world.remove(self)

    def _end(self, state: Any, error: Any) -> None:
        self.state = state
        self.error = error
        self.machine.leases.remove(self)
        self._load.fall()
        for file in self.files:
            self.machine.host_system.offered.pop(file.path, None)
        self.world.touch()

    # -- vSphere methods -----------------------------------------------------------------------------------------------

    def HttpNfcLeaseProgress(self, percent: int) -> None:
        self._require_ready()
        if not 0 <= percent <= 100:
            raise vmodl.fault.InvalidArgument(msg="The percentage is 0 to 100.", invalidProperty="percent")
        self.transferProgress = percent
        self._deadline = time.monotonic() + self._timeout
        self.world.touch()

    def HttpNfcLeaseComplete(self) -> None:
        self._require_ready()
        self._end(vim.HttpNfcLease.State.done, None)
        disown(self)
        self.world.remove(self)

    def HttpNfcLeaseAbort(self, fault: Any) -> None:
        if not self.alive:
            self._require_ready()
        self._end(vim.HttpNfcLease.State.error, fault or vmodl.fault.RequestCanceled(msg="The lease was aborted."))
        disown(self)
        self.world.remove(self)

    def HttpNfcLeaseGetManifest(self) -> list[Any]:
        self._require_ready()
        if self.world.faults.take(FaultKind.MANIFEST_MISSING, vm=self.vm_name):
            return []
        return [self._manifest_entry(file) for file in self.files if file.digests]

    def _manifest_entry(self, file: OfferedFile) -> Any:
        digests = file.digests
        if self.world.faults.take(FaultKind.MANIFEST_WRONG, **fault_target(file)):
            digests = {name: hashlib.new(name, b"other bytes").hexdigest() for name in digests}
        if self.world.faults.take(FaultKind.MANIFEST_SHA1, **fault_target(file)):
            digests = {"sha1": digests["sha1"]}
        return _manifest_entry(file, digests)

    def HttpNfcLeaseSetManifestChecksumType(self, deviceUrlsToChecksumTypes: list[Any]) -> None:
        self._require_ready()
        files = {file.key: file for file in self.files}
        for pair in deviceUrlsToChecksumTypes:
            if pair.key not in files or pair.value.lower() not in _CHECKSUMS:
                raise vmodl.fault.InvalidArgument(
                    msg=f"There is no device {pair.key} or no checksum {pair.value}.",
                    invalidProperty="deviceUrlsToChecksumTypes",
                )
            files[pair.key].checksum = pair.value.lower()

    def _require_ready(self) -> None:
        if isinstance(self.error, vim.fault.Timedout):
            raise vim.fault.Timedout(msg="The lease has timed out.")
        if self.state != "ready":
            raise vim.fault.InvalidState(msg=f"The lease is in the state {self.state}.")


def device_url(file: OfferedFile, host: Any) -> Any:
    """What the lease says of a file: vim.HttpNfcLease.DeviceUrl."""
    # vSphere API: fileSize is known beforehand for files that are no disks only.
    return vim.HttpNfcLease.DeviceUrl(
        key=file.key,
        importKey=file.import_key,
        url=f"https://{host.netloc}{file.path}",
        sslThumbprint=host.thumbprint,
        disk=file.disk is not None,
        targetId=None if file.incoming else file.lease.machine.target_prefix + file.name,
        datastoreKey=None,
        fileSize=None if file.disk or file.incoming else len(file.content),
    )


def _capacity(file: OfferedFile) -> int | None:
    if file.frozen:
        return file.frozen.capacity
    return file.disk.image.capacity if file.disk else None


def _populated(file: OfferedFile) -> int | None:
    if file.frozen:
        return file.frozen.populated
    return file.disk.image.added if file.disk else None


def _manifest_entry(file: OfferedFile, digests: dict[str, str]) -> Any:
    assert file.size is not None
    return vim.HttpNfcLease.ManifestEntry(
        key=file.key,
        sha1=digests["sha1"],
        checksum=digests.get(file.checksum) if file.checksum else None,
        checksumType=file.checksum if file.checksum in digests else None,
        size=file.size,
        disk=file.disk is not None,
        capacity=_capacity(file),
        populatedSize=_populated(file),
    )
