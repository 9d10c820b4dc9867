"""Bad input and faults: a clear one-line error, no snapshot, lease or session, and nothing that looks whole.

One case of each kind is a flow run; the others call the same job directly.
"""

import os
import socket
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.flows import export_vm
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, UserSpec, VmSpec
from hyperexport.steps.plan import requirements
from hyperexport.store.local import LocalStore
from tests.flows.support import exported_bytes, exports_in, guest_bytes, leftovers

HALF = 400_000
"""A place about half way into what is transferred of each disk."""


def failing(
    kind: type[errors.HyperExportError],
    vcenter: Simulator,
    store: Path,
    vm: str = "db01",
    *,
    export: Callable[..., object] = hyperexport.export,
    **keys: object,
) -> str:
    """Run an export that must fail with this error, and must leave nothing; returns the message."""
    with pytest.raises(kind) as caught:
        export(vm, ExportOptions.from_keys({"output": store, "snapshot": True, **keys}))
    assert leftovers(vcenter, store) == []
    assert not store.exists() or exports_in(store) == []
    message = str(caught.value)
    assert "\n" not in message
    assert vcenter.password not in message
    return message


def test_a_wrong_password_is_refused(vcenter: Simulator, store: Path, monkeypatch) -> None:
    monkeypatch.setenv("GOVC_PASSWORD", "wrong-password")
    assert "wrong-password" not in failing(errors.LoginRefused, vcenter, store, export=export_vm)


def test_an_address_where_nobody_answers(vcenter: Simulator, store: Path, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("GOVC_URL", f"https://127.0.0.1:{port}/sdk")
    assert str(port) in failing(errors.ServerUnreachable, vcenter, store)


def test_a_certificate_that_nobody_vouches_for(vcenter: Simulator, store: Path, monkeypatch) -> None:
    monkeypatch.delenv("GOVC_TLS_CA_CERTS")
    message = failing(errors.CertificateUntrusted, vcenter, store)
    assert vcenter.thumbprint.replace(":", "").lower() in message.replace(":", "").lower()


def test_a_pinned_thumbprint_stands_in_for_the_authority(vcenter: Simulator, store: Path, monkeypatch) -> None:
    monkeypatch.delenv("GOVC_TLS_CA_CERTS")
    monkeypatch.setenv("HYPEREXPORT_VSPHERE_THUMBPRINT", vcenter.thumbprint)
    hyperexport.export("db01", ExportOptions.from_keys({"output": store, "snapshot": True}))
    assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(vcenter, "db01")


def test_a_name_that_no_vm_bears(vcenter: Simulator, store: Path) -> None:
    assert "db01" in failing(errors.VmNotFound, vcenter, store, "db-01", export=export_vm)


def test_a_name_that_two_vms_bear_lists_their_paths(store: Path, monkeypatch) -> None:
    twins = [VmSpec("db01", folder="north"), VmSpec("db01", folder="south")]
    with Simulator(twins) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        message = failing(errors.VmAmbiguous, simulator, store)
    assert "/DC0/vm/north/db01" in message
    assert "/DC0/vm/south/db01" in message


def test_a_running_vm_without_a_snapshot(vcenter: Simulator, store: Path) -> None:
    assert "--snapshot" in failing(errors.VmPoweredOn, vcenter, store, snapshot=False)


@pytest.mark.parametrize("privilege", ["VApp.Export", "VirtualMachine.State.CreateSnapshot"])
def test_a_missing_privilege_is_named(store: Path, monkeypatch, privilege: str) -> None:
    most = frozenset(need.privilege for need in requirements(ExportOptions.from_keys({"snapshot": True}))) - {privilege}
    with Simulator([VmSpec("db01")], users=(UserSpec("backup", "secret-1", most),)) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GOVC_USERNAME", "backup")
        monkeypatch.setenv("GOVC_PASSWORD", "secret-1")
        assert privilege in failing(errors.PermissionMissing, simulator, store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A filesystem with room for half an export."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]).returncode:
        pytest.skip("no filesystem can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(vcenter: Simulator, small_disk: Path) -> None:
    assert str(small_disk) in failing(errors.DiskFull, vcenter, small_disk, export=export_vm)


def test_an_output_that_cannot_be_written(vcenter: Simulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(errors.StoreUnusable):
        hyperexport.export("db01", ExportOptions.from_keys({"output": tmp_path / "file" / "exports", "snapshot": True}))
    assert leftovers(vcenter, tmp_path / "nothing") == []
    assert "CreateSnapshot_Task" not in vcenter.requests, "the store is proved before the VM is touched"


SURVIVED = [
    Fault(FaultKind.CUT, disk=1, at_byte=HALF),
    Fault(FaultKind.TRUNCATE, disk=0, at_byte=HALF),
    Fault(FaultKind.TRUNCATE, disk=0, at_byte=512),
    Fault(FaultKind.CORRUPT, disk=0, at_byte=HALF + 7),
    Fault(FaultKind.CORRUPT, disk=1, at_byte=3),
    Fault(FaultKind.EMPTY, disk=1),
    Fault(FaultKind.HTTP_STATUS, disk=0, status=503),
    Fault(FaultKind.LEASE_ERROR),
    Fault(FaultKind.LEASE_EXPIRED, disk=0, at_byte=HALF),
    Fault(FaultKind.SESSION_EXPIRED, disk=0, at_byte=HALF),
    Fault(FaultKind.TASK_IN_PROGRESS, method="CreateSnapshot_Task"),
]


BY_A_FLOW = {FaultKind.TRUNCATE, FaultKind.LEASE_ERROR, FaultKind.SESSION_EXPIRED, FaultKind.TASK_IN_PROGRESS}
"""Faults that a flow meets in the ordinary suite: one within a step, those that have a step tried again, and one that
lasts. Every fault is met by the same job without Prefect, and by a flow with ``make faults``."""


def cells(faults: list) -> list:
    """Each case of a table, met directly and by a flow."""
    found, seen = [], set()
    for case in faults:
        values = case if isinstance(case, tuple) else (case,)
        kind = values[0].kind
        ordinary = kind in BY_A_FLOW and kind not in seen
        seen.add(kind)
        marks = () if ordinary else pytest.mark.faults
        name = f"{kind}-{values[0].at_byte}"
        found.append(pytest.param(hyperexport.export, *values, id=f"{name}-directly"))
        found.append(pytest.param(export_vm, *values, id=f"{name}-flow", marks=marks))
    return found


@pytest.mark.parametrize(("export", "fault"), cells(SURVIVED))
def test_a_fault_that_passes_is_survived_with_the_right_bytes(
    vcenter: Simulator, store: Path, export: Callable[..., object], fault: Fault
) -> None:
    vcenter.faults.add(fault)

    export("db01", ExportOptions.from_keys({"output": store, "snapshot": True}))

    assert vcenter.faults.fired, "the fault was never met"
    (stored,) = exports_in(store)
    assert exported_bytes(LocalStore(store), stored) == guest_bytes(vcenter, "db01")
    assert leftovers(vcenter, store) == []


LASTING = [
    (Fault(FaultKind.CUT, disk=1, at_byte=HALF, times=0), errors.TransferInterrupted),
    (Fault(FaultKind.TRUNCATE, disk=0, at_byte=HALF, times=0), errors.StreamCorrupt),
    (Fault(FaultKind.CORRUPT, disk=0, at_byte=HALF + 7, times=0), errors.ChecksumMismatch),
    (Fault(FaultKind.EMPTY, disk=1, times=0), errors.StreamCorrupt),
    (Fault(FaultKind.LEASE_ERROR, times=0), errors.LeaseFailed),
    (Fault(FaultKind.CREATE_SNAPSHOT_FAILED, times=0), errors.SnapshotFailed),
    (Fault(FaultKind.DESCRIPTOR_ERROR, times=0), errors.DescriptorFailed),
]


@pytest.mark.parametrize(("export", "fault", "error"), cells(LASTING))
def test_a_fault_that_lasts_fails_the_export_and_leaves_nothing(
    vcenter: Simulator,
    store: Path,
    export: Callable[..., object],
    fault: Fault,
    error: type[errors.HyperExportError],
) -> None:
    vcenter.faults.add(fault)
    failing(error, vcenter, store, export=export)
    assert vcenter.faults.fired


def test_a_snapshot_that_cannot_be_removed_fails_the_run_but_not_the_export(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.REMOVE_SNAPSHOT_FAILED, times=0))
    with pytest.raises(errors.SnapshotLeaked, match="db01"):
        export_vm("db01", ExportOptions.from_keys({"output": store, "snapshot": True}))
    assert len(exports_in(store)) == 1


def test_quiescing_falls_back_and_says_so(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=0))
    result = hyperexport.export("db01", ExportOptions.from_keys({"output": store, "snapshot": True}))
    assert result.manifest.snapshot.quiescing == "crash-consistent"
    assert any("crash-consistent" in warning for warning in result.warnings)


def test_quiescing_that_is_required_fails_the_export(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=0))
    failing(errors.QuiesceFailed, vcenter, store, quiesce_required=True)


def test_a_vm_whose_disks_are_smaller_than_a_grain(store: Path, monkeypatch) -> None:
    with Simulator([VmSpec("tiny", disks=(DiskSpec(512), DiskSpec(65536 + 512)))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        hyperexport.export("tiny", ExportOptions.from_keys({"output": store, "snapshot": True, "verify": True}))
        assert exported_bytes(LocalStore(store), exports_in(store)[0]) == guest_bytes(simulator, "tiny")
