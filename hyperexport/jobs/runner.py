"""Who carries out the steps of a job, and what else differs with Prefect and without.

A job calls ``run(step, ...)`` with the step's own function. What a step does, and in which order the steps go, is the
same under every runner; how a step is retried, timed and shown is the runner's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar

from hyperexport.base.stop import StopSignal
from hyperexport.model.ownership import Run

if TYPE_CHECKING:
    from hyperexport.model.damaged import DamagedExport
    from hyperexport.model.drill import DrillRecord
    from hyperexport.model.restore import RestoreResult
    from hyperexport.model.transport import Transport
    from hyperexport.model.vm import VmInfo, VmRef
    from hyperexport.notify import Notifier
    from hyperexport.options.groups import Bandwidth, Destination, Email
    from hyperexport.options.precedence import ExportOptions
    from hyperexport.results import ExportResult, SetupFinding, VerifiedExport
    from hyperexport.steps.liveness import AtWork, IsOver
    from hyperexport.store.base import StoredExport
    from hyperexport.store.s3_settings import S3Settings
    from hyperexport.transfer.bandwidth.throttle import Throttle
    from hyperexport.vsphere.endpoint import VSphereEndpoint
    from hyperexport.vsphere.session import Session

P = ParamSpec("P")
R = TypeVar("R")


class Slots(Protocol):
    """The right to hold NFC leases."""

    @property
    def max_concurrency(self) -> int:
        """How many disks may move at once."""
        ...

    def release(self) -> None:
        """Give it back, as soon as the last byte has moved."""
        ...


class LeaseUser(Protocol):
    """A job that holds NFC leases: an export, or a restore."""

    @property
    def run(self) -> str:
        """The run's id."""
        ...

    @property
    def name(self) -> str:
        """The VM's name, for the log."""
        ...

    @property
    def session(self) -> Session:
        """The login."""
        ...

    @property
    def options(self) -> ExportOptions:
        """The options in force."""
        ...

    @property
    def stop(self) -> StopSignal:
        """The run's stop signal."""
        ...

    @property
    def host(self) -> str | None:
        """The host that the bytes pass, if it is known."""
        ...

    @property
    def leases(self) -> int:
        """How many files may move at once."""
        ...

    def warn(self, warning: str) -> None:
        """Keep a warning for the result."""
        ...


class Shared(NamedTuple):
    """What a fleet shares with the exports of its VMs in this process."""

    stop: StopSignal
    throttle: Throttle
    found: Mapping[str, VmRef]
    """The VMs, by path: none of them has to be looked for again."""
    runs: dict[str, Run]
    """The run of each VM's export, by path, noted as it begins."""
    refusals: dict[str, str]
    """Ways to read disks that a host refused, with its reason."""


class StepRunner(ABC):
    """Carries out the steps of one job.

    Args:
        run: The run, as people find it again.
        id: Its id, which owner tags and manifests name.
        shared: What the fleet shares that this run is a part of.
    """

    def __init__(self, run: Run, *, id: str, shared: Shared | None = None) -> None:  # noqa: A002 - it is the run's id
        self.run = run
        self.id = id
        self.shared = shared

    @property
    def attempt(self) -> int:
        """Which attempt of its run this is, from 1: an orchestrator can retry a whole run, and the retry continues."""
        return 1

    @property
    def will_retry(self) -> bool:
        """Whether the orchestrator retries the run by itself, should this attempt fail."""
        return False

    # -- steps ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def __call__(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Carry out one step, retried as it declares; an error notes the step that it comes from."""

    @abstractmethod
    def side_by_side(
        self, step: Callable[..., R], calls: Sequence[Mapping[str, Any]], *, max_concurrency: int, stop: StopSignal
    ) -> list[R]:
        """Carry out a step once for each set of arguments.

        On the first failure, or an interruption of the calling thread, the others are stopped and waited
        for, so that nothing reads any more from what is then cleaned up.

        Returns:
            The results, in the order of the calls.
        """

    @contextmanager
    def stop_signal(self) -> Generator[StopSignal]:
        """Give the run its stop signal, set as soon as the block is left by any exception, a cancellation included.

        Both Ctrl-C and Prefect's cancellation are exceptions of the main thread; the threads that move bytes hear
        only this signal. In a run of a fleet it is set with the fleet's, too.
        """
        stop = StopSignal()
        try:
            with self.shared.stop.waking(stop.set) if self.shared else nullcontext():
                yield stop
        except BaseException:
            stop.set()
            raise

    # -- what a job opens ----------------------------------------------------------------------------------------------

    @abstractmethod
    def endpoint(self) -> VSphereEndpoint:
        """The server and the login."""

    @abstractmethod
    def s3_settings(self, destination: Destination) -> S3Settings | None:
        """How S3 is reached; None for boto3's own chain."""

    @abstractmethod
    def bandwidth(self, wanted: Bandwidth) -> AbstractContextManager[Throttle]:
        """The run's throttle; in a run of a fleet the fleet's."""

    @abstractmethod
    def lease_slots(self, job: LeaseUser) -> AbstractContextManager[Slots]:
        """As many slots for NFC leases as the VM needs. Taken before the snapshot: one that waits for a slot grows."""

    @abstractmethod
    def notifiers(self, email: Email, *, mails: bool | None = None) -> tuple[Notifier, ...]:
        """Every way to tell people that the options name.

        Args:
            email: The options.
            mails: Whether mails are sent; as ``--email-notify`` says if None.
        """

    # -- who else is at work -------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def is_over(self) -> IsOver:
        """Proves that an owner's run is over."""

    @property
    @abstractmethod
    def at_work(self) -> AtWork:
        """Tells whether an owner's run is seen at work."""

    @property
    def may_be_at_work(self) -> AtWork:
        """Whether a run may still be at work: it was seen at work, or it is unknown whether it is over."""
        return self.at_work

    def watch_logins(self, session: Session, stop: StopSignal) -> None:  # noqa: B027
        """Have a login on the server to ask what it knows of other runs."""

    # -- what only an orchestrator does; without one nothing happens ---------------------------------------------------

    def check_options(self, options: ExportOptions) -> None:  # noqa: B027
        """Refuse options that this runner cannot carry out."""

    def check_orchestrator(
        self,
        options: ExportOptions,  # noqa: ARG002
        vcenter: str | None,  # noqa: ARG002
        vms: Sequence[VmInfo],  # noqa: ARG002
    ) -> list[SetupFinding]:
        """Whether the orchestrator would do its part."""
        return []

    def progress(self, vm: VmRef | None = None) -> AbstractContextManager[None]:  # noqa: ARG002
        """While the block runs, show the progress of a VM, or of everything, with the run."""
        return nullcontext()

    def show_markdown(self, key: Sequence[str], markdown: Callable[[], str], title: str) -> None:  # noqa: B027
        """Leave a page with the run."""

    def show_result(self, key: Sequence[str], result: object, title: str) -> None:  # noqa: B027
        """Leave the page of a result with the run."""

    def show_rows(self, key: Sequence[str], values: Iterable[object], title: str) -> None:  # noqa: B027
        """Leave values with the run as one table."""

    def show_table(self, key: Sequence[str], rows: Callable[[], list[dict[str, object]]], title: str) -> None:  # noqa: B027
        """Leave a table with the run."""

    def export_completed(self, result: ExportResult) -> None:  # noqa: B027
        """Emit the event of a complete export."""

    def export_failed(self, vm: VmRef | str, error: BaseException, *, stopped: bool) -> None:  # noqa: B027
        """Emit the event of an export that failed, or was stopped."""

    def restore_completed(self, result: RestoreResult) -> None:  # noqa: B027
        """Emit the event of a complete restore."""

    def restore_failed(self, vm: VmRef | str, error: BaseException, *, stopped: bool) -> None:  # noqa: B027
        """Emit the event of a restore that failed, or was stopped."""

    def snapshot_leaked(self, vm: VmRef, *, moref: str, name: str, vcenter: str) -> None:  # noqa: B027
        """Emit the event of a snapshot of ours that is on a VM and should not be."""

    def transport_distrusted(self, vm: VmRef, *, disk: str, transport: Transport, reason: str) -> None:  # noqa: B027
        """Emit the event of a disk that was read whole, because its ranges were not as the store has them."""

    def offer_restore_points(self, names: Sequence[str]) -> None:  # noqa: B027
        """Offer these where a restore is started from a form."""

    def drill_finished(self, record: DrillRecord) -> None:  # noqa: B027
        """Emit the event of a drill that passed or failed."""

    def export_damaged(self, export: StoredExport | DamagedExport, verified: VerifiedExport) -> None:  # noqa: B027
        """Emit the event of a damaged export."""
