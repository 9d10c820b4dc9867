"""What somebody sees who exports in a notebook: bars in the cell, in a real IPython kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from hyperexport.simulator import DiskSpec, Simulator, VmSpec

MIB = 1 << 20
CELL = "import hyperexport\nresult = hyperexport.export('db01', output={output!r}, parallel=2)"


def test_an_export_in_a_notebook_shows_a_bar_for_each_disk_and_for_the_vm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL.format(output=str(tmp_path / "exports")))]
    )
    disks = (DiskSpec(4 * MIB), DiskSpec(2 * MIB))
    with Simulator((VmSpec("db01", powered_on=False, disks=disks),)) as vcenter:
        for name, value in vcenter.environment().items():
            monkeypatch.setenv(name, value)
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (bars,) = [each for each in notebook.cells[0].outputs if "<progress" in each.get("data", {}).get("text/html", "")]
    assert "db01: all files: done" in bars.data["text/plain"]
    assert bars.data["text/html"].count('value="1.000"') >= 3
