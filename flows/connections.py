"""What every flow opens first: the stop signal, the session, the options in force."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

from blocks import VSphereCredentials
from hyperexport.options import Destination
from hyperexport.stop import StopSignal
from hyperexport.store.s3_settings import S3Settings
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.session import Session, connect
from tasks.logs import send_engine_logs_to_prefect

logger = logging.getLogger(__name__)

VSphere = VSphereCredentials | str | None
"""A saved block, its name, or None for the environment of the process that the flow runs in (``GOVC_*``)."""


@contextmanager
def stop_signal() -> Generator[StopSignal]:
    """Give the run its stop signal, raised as soon as the flow leaves by any exception, a cancellation included.

    Prefect's cancellation is a BaseException in the main thread; the threads that move bytes hear only this signal.
    """
    send_engine_logs_to_prefect()
    stop = StopSignal()
    try:
        yield stop
    except BaseException:
        stop.set()
        raise


@contextmanager
def vsphere_session(vsphere: VSphere, stop: StopSignal) -> Generator[Session]:
    """Log in, and out again whatever happens."""
    with connect(endpoint_of(vsphere), stop=stop) as session:
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
    from blocks.s3_credentials import load_s3_settings  # noqa: PLC0415 - prefect-aws takes a second to import

    return load_s3_settings(destination.s3_credentials, endpoint=destination.s3_endpoint)
