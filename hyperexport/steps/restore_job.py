"""What the steps of one restore share: the export, the open session, the plan, the import lease, the owner tag."""

import threading
from contextlib import ExitStack
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.model.ownership import Owner
from hyperexport.model.restore import Proof, RestorePlan, RestoreRequest
from hyperexport.model.vm import VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.store.base import Store, StoredExport
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.vsphere.disk_moves import UnitAddress
from hyperexport.vsphere.import_lease import ImportLease
from hyperexport.vsphere.import_spec import ImportSpec
from hyperexport.vsphere.partial_vms import thing_of
from hyperexport.vsphere.places import Placement
from hyperexport.vsphere.session import Session


class DrillVm(NamedTuple):
    """How a VM that is made for a drill differs from a restored one, beside being cut off and destroyed at the end."""

    memory_mib: int | None = None
    """MiB of memory, if not as much as the VM had."""


class Prepared:
    """What the plan found out and the import needs: objects of the server, which are no part of a plan.

    Args:
        placement: Where the VM goes.
        spec: What ImportVApp is given.
        annotation: The VM's notes once it is whole.
        addresses: Where each disk goes on the VM that gets it.
    """

    def __init__(
        self, placement: Placement, spec: ImportSpec, annotation: str, addresses: tuple[UnitAddress, ...]
    ) -> None:
        self.placement: Final = placement
        self.spec: Final = spec
        self.annotation: Final = annotation
        self.addresses: Final = addresses


class RestoreJob:
    """One restore, from its first step to its last.

    A plain class, as :class:`hyperexport.steps.job.Job` is: Prefect walks into dataclasses and models.
    """

    def __init__(
        self,
        *,
        run: str,
        session: Session,
        store: Store,
        export: StoredExport,
        request: RestoreRequest,
        options: ExportOptions,
        throttle: Throttle,
        stop: StopSignal,
        network: str | None,
        drill: DrillVm | None = None,
    ) -> None:
        self.run: Final = run
        self.session: Final = session
        self.store: Final = store
        self.export: Final = export
        self.request: Final = request
        self.options: Final = options
        self.throttle: Final = throttle
        self.stop: Final = stop
        self.drill: Final = drill
        """What the VM is like if it is made for a drill; None if a user gets it."""
        self._owner: Final = Owner.of_this_process(
            run=run, vcenter=session.address, vcenter_uuid=session.instance_uuid, vm=""
        ).announced_in(network)
        self.prepared: Prepared | None = None
        self.lease: ImportLease | None = None
        self.holding: Final = ExitStack()
        """Holds the import lease; closed when the restore has ended in any way."""
        self.vm: VmRef | None = None
        """The VM that is being made, once vSphere has named it."""
        self.server_hashes = False
        """Whether the server proves the disks: it took the request for their SHA-256, and kept its promise so far."""
        self.proofs: Final[dict[str, Proof]] = {}
        """How each file that has arrived was proved."""
        self.sound: Final[set[str]] = set()
        """The files that were read again after a failure, and are as they were exported."""
        self.unverified: Final[list[str]] = []
        """The files of which the server gave no checksum."""
        self.cleaned_up: Final[list[str]] = []
        """What became of the half-made VM, in words for a failure's mail and page."""
        self._warnings: Final[list[str]] = []
        self._lock: Final = threading.Lock()

    @property
    def name(self) -> str:
        """The exported VM's name."""
        return self.source.name

    @property
    def host(self) -> str | None:
        """The host that the bytes go to; None where DRS chooses, or before the plan."""
        host = self.prepared.placement.host if self.prepared else None
        return host.name if host else None

    @property
    def leases(self) -> int:
        """How many files may move at once: one lease takes all, and each costs its host as much as an export's."""
        return len(self.prepared.spec.files) if self.prepared else 1

    @property
    def source(self) -> VmRef:
        """The VM that was exported."""
        return self.export.manifest.vm

    def owner(self, path: str) -> Owner:
        """The run's tag for the VM that it makes at this inventory path."""
        return self._owner.made_for(thing_of(path))

    def owner_of_plan(self, plan: RestorePlan) -> Owner:
        """The run's tag for the VM of a plan."""
        return self.owner(plan.path)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far, each once."""
        with self._lock:
            return tuple(dict.fromkeys([*self._warnings, *self.throttle.warnings]))

    def warn(self, warning: str) -> None:
        """Keep a warning for the result."""
        with self._lock:
            self._warnings.append(warning)
