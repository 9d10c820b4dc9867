"""The steps of a job as plain calls in this process: no server, no database, no orchestrator.

They are the same functions that are Prefect tasks otherwise, with the same retries. Whether an earlier run is over is
as this machine's process table shows.
"""

from __future__ import annotations

import contextvars
import sys
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, ParamSpec, TypeVar

from hyperexport.base.retry import with_retries
from hyperexport.base.stop import StopSignal
from hyperexport.errors import UsageError, note_step
from hyperexport.jobs.runner import LeaseUser, Shared, StepRunner
from hyperexport.model.ownership import Run
from hyperexport.steps.bandwidth import throttle_for
from hyperexport.steps.liveness import AtWork, IsOver, process_at_work, process_is_over
from hyperexport.steps.step import policy_of
from hyperexport.transfer.bandwidth.throttle import Throttle

if TYPE_CHECKING:
    from hyperexport.model.vm import VmRef
    from hyperexport.notify import Notifier
    from hyperexport.options.groups import Bandwidth, Destination, Email
    from hyperexport.options.precedence import ExportOptions
    from hyperexport.store.s3_settings import S3Settings
    from hyperexport.vsphere.endpoint import VSphereEndpoint

SECONDS_TO_STOP: Final = 8.0
"""How long threads that move bytes are waited for when a run is stopped, before its cleanup continues without them."""

START_A_SERVER: Final = "Start one with hyperexport serve, or set PREFECT_API_URL"

P = ParamSpec("P")
R = TypeVar("R")


class OwnLimits(NamedTuple):
    """As many leases as the options allow; no limit is shared."""

    max_concurrency: int

    def release(self) -> None:
        """Do nothing: a run without an orchestrator holds no slots."""


class DirectRunner(StepRunner):
    """Carries out the steps in this process.

    Args:
        vsphere: The server and the login; this process's environment (``GOVC_URL``, ...) if None.
        s3: How to log in to S3; boto3's own chain if None.
        shared: What the fleet shares that this run is a part of.
    """

    def __init__(
        self, *, vsphere: VSphereEndpoint | None = None, s3: S3Settings | None = None, shared: Shared | None = None
    ) -> None:
        name = f"direct-{uuid.uuid4().hex[:12]}"
        super().__init__(Run(name), id=name, shared=shared)
        self._vsphere = vsphere
        self._s3 = s3
        self._stop = StopSignal()

    def child(self, shared: Shared) -> DirectRunner:
        """A runner for one VM of a fleet."""
        return DirectRunner(vsphere=self._vsphere, s3=self._s3, shared=shared)

    def __call__(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the step, retried as it declares."""
        policy = policy_of(step)
        try:
            if policy.retried:
                what = policy.describe(step, *args, **kwargs)
                return with_retries(step, self._stop, what)(*args, **kwargs)
            return step(*args, **kwargs)
        except BaseException as error:
            note_step(error, policy.name)
            raise

    def _call(self, step: Callable[..., R], arguments: Mapping[str, Any]) -> R:
        return self(step, **arguments)

    def side_by_side(
        self, step: Callable[..., R], calls: Sequence[Mapping[str, Any]], *, max_concurrency: int, stop: StopSignal
    ) -> list[R]:
        """Call the step in threads."""
        pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix=policy_of(step).name)
        futures: list[Future[R]] = []
        try:
            for call in calls:
                futures.append(pool.submit(contextvars.copy_context().run, partial(self._call, step, call)))
            for future in as_completed(futures):
                future.result()
        except BaseException as error:
            note_step(error, policy_of(step).name)
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            # What was cancelled before it began is never "done" for wait().
            wait([future for future in futures if not future.cancelled()], timeout=SECONDS_TO_STOP)
            raise
        pool.shutdown()
        return [future.result() for future in futures]

    @contextmanager
    def stop_signal(self) -> Generator[StopSignal]:
        """As the base does; the wait between two attempts at a step ends with it, too."""
        with super().stop_signal() as self._stop:
            yield self._stop

    def endpoint(self) -> VSphereEndpoint:
        """The one that was given, or the environment's."""
        if self._vsphere:
            return self._vsphere
        from hyperexport.vsphere.endpoint import VSphereEndpoint  # noqa: PLC0415 - not for what reads stores

        return VSphereEndpoint.from_environment()

    def s3_settings(self, destination: Destination) -> S3Settings | None:
        """Those that were given, at the options' address."""
        endpoint = destination.s3_endpoint
        return self._s3.model_copy(update={"endpoint_url": endpoint}) if self._s3 and endpoint else self._s3

    def bandwidth(self, wanted: Bandwidth) -> AbstractContextManager[Throttle]:
        """The fleet's, or one of its own."""
        return nullcontext(self.shared.throttle if self.shared else throttle_for(wanted))

    def progress(self, vm: VmRef | None = None) -> AbstractContextManager[None]:
        """Bars, where the run was started in IPython; the command line shows its own."""
        del vm
        if "IPython" not in sys.modules:
            return nullcontext()
        from hyperexport.views.interactive_progress import interactive_progress  # noqa: PLC0415 - only there

        return interactive_progress()

    def lease_slots(self, job: LeaseUser) -> AbstractContextManager[OwnLimits]:
        """Let the run hold a lease for each disk that may move at once."""
        return nullcontext(OwnLimits(job.options.execution.parallel))

    def notifiers(self, email: Email, *, mails: bool | None = None) -> tuple[Notifier, ...]:
        """The mail server that the options describe."""
        wanted = email.notify if mails is None else mails
        if not wanted:
            return ()
        from hyperexport.notify import open_mailbox  # noqa: PLC0415 - smtplib and ssl

        return (open_mailbox(email),)

    @property
    def is_over(self) -> IsOver:
        """Decide by this machine's process table."""
        return process_is_over

    @property
    def at_work(self) -> AtWork:
        """Decide by this machine's process table."""
        return process_at_work

    def check_options(self, options: ExportOptions) -> None:
        """Refuse what needs a Prefect server, in one line.

        Raises:
            UsageError: Some option does; the message names it.
        """
        needing = {
            "--bandwidth-shared": options.bandwidth.shared,
            "--leases-per-host": options.execution.leases_per_host,
            "--leases-per-vcenter": options.execution.leases_per_vcenter,
            "--spread": options.fleet.spread,
            "--s3-credentials": options.destination.s3_credentials,
            "--email-credentials": options.email.credentials if options.email.notify else None,
            "--notify-webhook": options.email.webhooks,
        }
        refused = [flag for flag, value in needing.items() if value]
        if refused:
            refuse(", ".join(refused))


def refuse(what: str) -> NoReturn:
    """Refuse what only a Prefect server can do.

    Raises:
        UsageError: Always.
    """
    verb = "need" if ", " in what else "needs"
    raise UsageError(f"{what} {verb} a Prefect server, but none is configured", fix=START_A_SERVER)
