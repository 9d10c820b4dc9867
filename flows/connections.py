"""What every flow opens first: the stop signal, the session, the options in force."""

import logging
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final

from prefect.runtime import flow_run
from pydantic import Field, model_serializer

from hyperexport.base.stop import StopSignal
from hyperexport.blocks import ExportProfile, VSphereCredentials
from hyperexport.blocks.export_profile import load_profile
from hyperexport.options.environment import warn_of_unknown_variables
from hyperexport.options.groups import Destination
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.store.s3_settings import S3Settings
from hyperexport.tasks.logs import send_engine_logs_to_prefect
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.session import Session, connect

logger = logging.getLogger(__name__)

VSphere = VSphereCredentials | str | None
"""A saved block, its name, or None for the environment of the process that the flow runs in (``GOVC_*``)."""

Profile = ExportProfile | str | None
"""A saved profile, its name, or None."""


class _NothingGiven(ExportOptions):
    """Options of which nobody set any. Written down, they are ``{}``: a form that starts from them sends nothing."""

    @model_serializer
    def _nothing(self) -> dict[str, object]:
        return {}


OPTIONS: Final[Any] = Field(default=_NothingGiven(), json_schema_extra={"position": 9})
"""What a flow's options are declared with: nothing given, and in the form below the other parameters, which are few."""


def options_in_force(options: ExportOptions, profile: Profile) -> ExportOptions:
    """Merge what the caller gave with the environment of this process, the profile and the defaults.

    Raises:
        UsageError: A value makes no sense, options contradict each other, or there is no such profile.
    """
    warn_of_unknown_variables()
    loaded = load_profile(profile) if isinstance(profile, str) else profile
    return resolve(options, profile=loaded.get_options() if loaded else None).options


_outer_stop: ContextVar[StopSignal | None] = ContextVar("stop signal of the run", default=None)


@contextmanager
def stop_signal() -> Generator[StopSignal]:
    """Give the run its stop signal, raised as soon as the flow leaves by any exception, a cancellation included.

    Prefect's cancellation is a BaseException in the main thread; the threads that move bytes hear only this signal.
    Within a run that has one already (a VM of a fleet, in a thread of its own), it is raised with that one, too.
    """
    send_engine_logs_to_prefect()
    outer, stop = _outer_stop.get(), StopSignal()
    token = _outer_stop.set(stop)
    try:
        with outer.waking(stop.set) if outer else nullcontext():
            yield stop
    except BaseException:
        stop.set()
        raise
    finally:
        _outer_stop.reset(token)


@contextmanager
def vsphere_session(vsphere: VSphere, stop: StopSignal) -> Generator[Session]:
    """Log in, and out again whatever happens."""
    with connect(endpoint_of(vsphere), stop=stop, run=str(flow_run.id)) as session:
        yield session


def endpoint_of(vsphere: VSphere) -> VSphereEndpoint:
    """Work out which server is meant."""
    if vsphere is None:
        return VSphereEndpoint.from_environment()
    block = VSphereCredentials.load(vsphere) if isinstance(vsphere, str) else vsphere
    assert isinstance(block, VSphereCredentials)
    return block.get_endpoint()


def s3_settings(destination: Destination) -> S3Settings | None:
    """Load the S3 credentials block that the options name; None for boto3's own chain."""
    if destination.s3_credentials is None:
        return None
    from hyperexport.blocks.s3_credentials import load_s3_settings  # noqa: PLC0415 - prefect-aws takes a second to import

    return load_s3_settings(destination.s3_credentials, endpoint=destination.s3_endpoint)
