"""The notebooks of the documentation, run from their first cell to their last, and what is seen in them."""

import json
import os
from base64 import b64decode
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from prefect.settings import PREFECT_API_URL

import hyperexport
from hyperexport.simulator import DiskSpec, Simulator, VmSpec

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MIB = 1 << 20


class Seen:
    """The outputs of a notebook's cells."""

    def __init__(self, cells: list[Any]) -> None:
        self.cells = [cell for cell in cells if cell.cell_type == "code"]

    def outputs(self, cell: str) -> list[Any]:
        """What the one cell in which these words stand has put out."""
        (found,) = [each for each in self.cells if cell in each.source]
        return found.outputs

    def shown(self, cell: str, kind: str = "text/html") -> str:
        """What its value looks like; Prefect's log lines, which are shown as HTML, too, are none."""
        (value,) = [output for output in self.outputs(cell) if output.output_type == "execute_result"]
        return value.data[kind]

    def plot(self, cell: str) -> str:
        """The picture that it draws, as base64."""
        (plot,) = [output for output in self.outputs(cell) if "image/png" in output.get("data", {})]
        return plot.data["image/png"]

    def printed(self, cell: str) -> str:
        return "".join(output.text for output in self.outputs(cell) if output.get("name") == "stdout")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """All notebooks, run one after the other in one kernel that forgets in between: it takes seconds to start."""
    home = tmp_path_factory.mktemp("notebooks")
    read = {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    every = nbformat.v4.new_notebook()
    for notebook in read.values():
        every.cells += [nbformat.v4.new_code_cell("%reset -f"), *notebook.cells]
    vms = [VmSpec(name, disks=(DiskSpec(6 * MIB), DiskSpec(3 * MIB))) for name in ("db01", "web01")]
    with Simulator([*vms, VmSpec("old01", powered_on=False, change_tracking=False)]) as vcenter:
        ours = {
            **vcenter.environment(),
            "HYPEREXPORT_OUTPUT": str(home / "exports"),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "MPLCONFIGDIR": str(home / "matplotlib"),
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "",
            "PYTHONPATH": str(ROOT),
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in vcenter.environment().items():
                patch.setenv(name, value)
            for vm in ("web01", "web01"):
                hyperexport.export(vm, output=home / "exports", snapshot=True, incremental=True)
        client = NotebookClient(every, timeout=120, resources={"metadata": {"path": str(home)}})
        client.execute(env={**os.environ, **{name: value for name, value in ours.items() if value}})
    cells = iter(every.cells)
    return {name: Seen([next(cells), *(next(cells) for _ in notebook.cells)][1:]) for name, notebook in read.items()}


def test_there_are_three_notebooks_and_they_are_kept_without_outputs() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["1-inspect", "2-back-up", "3-fleet-report"]
    for path in NOTEBOOKS:
        assert path.stat().st_size < 20_000
        for cell in json.loads(path.read_text())["cells"]:
            assert cell.get("outputs", []) == []
            assert cell.get("execution_count") is None


def test_a_vcenter_is_inspected(seen: dict[str, Seen]) -> None:
    notebook = seen["1-inspect"]
    assert notebook.shown('match="*"').count("<tr>") == 1 + 3
    assert "/DC0/vm/old01" in notebook.shown('match="*"')
    assert "Hard disk 1" in notebook.shown("vm = vms[0]")
    assert notebook.shown("not vm.change_tracking", "text/plain") == "[]"
    assert float(notebook.shown("sum(", "text/plain")) == pytest.approx((6 + 3 + 6 + 3 + 64) / 1024)
    assert "to transfer" in notebook.shown("incremental_info(vm")


def test_a_vm_is_backed_up_and_looked_at(seen: dict[str, Seen]) -> None:
    notebook = seen["2-back-up"]
    assert "Would export" in notebook.shown('"dry_run": True')
    assert "yes, read back and proved" in notebook.shown("result = export_vm")
    assert notebook.shown("again = export_vm").count("unchanged, reused") == 2
    assert notebook.shown("contents = hyperexport").count("<tr>") == 1 + 4
    assert "db01-disk-0.vmdk" in notebook.printed("sector")
    assert notebook.shown("verify_exports()").count(">verified<") == 4


def test_the_fleet_is_reported_with_plots(seen: dict[str, Seen]) -> None:
    notebook = seen["3-fleet-report"]
    assert "4 exports" in notebook.shown("history = defaultdict")
    assert "2 VMs, 0 without a good export" in notebook.printed("GOAL = 26")
    for cell in ("barh", '"stored, MB"', '"MB/s over'):
        assert b64decode(notebook.plot(cell)).startswith(b"\x89PNG")
    assert "not read again" in notebook.printed("saved = sum")
