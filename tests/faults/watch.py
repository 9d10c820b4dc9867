"""Counts what a process does that can be noticed outside of it, names the step that does it, and ends it at a count."""

import functools
import importlib
import os
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

_CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "socket.connect"}

STEPS = {
    "log in": ("hyperexport.vsphere.session", "Session.open"),
    "inspect": ("hyperexport.steps.inspect", "inspect_vm"),
    "check": ("hyperexport.steps.plan", "check_exportable"),
    "check the stores": ("hyperexport.steps.plan", "check_stores"),
    "plan snapshots": ("hyperexport.steps.snapshots", "make_snapshot_plan"),
    "leftovers": ("hyperexport.steps.leftovers", "remove_abandoned_stagings"),
    "old snapshots": ("hyperexport.steps.leftovers", "remove_each"),
    "stage locally": ("hyperexport.store.local_staging", "LocalStaging.__enter__"),
    "stage in S3": ("hyperexport.store.s3_staging", "S3Staging.create_owner_tag"),
    "snapshot": ("hyperexport.steps.snapshots", "take_snapshot"),
    "plan": ("hyperexport.steps.plan", "make_plan"),
    "transfer": ("hyperexport.steps.disks", "transfer_disk"),
    "transfer of a delta": ("hyperexport.steps.deltas", "transfer_delta"),
    "reuse": ("hyperexport.steps.disks", "reuse_disk"),
    "nvram": ("hyperexport.steps.package", "export_nvram"),
    "describe": ("hyperexport.steps.package", "describe_vm"),
    "remove snapshot": ("hyperexport.steps.snapshots", "remove_snapshot"),
    "pack": ("hyperexport.steps.package", "pack_ova"),
    "publish": ("hyperexport.steps.package", "publish"),
    "verify": ("hyperexport.steps.verification", "verify"),
    "tidy": ("hyperexport.steps.snapshots", "tidy_snapshots"),
    "cleanup": ("hyperexport.steps.cleanup", "delete_planned"),
    "half-made VMs": ("hyperexport.steps.restoring", "find_partial_vms"),
    "plan a restore": ("hyperexport.steps.restore_plan", "make_restore_plan"),
    "import": ("hyperexport.steps.restoring", "begin_import"),
    "upload": ("hyperexport.steps.restoring", "upload_file"),
    "complete": ("hyperexport.steps.restoring", "complete_import"),
    "attributes": ("hyperexport.steps.restoring", "restore_attributes"),
    "hand over": ("hyperexport.steps.restoring", "remove_owner_tag"),
    "power on": ("hyperexport.steps.restoring", "power_on"),
    "watch the guest": ("hyperexport.steps.vsphere_drilling", "watch_guest"),
    "screenshot": ("hyperexport.steps.vsphere_drilling", "fetch_screenshot"),
    "destroy": ("hyperexport.steps.restoring", "destroy_drill_vm"),
    "boot": ("hyperexport.steps.drilling", "boot_export"),
    "record": ("hyperexport.steps.drilling", "keep"),
    "attach": ("hyperexport.steps.restoring", "attach_disks"),
    "remove the carrier": ("hyperexport.steps.restoring", "remove_carrier"),
    "log out": ("hyperexport.vsphere.session", "Session.close"),
}
"""The named steps: where each is called by its name."""
_CALLED = {"transfer of a delta": "transfer"}
"""Steps of one name that are called in several places."""


class Watch:
    """The count. ``die`` is called just before the event that is to be the last.

    Args:
        kill_at: The number of that event, of all.
        kill_in: Or the step and the number of the event within it.
        die: Told the event, the step and the number; does not return.
    """

    def __init__(
        self, *, kill_at: int | None, kill_in: tuple[str, int] | None, die: Callable[[str, str, int], None]
    ) -> None:
        self._kill_at = kill_at
        self._kill_in = tuple(kill_in) if kill_in else None
        self._die = die
        self._lock = threading.Lock()
        self._step = "begin"
        self._began = False
        self.count = 0
        self.steps: Counter[str] = Counter()
        self.listeners: list[Callable[[str, str, tuple[Any, ...]], None]] = []
        """Called before each event, with it, the step, and its arguments; may raise in its place."""

    @property
    def step(self) -> str:
        """What is being done now."""
        return self._step

    def begin(self) -> None:
        """Count from here on."""
        for name, (module, target) in STEPS.items():
            self._name_step(_CALLED.get(name, name), module, target)
        for name in ("fsync", "write", "pread"):  # Python itself raises no audit events for these
            setattr(os, name, self._counted(f"os.{name}", getattr(os, name)))
        for name in ("send", "recv", "recv_into"):
            setattr(ssl.SSLSocket, name, self._counted(name, getattr(ssl.SSLSocket, name)))
        sys.addaudithook(self._audit)
        self._began = True

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._began:
            return
        if event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
            self._note(event, arguments)

    def _counted(self, event: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if event != "os.write" or args[0] > 2:
                self._note(event, args)
            return call(*args, **kwargs)

        return counted

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        with self._lock:
            if not self._began:
                return
            step = self._step
            for listen in self.listeners:
                listen(event, step, arguments)
            if event == "os.pread":
                return  # reading is nothing that anybody could notice
            self.count += 1
            self.steps[step] += 1
            in_step = (step, self.steps[step]) == self._kill_in if self._kill_in else False
            if self.count == self._kill_at or in_step:
                self._began = False
                self._die(event, step, self.count)

    def _name_step(self, name: str, module: str, target: str) -> None:
        place: Any = importlib.import_module(module)
        *path, last = target.split(".")
        for part in path:
            place = getattr(place, part)
        call = getattr(place, last)

        @functools.wraps(call)
        def named(*args: Any, **kwargs: Any) -> Any:
            before, self._step = self._step, name
            try:
                return call(*args, **kwargs)
            finally:
                self._step = before

        setattr(place, last, named)
