"""A project that has modules of our folders' names can use ours beside them."""

import subprocess
import sys
from pathlib import Path

NAMES = ("blocks", "cli", "deployments", "flows", "simulator", "tasks")


def test_folders_and_modules_of_the_working_directory_shadow_nothing(tmp_path: Path):
    for name in NAMES[:3]:
        (tmp_path / f"{name}.py").write_text("OURS = 'the user'\n")
    for name in NAMES[3:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OURS = 'the user'\n")
    program = f"""
import sys
import hyperexport
from hyperexport import ExportOptions, export
assert "prefect" not in sys.modules
import {", ".join(NAMES)}
theirs = {{module.OURS for module in ({", ".join(NAMES)})}}
from hyperexport.blocks import ExportProfile, VSphereCredentials
from hyperexport.deployments.definitions import deployments
import hyperexport
assert "prefect" in sys.modules
from hyperexport import export_fleet, export_vm
import hyperexport.flows
assert export_vm is hyperexport.flows.export_vm
assert theirs == {{"the user"}}
print(export_vm.name, export_fleet.name, len(deployments()) > 5)
"""
    words = [sys.executable, "-c", program]  # the working directory comes first on sys.path
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["export-vm", "export-fleet", "True"]
