"""Where an export may be killed: a VM and the stores that it goes to, in each of the forms that an export has."""

import hashlib
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.model.marks import MARK_FILES
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from tests.engine import nbdkit_tool
from tests.engine.s3_servers import S3Server
from tests.faults.guest import USERS_SNAPSHOT, Guest
from tests.faults.harness import Outcome, Victims
from tests.faults.invariants import Bucket, Folder, Place, assert_whole, left_in, left_on_server, listing

MIB = 1 << 20
LOCAL, S3 = "local", "s3"
KEPT = 3
"""How many exports cleanup keeps of each VM, so that a long series needs no more room than a short one."""


@dataclass(frozen=True)
class Form:
    """One form of an export: its stores and its options."""

    name: str
    stores: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


FORMS = (
    Form("local", (LOCAL,), {"verify": True}),
    Form("local incremental", (LOCAL,), {"incremental": True, "max_chain": 0}),
    Form("streamed to S3", (S3,), {"verify": True}),
    Form("streamed to S3 incremental", (S3,), {"incremental": True, "max_chain": 0}),
    Form("local and S3", (LOCAL, S3), {}),
    Form("OVA", (LOCAL,), {"format": "ova"}),
    Form("OVA and S3", (LOCAL, S3), {"format": "ova", "verify": True}),
    Form("local and S3 incremental", (LOCAL, S3), {"incremental": True, "max_chain": 0}),
    Form("local deltas", (LOCAL,), {"incremental": True, "max_chain": 3}),
    Form("local and S3 deltas", (LOCAL, S3), {"incremental": True, "max_chain": 3}),
    Form("synthetic fulls by nbdkit", (LOCAL,), {"incremental": True, "max_chain": 1, "transport": "nbdkit"}),
)


def vm_spec(number: int) -> VmSpec:
    """The VM of one form: two disks, and a snapshot of its user's."""
    disks = (DiskSpec(6 * MIB, used=0.6), DiskSpec(3 * MIB, used=0.4))
    return VmSpec(f"vm-{number}", disks=disks, snapshots=(USERS_SNAPSHOT,))


class Scene:
    """A VM that is exported again and again in one form, and what is expected of its stores.

    Args:
        form: The form.
        simulator: The server.
        vm: The VM's name; nobody else uses it.
        victims: Run the exports.
        folder: Where local exports go.
        s3: The object store, and a bucket of the scene's own.
        seed: Decides what the guest writes.
    """

    def __init__(
        self,
        form: Form,
        *,
        simulator: Simulator,
        vm: str,
        victims: Victims,
        folder: Path,
        s3: S3Server | None,
        seed: str = "0",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.form = form
        self.simulator = simulator
        self.vm = vm
        self.guest = Guest(simulator.vm(vm), random.Random(f"{seed} {form.name}"))
        self.expected: dict[str, list[str]] = {}
        """What the guest held at the snapshot of each export that was ever listed, by its name."""
        self._victims = victims
        self.environment = dict(simulator.environment())
        self.options: dict[str, Any] = {"snapshot": True, "cleanup": True, "cleanup_max_count": KEPT, **form.options}
        self.options |= options or {}
        self.stores: dict[str, tuple[Store, Place]] = {}
        if LOCAL in form.stores:
            self.options["output"] = str(folder)
            self.stores[LOCAL] = (LocalStore(folder), Folder(folder))
        else:
            self.options["keep_local"] = False
        if S3 in form.stores:
            assert s3
            self._open_s3(s3)
        self._nbdkit = None
        if "transport" in form.options:
            tool = folder.with_name(f"nbdkit-{vm}")
            self._nbdkit = nbdkit_tool.prepare(tool, simulator)
            self.environment["PATH"] = f"{tool}:{os.environ['PATH']}"

    def _open_s3(self, server: S3Server) -> None:
        bucket = server.make_bucket("f" + hashlib.sha256(f"{self.vm} {self.form.name}".encode()).hexdigest()[:12])
        self.options |= {"upload": f"s3://{bucket}/vms", "s3_endpoint": server.endpoint_url}
        self.environment |= {
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_CA_BUNDLE": str(server.ca_file),
        }
        settings = S3Settings(
            endpoint_url=server.endpoint_url,
            ca_bundle=server.ca_file,
            access_key=SecretStr(server.access_key),
            secret_key=SecretStr(server.secret_key),
        )
        store = S3Store(S3Location(bucket=bucket, prefix="vms"), settings, stop=StopSignal())
        self.stores[S3] = (store, Bucket(server.client(), bucket, "vms"))

    def export(self, **how: Any) -> Outcome:
        """Export the VM, whose guest goes on writing; whatever is listed afterwards must be whole and true."""
        before = self._seen()
        self.guest.write()
        with self.guest.at_work() as guest:
            outcome = self.run("export", **how)
        self.expect_truth(before, guest)
        return outcome

    def run(self, flow: str, **how: Any) -> Outcome:
        """Run any of the flows."""
        options = {**self.options, **how.pop("options", {})}
        return self._victims.run(flow, environment=self.environment, options=options, vm=self.vm, **how)

    def expect_truth(self, before: dict[str, dict[str, object]], guest: list[str]) -> None:
        """What is listed now is what was, untouched, and at the most one more, which is what the guest had."""
        for kind, (store, place) in self.stores.items():
            now = listing(store)
            assert store.listing().damaged == ()
            new = now.keys() - before[kind].keys()
            assert len(new) <= 1, f"one run made {sorted(new)}"
            for name in new:
                self.expected[name] = guest
                assert_whole(store, now[name], guest)
            for name in now.keys() & before[kind].keys():
                assert self._look(place, now[name]) == before[kind][name], f"{name} was touched"

    def prove_all(self) -> int:
        """Restore every export that is listed in any store, and compare; returns how many there were."""
        proved = 0
        for store, _ in self.stores.values():
            for name, export in listing(store).items():
                assert_whole(store, export, self.expected[name])
                proved += 1
        return proved

    def leftovers(self) -> list[str]:
        """Whatever is there, on the server or in a store, and belongs to no listed export."""
        found = left_on_server(self.simulator, self.vm)
        for store, place in self.stores.values():
            found += left_in(store, place)
        return found + [f"nbdkit with the process id {pid}" for pid in (self._nbdkit.alive if self._nbdkit else ())]

    def exports(self) -> list[StoredExport]:
        """The exports that the first of the stores lists."""
        return next(iter(self.stores.values()))[0].exports()

    def _seen(self) -> dict[str, dict[str, object]]:
        return {
            kind: {name: self._look(place, export) for name, export in listing(store).items()}
            for kind, (store, place) in self.stores.items()
        }

    def _look(self, place: Place, export: StoredExport) -> object:
        """What changes in an export when it is written.

        Its marks may be, as verification does; and a hidden file is no part of it: what a kill left there (an owner
        tag, half a mark) the next run takes away.
        """
        return {
            name: facts
            for name, facts in place.fingerprint(f"{export}/").items()
            if not name.endswith(("/", *MARK_FILES)) and "/." not in name
        }
