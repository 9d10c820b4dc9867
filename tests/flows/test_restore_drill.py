"""The flow of restore drills: by Prefect, from the command line, with a table, an event's facts and the record."""

import json
from pathlib import Path

import pytest

from hyperexport import ExportOptions, flows
from hyperexport.cli.main import run
from hyperexport.errors import DrillFailed
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.simulator.boot_sector import bootable_disk
from tests.peers import require_program

SIZE = 4 << 20


def test_a_drill_by_prefect_boots_the_export_and_fails_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_program("qemu-system-x86_64", "no export has been booted")
    with Simulator([VmSpec("db01", disks=(DiskSpec(SIZE),), powered_on=False, firmware="bios")]) as vcenter:
        vcenter.vm("db01").guest_write(0, 0, bootable_disk("proof of db01", size=SIZE))
        for name, value in vcenter.environment().items():
            monkeypatch.setenv(name, value)
        assert run(["--vm", "db01", "--output", str(tmp_path), "--no-prefect"]) == 0
        capsys.readouterr()
        assert run(["drill", "--vm", "db01", "--target", "vsphere", "--output", str(tmp_path), "--json"]) == 0
        assert [vm.name for vm in vcenter.vms()] == ["db01"]
    (result,) = json.loads(capsys.readouterr().out)["drills"]
    assert (result["record"]["sign"], result["leaked"]) == ("heartbeat", None)
    (path,) = tmp_path.rglob("drill-*.json")
    path.unlink()

    drill = ["drill", "--vm", "db01", "--emulate", "--output", str(tmp_path), "--json"]
    assert run([*drill, "--expect", "proof of db01"]) == 0

    (result,) = json.loads(capsys.readouterr().out)["drills"]
    (path,) = tmp_path.rglob("drill-*.json")
    assert json.loads(path.read_bytes())["drill_id"] == result["record"]["drill_id"]
    options = ExportOptions.from_keys({"output": str(tmp_path)})
    with pytest.raises(DrillFailed, match="no sign of life within 2 s"):
        flows.restore_drill(vm="db01", emulate=True, expect="another", timeout_minutes=1 / 30, options=options)
