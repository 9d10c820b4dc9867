"""Where exports are started for a drill: on QEMU straight from their store, or in vSphere as a VM that is destroyed.

A drill in vSphere is a restore that no user gets: its VM keeps the owner tag until it is destroyed, so a later run or
the reaper finds it, whatever ended this one.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

from hyperexport.base.stop import StopSignal
from hyperexport.drill.booting import Boot
from hyperexport.drill.qemu import QemuHost, find_qemu
from hyperexport.drill.serial_console import Expectation
from hyperexport.errors import HyperExportError, Interrupted, RestoreLeaked, VerificationFailed, note_cleanup
from hyperexport.jobs import restore
from hyperexport.jobs.runner import StepRunner
from hyperexport.model.drill import DrillPlan, DrillTarget, Sign
from hyperexport.model.manifest import new_export_id
from hyperexport.model.restore import NO_NETWORK, Identity, Provisioning, RestorePlan, RestoreRequest
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps import drilling, restoring, vsphere_drilling
from hyperexport.steps.choosing import ChosenExport
from hyperexport.steps.drilling import Drilled
from hyperexport.steps.liveness import at_work_here
from hyperexport.steps.restore_job import DrillVm, RestoreJob
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.vsphere.guest_life import Life
from hyperexport.vsphere.session import Session, connect

_LONGEST_NAME: Final = 80


class Target(Protocol):
    """Where exports are started."""

    @property
    def words(self) -> str:
        """What exports are started on, as results and mails name it."""
        ...

    def planned(self, chosen: ChosenExport) -> RestorePlan | None:
        """What would be made for a drill of this export; None if nothing is.

        Raises:
            HyperExportError: It could not be drilled.
        """
        ...

    def drilled(self, chosen: ChosenExport) -> Drilled:
        """Start an export and watch it; a guest that does not come up is a result, and no error.

        Raises:
            HyperExportError: It could not be started; nothing is proved either way, and nothing of it is left.
        """
        ...


@contextmanager
def open_target(
    run: StepRunner, plan: DrillPlan, options: ExportOptions, *, throttle: Throttle, stop: StopSignal
) -> Generator[Target]:
    """Open the target of a plan.

    Raises:
        ToolMissing: QEMU is not installed.
        HyperExportError: vSphere could not be logged in to.
    """
    if plan.target is DrillTarget.QEMU:
        yield QemuTarget(run, plan, stop=stop)
        return
    with at_work_here(run.id) as network, connect(run.endpoint(), stop=stop, run=run.id) as session:
        run.watch_logins(session, stop)
        yield VSphereTarget(run, session, plan, options, throttle=throttle, stop=stop, network=network)


class QemuTarget:
    """This machine's QEMU."""

    def __init__(self, run: StepRunner, plan: DrillPlan, *, stop: StopSignal) -> None:
        host = find_qemu()
        self._run: Final = run
        self._plan: Final = plan
        self._stop: Final = stop
        self._host: Final[QemuHost] = host._replace(kvm=host.kvm and not plan.emulate)

    @property
    def words(self) -> str:
        """What exports are started on, as results and mails name it."""
        return self._host.words

    def planned(self, chosen: ChosenExport) -> None:
        """None: QEMU needs no VM in vSphere."""

    def drilled(self, chosen: ChosenExport) -> Drilled:
        """Boot an export straight from its store."""
        expected = Expectation(self._plan.expect, self._plan.timeout.total_seconds())
        return self._run(
            drilling.boot_export,
            chosen.store,
            chosen.export,
            self._host,
            expected,
            stop=self._stop,
            memory_mib=self._plan.memory_mib,
        )


class VSphereTarget:
    """A vCenter or an ESXi host."""

    def __init__(
        self,
        run: StepRunner,
        session: Session,
        plan: DrillPlan,
        options: ExportOptions,
        *,
        throttle: Throttle,
        stop: StopSignal,
        network: str | None,
    ) -> None:
        self._run: Final = run
        self._session: Final = session
        self._plan: Final = plan
        self._options: Final = options
        self._throttle: Final = throttle
        self._stop: Final = stop
        self._network: Final = network

    @property
    def words(self) -> str:
        """What exports are started on, as results and mails name it."""
        return f"{self._session.address} (vSphere {self._session.api_version})"

    def planned(self, chosen: ChosenExport) -> RestorePlan:
        """The VM that would be made."""
        return restore.prepare(self._run, self._job(chosen, new_export_id(datetime.now(UTC)), self._stop))

    def drilled(self, chosen: ChosenExport) -> Drilled:
        """Restore an export, power it on, watch it, and destroy it."""
        started = datetime.now(UTC)
        drill_id = new_export_id(started)
        stop = StopSignal()  # a drill that fails stops its own uploads, and not the drills after it
        with self._stop.waking(stop.set):
            job = self._job(chosen, drill_id, stop)
            return self._drill(job, drill_id, started)

    def _job(self, chosen: ChosenExport, drill_id: str, stop: StopSignal) -> RestoreJob:
        place = self._plan.place
        suffix = f"-drill-{drill_id}"
        request = RestoreRequest(
            name=chosen.export.manifest.vm.name[: _LONGEST_NAME - len(suffix)] + suffix,
            folder=place.folder,
            resource_pool=place.resource_pool,
            host=place.host,
            datastore=place.datastore,
            networks=(NO_NETWORK,),
            disk_provisioning=Provisioning.THIN,
            identity=Identity.NEW,
            power_on=True,
        )
        return RestoreJob(
            run=self._run.id,
            session=self._session,
            store=chosen.store,
            export=chosen.export,
            request=request,
            options=self._options,
            throttle=self._throttle,
            stop=stop,
            network=self._network,
            drill=DrillVm(self._plan.memory_mib),
        )

    def _drill(self, job: RestoreJob, drill_id: str, started: datetime) -> Drilled:
        run, began = self._run, time.monotonic()
        made: float | None = None
        boot: Boot | None = None
        words = self.words
        leaked: str | None = None
        try:
            plan = restore.prepare(run, job)
            with restore.undo_on_failure(job, plan):
                restore.make_vm(run, job, plan)
                made = time.monotonic()
                assert job.vm
                run(restoring.power_on, job, job.vm, timeout=self._plan.timeout.total_seconds())
                life = run(vsphere_drilling.watch_guest, job, self._plan.timeout.total_seconds())
                words = f"{life.host} of {words}" if life.host else words
                boot = _boot_of(life, run(vsphere_drilling.fetch_screenshot, job))
                run(restoring.destroy_drill_vm, job, plan)
        except HyperExportError as error:
            if isinstance(error, VerificationFailed):
                boot = boot or drilling.damaged(error)
            note_cleanup(error, job.cleaned_up)
            if isinstance(error, Interrupted):
                raise
            if boot is None:
                _raise_if_left(error, job)
                raise
            leaked = _left(error, job)
        except BaseException as error:
            note_cleanup(error, job.cleaned_up)
            raise
        taken = {"restore": (made or time.monotonic()) - began, "boot": boot.seconds}
        return drilling.drilled(
            job.export.manifest,
            DrillTarget.VSPHERE,
            words,
            boot._replace(warnings=job.warnings),
            drill_id=drill_id,
            started=started,
            seconds=taken,
        )._replace(leaked=leaked)


def _left(error: HyperExportError, job: RestoreJob) -> str | None:
    """Why the VM is still there, which the way back tried to destroy once more; None if it is gone."""
    return None if job.vm is None else f"{job.vm.path}: {error.what}"


def _raise_if_left(error: HyperExportError, job: RestoreJob) -> None:
    if job.vm is not None:
        raise RestoreLeaked(
            f"{error.what}; and the drill's VM {job.vm.path} could not be removed",
            fix="Delete the VM in vSphere, or run hyperexport reap-snapshots later",
        ) from error


def _boot_of(life: Life, picture: bytes | None) -> Boot:
    sign = Sign.HEARTBEAT if life.lives else Sign.NONE
    return Boot(sign, life.reason, life.seconds, "", picture, 0, ())
