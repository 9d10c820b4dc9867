"""A simulator in a process of its own: started, announced by a file, served until it is stopped."""

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from hyperexport.base.units import MIB
from hyperexport.simulator.core import Simulator
from hyperexport.simulator.faults import Fault, FaultKind
from hyperexport.simulator.spec import numbered_vms

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """How to reach a simulator that serves; what the ready file holds."""

    url: str
    username: str
    password: str = field(repr=False)
    ca_file: str
    thumbprint: str
    token: str = field(repr=False)
    """Opens the control (:class:`hyperexport.simulator.control.Control`)."""


def run(
    *,
    port: int = 0,
    vms: int = 3,
    disks: int = 2,
    disk_size: int = 64 * MIB,
    used: float = 0.25,
    address: str = "127.0.0.1",
    username: str = "administrator@vsphere.local",
    password: str | None = None,
    ready_file: Path | None = None,
    directory: Path | None = None,
    latency: float = 0.0,
    lease_timeout: float = 300.0,
    manifests: bool = True,
    on_ready: Callable[[Ready], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. To be called in the main thread.

    Args:
        port: The vCenter's port; 0 chooses a free one.
        vms: How many VMs there are, all running and named ``vm-01`` and so on.
        disks: How many disks each VM has.
        disk_size: The capacity of each disk, in bytes.
        used: The part of it that holds data.
        address: The address to listen on.
        username: The administrator's name.
        password: The administrator's password; None makes one up.
        ready_file: Where to write, as JSON and readable only by the owner, how to reach it once it serves.
        directory: Where the CA's certificate is written; None makes a temporary directory.
        latency: Seconds that every call and download waits before it is answered.
        lease_timeout: Seconds without progress after which a lease ends.
        manifests: Whether hosts hash what they send, for GetManifest.
        on_ready: Called with its address once it serves.

    Raises:
        OSError: The port cannot be listened on, or a file cannot be written.
    """
    inventory = numbered_vms(vms, disks=disks, disk_size=disk_size, used=used)
    stop = threading.Event()
    with (
        _stopping_on_signals(stop),
        Simulator(
            inventory,
            port=port,
            address=address,
            username=username,
            password=password,
            directory=directory,
            lease_timeout=lease_timeout,
            manifests=manifests,
        ) as simulator,
    ):
        if latency:
            simulator.faults.add(Fault(FaultKind.LATENCY, delay=latency, times=0))
        _announce(_ready(simulator), ready_file, on_ready)
        stop.wait()
    logger.info("the simulated vCenter has stopped")


def _ready(simulator: Simulator) -> Ready:
    return Ready(
        url=simulator.url,
        username=simulator.username,
        password=simulator.password,
        ca_file=str(simulator.ca_file),
        thumbprint=simulator.thumbprint,
        token=simulator.control_token,
    )


def _announce(ready: Ready, file: Path | None, on_ready: Callable[[Ready], None] | None) -> None:
    if file:
        # Who polls for the file must never see half of it.
        partial = file.with_name(f"{file.name}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as out:  # noqa: PTH123 - a descriptor, for its mode
            json.dump(asdict(ready), out)
        partial.replace(file)
    if on_ready:
        on_ready(ready)


@contextmanager
def _stopping_on_signals(stop: threading.Event) -> Generator[None]:
    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
