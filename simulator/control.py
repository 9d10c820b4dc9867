"""Driving a simulator from another process: JSON under ``/simulator/`` on the vCenter's own port, and its client.

No vCenter has this; it stands for the hands of the people around one: the guest that writes, the administrator who
takes a snapshot, the cable that breaks. Only who has the token, which the starter gets, may use it.
"""

import base64
import json
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperexport.simulator.faults import Fault, FaultKind

if TYPE_CHECKING:
    from hyperexport.simulator.core import Simulator

_TOKEN_HEADER = "X-Simulator-Token"


class ControlFace:
    """The server's side."""

    def __init__(self, simulator: "Simulator", token: str) -> None:
        self._simulator = simulator
        self._token = token
        self._verbs: dict[str, Callable[[dict[str, Any]], Any]] = {
            "guest-write": self._guest_write,
            "read-disk": self._read_disk,
            "power": self._power,
            "snapshot": self._snapshot,
            "fault": self._fault,
            "clear-faults": self._clear_faults,
            "save-raw": self._save_raw,
        }

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, bytes]:
        """Answer one request with a status and JSON."""
        if not secrets.compare_digest((token or "").encode(), self._token.encode()):
            return 403, _json({"error": "the token is missing or wrong"})
        verb = path.removeprefix("/simulator/")
        try:
            if method == "GET" and verb == "state":
                return 200, _json(self._state())
            if method == "POST" and verb in self._verbs:
                return 200, _json(self._verbs[verb](json.loads(body or b"{}")))
        except (KeyError, ValueError, TypeError, OSError) as error:
            return 400, _json({"error": f"{type(error).__name__}: {error}"})
        return 404, _json({"error": f"there is no {method} {verb}"})

    def _guest_write(self, request: dict[str, Any]) -> None:
        data = base64.b64decode(request["data"])
        self._simulator.vm(request["vm"]).guest_write(request["disk"], request["offset"], data)

    def _read_disk(self, request: dict[str, Any]) -> str:
        vm = self._simulator.vm(request["vm"])
        data = vm.read_disk(request["disk"], request["offset"], request["length"], request.get("snapshot"))
        return base64.b64encode(data).decode()

    def _power(self, request: dict[str, Any]) -> None:
        vm = self._simulator.vm(request["vm"])
        (vm.power_on if request["on"] else vm.power_off)()

    def _snapshot(self, request: dict[str, Any]) -> str | None:
        vm = self._simulator.vm(request["vm"])
        if "remove" in request:
            vm.remove_snapshot(request["remove"])
            return None
        return vm.take_snapshot(request["name"], request.get("description", ""))

    def _fault(self, request: dict[str, Any]) -> None:
        self._simulator.faults.add(Fault(**{**request, "kind": FaultKind(request["kind"])}))

    def _clear_faults(self, _request: dict[str, Any]) -> None:
        self._simulator.faults.clear()

    def _save_raw(self, request: dict[str, Any]) -> None:
        self._simulator.vm(request["vm"]).save_raw(request["disk"], Path(request["path"]), request.get("snapshot"))

    def _state(self) -> dict[str, Any]:
        simulator = self._simulator
        return {
            "vms": [vm.state() for vm in simulator.vms()],
            "leases": [
                {"moref": lease.moid, "vm": lease.vm_name, "state": lease.state} for lease in simulator.leases()
            ],
            "most_at_once": simulator.most_at_once(),
            "sessions": [session.user.name for session in simulator.sessions()],
            "requests": dict(simulator.requests),
            "fired": [asdict(fault) for fault in simulator.faults.fired],
        }


class Control:
    """The client's side: the same verbs, from another process.

    Args:
        url: The simulator's URL, with or without ``/sdk``.
        token: What the ready file gives as ``token``.
        ca_file: The CA of the simulated vCenter.

    Every method raises ``ValueError`` with the simulator's words when it refuses, and ``OSError`` when it is gone.
    """

    def __init__(self, url: str, token: str, *, ca_file: str | Path) -> None:
        self._base = url.removesuffix("/").removesuffix("/sdk") + "/simulator/"
        self._token = token
        self._context = ssl.create_default_context(cafile=str(ca_file))

    def guest_write(self, vm: str, disk: int, offset: int, data: bytes) -> None:
        """Have a guest write bytes to a disk."""
        self._post("guest-write", vm=vm, disk=disk, offset=offset, data=base64.b64encode(data).decode())

    def read_disk(self, vm: str, disk: int, offset: int, length: int, snapshot: str | None = None) -> bytes:
        """Read bytes of a disk, as it is or as a snapshot froze it."""
        return base64.b64decode(
            self._post("read-disk", vm=vm, disk=disk, offset=offset, length=length, snapshot=snapshot)
        )

    def power_on(self, vm: str) -> None:
        """Power a VM on."""
        self._post("power", vm=vm, on=True)

    def power_off(self, vm: str) -> None:
        """Power a VM off."""
        self._post("power", vm=vm, on=False)

    def take_snapshot(self, vm: str, name: str, description: str = "") -> str:
        """Take a snapshot as a user would; answers its id."""
        return self._post("snapshot", vm=vm, name=name, description=description)

    def remove_snapshot(self, vm: str, moref: str) -> None:
        """Remove a snapshot as a user would."""
        self._post("snapshot", vm=vm, remove=moref)

    def add_fault(self, fault: Fault) -> None:
        """Arm a fault."""
        self._post("fault", **asdict(fault))

    def clear_faults(self) -> None:
        """Disarm all faults."""
        self._post("clear-faults")

    def save_raw(self, vm: str, disk: int, path: str | Path, snapshot: str | None = None) -> None:
        """Write a disk as a raw image to a path on the simulator's machine."""
        self._post("save-raw", vm=vm, disk=disk, path=str(path), snapshot=snapshot)

    def state(self) -> dict[str, Any]:
        """The VMs with their snapshots, live leases and sessions, each host's load, requests, the faults that fired."""
        return self._send("state", None)

    def _post(self, verb: str, **fields: Any) -> Any:
        return self._send(verb, _json(fields))

    def _send(self, verb: str, body: bytes | None) -> Any:
        request = urllib.request.Request(self._base + verb, data=body, headers={_TOKEN_HEADER: self._token})
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"the simulator refused {verb}: {error.read().decode()}") from None


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
