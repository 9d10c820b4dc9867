"""The steps of a drill in vSphere beside those of a restore: watch the guest, and fetch a picture of its screen."""

import logging
from typing import Final

from hyperexport.errors import HyperExportError
from hyperexport.model.vm import VmRef
from hyperexport.steps.restore_job import RestoreJob
from hyperexport.steps.step import step
from hyperexport.transfer.source import open_source
from hyperexport.vsphere.guest_life import Life, take_screenshot, watch_for_heartbeat

logger = logging.getLogger(__name__)

_LARGEST_SCREENSHOT: Final = 32 << 20
"""Bytes: a screen of 8K is less as PNG."""
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


@step("watch-guest")
def watch_guest(job: RestoreJob, seconds: float) -> Life:
    """Wait until the guest gives a sign of life; one that does not is a result, and no error.

    Raises:
        HyperExportError: The server could not be asked.
        Interrupted: The run was asked to stop.
    """
    assert job.vm
    life = watch_for_heartbeat(job.session, job.vm, seconds, stop=job.stop)
    logger.info("%s: %s after %.1f s", job.vm.path, life.reason, life.seconds)
    return life


@step("take-screenshot")
def fetch_screenshot(job: RestoreJob) -> bytes | None:
    """Take a picture of the guest's screen, and fetch it. What fails here is a warning: the record has no picture."""
    assert job.vm
    try:
        return _fetch(job, job.vm)
    except HyperExportError as error:
        job.stop.check()
        job.warn(f"there is no screenshot: {error.what}")
        return None


def _fetch(job: RestoreJob, vm: VmRef) -> bytes | None:
    assert job.prepared
    datacenter = job.prepared.placement.datacenter
    if datacenter is None:
        job.warn("there is no screenshot: the datacenter of its folder is not seen")
        return None
    url = take_screenshot(job.session, vm, datacenter, stop=job.stop)
    picture = bytearray()
    piece = memoryview(bytearray(1 << 16))
    with open_source(
        url,
        trust=job.session.endpoint.trust,
        stop=job.stop,
        headers={"Cookie": job.session.cookie},
        largest=_LARGEST_SCREENSHOT,
    ) as source:
        while count := source.readinto(piece):
            picture += piece[:count]
    if not picture.startswith(_SIGNATURE):
        job.warn("there is no screenshot: the server's answer is not a PNG")
        return None
    return bytes(picture)
