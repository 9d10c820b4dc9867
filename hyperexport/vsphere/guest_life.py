"""Whether a guest lives, as vSphere sees it, and a picture of its screen.

vSphere API: ``guestHeartbeatStatus`` is gray without running VMware Tools, green while their heartbeat comes, yellow
while it comes irregularly, red once it has stopped. It needs no network.
"""

import time
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, ServerFault
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import Properties, properties, watch
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.places import Place
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.vm_tasks import run_task

_PATHS: Final = ("guestHeartbeatStatus", "runtime.powerState", "runtime.question", "runtime.host")
_ALIVE: Final = (vim.ManagedEntity.Status.green, vim.ManagedEntity.Status.yellow)
_SECONDS_FOR_SCREENSHOT: Final = 60.0


class Life(NamedTuple):
    """What came of watching a guest."""

    lives: bool
    reason: str
    """In words, how it ended; a sentence without a full stop."""
    seconds: float
    host: str | None
    """The name of the host that it ran on; None where that is not seen."""


def watch_for_heartbeat(session: Session, vm: VmRef, seconds: float, *, stop: StopSignal) -> Life:
    """Wait until VMware Tools in the guest send their heartbeat, or it is clear that they will not.

    Args:
        session: The login.
        vm: The VM, which was powered on.
        seconds: How long to wait.
        stop: Ends the waiting.

    Raises:
        ServerFault: The VM is gone.
        HyperExportError: The server could not be asked.
        Interrupted: ``stop`` was raised.
    """
    began = time.monotonic()
    for values in watch(session, vm_object(session, vm), _PATHS, doing=f"watching {vm.path}", stop=stop):
        took = time.monotonic() - began
        lives = values.get("guestHeartbeatStatus") in _ALIVE
        reason = "VMware Tools send their heartbeat" if lives else _end(values, over=took > seconds)
        if reason is None:
            continue
        if not reason:
            reason = f"no heartbeat of VMware Tools within {seconds:.0f} s"
        return Life(lives, reason, took, _name_of(session, values.shown("runtime.host")))
    raise AssertionError("watch() does not end")


def _end(values: Properties, *, over: bool) -> str | None:
    """Why nothing more is to come, in words, which are empty where only time is up; None while something may come."""
    if values.get("runtime.powerState") != vim.VirtualMachine.PowerState.poweredOn:
        return "it switched itself off before it gave a sign of life"
    if question := values.shown("runtime.question"):
        return f"vSphere waits for an answer: {question.text}"
    return "" if over else None


def _name_of(session: Session, host: Any) -> str | None:
    try:
        return properties(session, host, ("name",), doing="reading the name of a host").shown("name") if host else None
    except HyperExportError:
        return None


def take_screenshot(session: Session, vm: VmRef, datacenter: Place, *, stop: StopSignal) -> str:
    """Have the server take a picture of a VM's screen. It lies beside the VM, and goes with it.

    Returns:
        Where it can be downloaded with the session's cookie.

    Raises:
        HyperExportError: There is none.
    """
    doing = f"taking a screenshot of {vm.path}"
    method = vm_object(session, vm).CreateScreenshot_Task
    path: Any = run_task(session, vm, method, doing=doing, stop=stop, timeout=_SECONDS_FOR_SCREENSHOT)
    datastore, bracket, name = str(path).removeprefix("[").partition("] ")
    if not (bracket and name):
        raise ServerFault(f"{doing} failed: {session.address} reported the position {path!r}, which is invalid")
    query = urlencode({"dcPath": datacenter.path.strip("/"), "dsName": datastore}, quote_via=quote)
    return f"https://{session.endpoint.address}/folder/{quote(name)}?{query}"
