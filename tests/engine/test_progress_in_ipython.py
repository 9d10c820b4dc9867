"""What somebody sees who exports in a notebook: bars in the cell, in a real IPython kernel."""

import json
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


def test_a_notebook_completes_the_options_of_a_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    typed = {
        'export_vm("db01", snapshot_q': ["snapshot_quiesce="],
        'hyperexport.export_vm(f("db01"), vsph': ["vsphere="],
        "hyperexport.flows.restore_vm(power": ["power_on="],
        'export_vm(print("db01", snapshot_q': [],
        "export_vm(**options).snapshot_q": [],
    }
    cells = ["import hyperexport.flows; from hyperexport import export_vm; f = str", ASK.format(typed=list(typed))]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (answer,) = [each.text for each in notebook.cells[1].outputs if each.output_type == "stream"]
    assert json.loads(answer) == typed


ASK = """
import json
from IPython.core.completer import provisionalcompleter
with provisionalcompleter():
    found = {{
        text: [one.text for one in get_ipython().Completer.completions(text, len(text))] for text in {typed!r}
    }}
print(json.dumps(found))
"""
