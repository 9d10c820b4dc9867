"""The main job against the simulated vCenter: what is stored equals what the guest held when the snapshot was taken.

Three tests run it as a flow; the others call the same job directly.
"""

import os
import subprocess
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import pytest

import hyperexport
from hyperexport import jobs
from hyperexport.cli.main import run
from hyperexport.errors import ServerBusy, failed_step
from hyperexport.flows import export_vm
from hyperexport.jobs.direct import DirectRunner
from hyperexport.model.manifest import ExportKind, FileRole, Quiescing
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.step import policy_of, step
from hyperexport.store.local import LocalStore
from hyperexport.tasks.registry import task_of
from tests.flows.support import changed, exported_bytes, exports_in, guest_bytes, leftovers, while_transferring

MIB = 1 << 20


def options(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, **keys})


def test_a_vm_whose_export_is_young_enough_is_left_alone_whoever_says_so(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hyperexport.export("db01", options(store, snapshot=True))
    (there,) = exports_in(store)
    monkeypatch.setenv("HYPEREXPORT_SKIP_NEWER_THAN", "1h")

    result = export_vm("db01", options(store, snapshot=True))
    assert result.recent == f"{store}/{there}"
    assert run(["--vm=db01", "--snapshot", f"--output={store}", "--quiet"]) == 0
    assert dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())["outcome"] == "skipped"
    assert exports_in(store) == [there]
    assert vcenter.requests["CreateSnapshot_Task"] == 1


def test_a_running_vm_is_exported_as_it_was_at_its_snapshot(vcenter: Simulator, store: Path) -> None:
    before = guest_bytes(vcenter, "db01")

    def guest_goes_on_writing() -> None:
        for disk in (0, 1):
            vcenter.vm("db01").guest_write(disk, 2 * MIB, os.urandom(MIB))

    with while_transferring(guest_goes_on_writing):
        result = export_vm("db01", options(store, snapshot=True, verify="on"))

    (export,) = exports_in(store)
    assert exported_bytes(LocalStore(store), export) == before
    assert guest_bytes(vcenter, "db01") != before
    assert result.manifest == export.manifest
    assert export.manifest.verified is not None
    assert export.manifest.kind is ExportKind.FULL
    assert export.manifest.snapshot.quiescing is Quiescing.FILESYSTEM
    assert leftovers(vcenter, store) == []


def test_the_package_is_whole_and_names_the_bytes_that_were_received(vcenter: Simulator, store: Path) -> None:
    hyperexport.export("db01", options(store, snapshot=True))

    (export,) = exports_in(store)
    folder = store / export.folder / export.export_id
    names = {entry.name for entry in export.manifest.files}
    disks = {"db01-disk-0.vmdk", "db01-disk-1.vmdk"}
    tags = {f"{disk}{suffix}" for disk in disks for suffix in (".tags", ".grains")}
    assert names == {"db01.ovf", "db01.mf", *disks, *tags, "db01.nvram", "db01.vm.json"}
    assert {path.name for path in folder.iterdir()} == {*names, "export.json"}
    for entry in export.manifest.files:
        assert (folder / entry.name).stat().st_size == entry.size
        if entry.role in {FileRole.DISK, FileRole.NVRAM}:
            assert f'ovf:href="{entry.name}"' in (folder / "db01.ovf").read_text()
            assert f'ovf:size="{entry.size}"' in (folder / "db01.ovf").read_text()
    assert (folder / "db01.nvram").read_bytes() == vcenter.vm("db01").nvram
    checked = subprocess.run(
        ["sha256sum", "--check", "-"], cwd=folder, input=_as_sha256sum(folder / "db01.mf"), text=True
    )
    assert checked.returncode == 0


def _as_sha256sum(checksums: Path) -> str:
    lines = [line.removeprefix("SHA256(").split(")= ") for line in checksums.read_text().splitlines()]
    return "".join(f"{digest}  {name}\n" for name, digest in lines)


@pytest.mark.conformance
def test_qemu_reads_exactly_the_guests_bytes(vcenter: Simulator, store: Path, tmp_path: Path, qemu_img: Path) -> None:
    hyperexport.export("db01", options(store, snapshot=True))

    (export,) = exports_in(store)
    for index, entry in enumerate(export.manifest.disks):
        raw = tmp_path / f"{index}.raw"
        vcenter.vm("db01").save_raw(index, raw)
        exported = store / export.folder / export.export_id / entry.name
        subprocess.run([qemu_img, "compare", "-f", "raw", "-F", "vmdk", raw, exported], check=True)


def test_only_the_disk_that_changed_is_transferred_again(vcenter: Simulator, store: Path) -> None:
    hyperexport.export("db01", options(store, snapshot=True, incremental=True))
    vcenter.vm("db01").guest_write(1, 3 * MIB, b"changed in the guest")

    result = hyperexport.export("db01", options(store, snapshot=True, incremental=True))

    newest, oldest = exports_in(store)
    assert changed(newest.manifest) == {"Hard disk 1": False, "Hard disk 2": True}
    assert exported_bytes(LocalStore(store), newest) == guest_bytes(vcenter, "db01")
    assert result.plan.kind is ExportKind.INCREMENTAL
    assert newest.manifest.base == oldest.export_id
    same = [store / str(export) / "db01-disk-0.vmdk" for export in (newest, oldest)]
    assert same[0].samefile(same[1]), "the unchanged disk is stored once"


def test_a_change_below_the_snapshot_is_never_missed_by_a_chain_of_exports(vcenter: Simulator, store: Path) -> None:
    for round_number in range(4):
        vcenter.vm("db01").guest_write(round_number % 2, round_number * MIB + 13, os.urandom(100_000))
        content = guest_bytes(vcenter, "db01")
        export = hyperexport.export if round_number < 3 else export_vm  # one store, whoever exports
        export("db01", options(store, snapshot=True, incremental=True))
        newest = exports_in(store)[0]
        assert exported_bytes(LocalStore(store), newest) == content
        assert newest.manifest.kind is (ExportKind.INCREMENTAL if round_number else ExportKind.FULL)


def test_a_vm_that_is_off_needs_no_snapshot(vcenter: Simulator, store: Path) -> None:
    vcenter.vm("db01").power_off()

    hyperexport.export("db01", options(store))

    (export,) = exports_in(store)
    assert exported_bytes(LocalStore(store), export) == guest_bytes(vcenter, "db01")
    assert export.manifest.snapshot is None
    assert leftovers(vcenter, store) == []


def test_an_ova_holds_the_same_package_in_one_file(vcenter: Simulator, store: Path, tmp_path: Path) -> None:
    hyperexport.export("db01", options(store, snapshot=True, format="ova", verify="on"))

    (export,) = exports_in(store)
    folder = store / str(export)
    tags = {f"db01-disk-{disk}.vmdk{suffix}" for disk in (0, 1) for suffix in (".tags", ".grains")}
    assert {path.name for path in folder.iterdir()} == {
        "db01.ova",
        "db01.vm.json",
        "export.json",
        "mark-verified.json",
        *tags,
    }
    listed = subprocess.run(["tar", "tf", folder / "db01.ova"], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["db01.ovf", "db01.mf", "db01-disk-0.vmdk", "db01-disk-1.vmdk", "db01.nvram"]
    assert exported_bytes(LocalStore(store), export) == guest_bytes(vcenter, "db01")


def test_an_incremental_ova_copies_the_unchanged_disk_out_of_the_last_one(vcenter: Simulator, store: Path) -> None:
    keys = {"snapshot": True, "incremental": True, "format": "ova"}
    hyperexport.export("db01", options(store, **keys))
    vcenter.vm("db01").guest_write(0, 0, b"changed")

    hyperexport.export("db01", options(store, **keys))

    newest = exports_in(store)[0]
    assert changed(newest.manifest) == {"Hard disk 1": True, "Hard disk 2": False}
    assert exported_bytes(LocalStore(store), newest) == guest_bytes(vcenter, "db01")


def test_a_dry_run_changes_nothing_anywhere(vcenter: Simulator, store: Path) -> None:
    tasks = dict(vcenter.requests)

    result = hyperexport.export("db01", options(store, snapshot=True, incremental=True, dry_run=True))

    assert not store.exists()
    changing = {"CreateSnapshot_Task", "ExportSnapshot", "ExportVm", "RemoveSnapshot_Task", "ReconfigVM_Task"}
    assert changing.isdisjoint({method for method, count in vcenter.requests.items() if count != tasks.get(method)})
    assert [disk.label for disk in result.plan.disks] == ["Hard disk 1", "Hard disk 2"]
    assert result.manifest is None


def test_disks_that_no_snapshot_holds_are_reported_and_the_others_exported(store: Path, monkeypatch) -> None:
    disks = (DiskSpec(MIB), DiskSpec(MIB, mode="independent_persistent"))
    with Simulator([VmSpec("mixed", disks=disks)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        result = hyperexport.export("mixed", options(store, snapshot=True))
        (export,) = exports_in(store)
        assert [disk.label for disk in export.manifest.skipped_disks] == ["Hard disk 2"]
        assert "independent" in export.manifest.skipped_disks[0].reason
        assert any("Hard disk 2" in warning for warning in result.warnings)
        assert exported_bytes(LocalStore(store), export) == [simulator.vm("mixed").read_disk(0, 0, MIB)]


def test_old_exports_are_cleaned_up_by_count_after_the_export(vcenter: Simulator, store: Path) -> None:
    for _ in range(2):
        hyperexport.export("db01", options(store, snapshot=True))
    result = hyperexport.export("db01", options(store, snapshot=True, cleanup=True, cleanup_max_count=2))
    assert len(exports_in(store)) == 2
    assert [len(cleanup.deleted) for cleanup in result.cleanups] == [1]


def test_snapshots_of_ours_are_kept_by_number_and_a_users_are_never_touched(vcenter: Simulator, store: Path) -> None:
    vcenter.vm("db01").take_snapshot("before the upgrade", "by hand")
    for _ in range(2):
        hyperexport.export("db01", options(store, snapshot=True, keep_snapshots=2))
    hyperexport.export("db01", options(store, snapshot=True, keep_snapshots=2))
    names = [name for _, name, _, _ in vcenter.vm("db01").snapshots()]
    assert names[0] == "before the upgrade"
    assert len(names) == 3


def test_a_vm_that_is_off_is_asked_what_changed_without_a_snapshot(vcenter: Simulator, store: Path) -> None:
    vcenter.vm("db01").power_off()
    hyperexport.export("db01", options(store, incremental=True))
    vcenter.vm("db01").power_on()
    vcenter.vm("db01").guest_write(0, 6 * MIB, b"while it was on")
    vcenter.vm("db01").power_off()

    hyperexport.export("db01", options(store, incremental=True))

    newest = exports_in(store)[0]
    assert changed(newest.manifest) == {"Hard disk 1": True, "Hard disk 2": False}
    assert exported_bytes(LocalStore(store), newest) == guest_bytes(vcenter, "db01")


def steps_of_jobs() -> list[Any]:
    """Every step that a job names."""
    modules = [import_module(f"hyperexport.jobs.{found.name}") for found in iter_modules(jobs.__path__)]
    rooms = {value for module in modules for value in vars(module).values() if isinstance(value, ModuleType)}
    named = [value for place in (*modules, *rooms) for value in vars(place).values()]
    return [value for value in named if callable(value) and hasattr(value, "hyperexport_step")]


def test_without_prefect_the_same_steps_are_repeated() -> None:
    steps = steps_of_jobs()
    repeated_by_prefect = {step.__name__ for step in steps if task_of(step).retries}
    assert len(steps) > 20
    assert repeated_by_prefect == {step.__name__ for step in steps if policy_of(step).retried}
    assert "take_snapshot" in repeated_by_prefect
    assert "remove_snapshot" not in repeated_by_prefect


@pytest.mark.parametrize("retried", [True, False])
def test_without_prefect_a_step_is_repeated_as_it_declares(retried: bool) -> None:
    attempts: list[int] = []

    @step("fail", retried=retried)
    def fail() -> None:
        attempts.append(1)
        raise ServerBusy("busy")

    with pytest.raises(ServerBusy) as caught:
        DirectRunner()(fail)
    assert len(attempts) == (4 if retried else 1)
    assert failed_step(caught.value) == "fail"
