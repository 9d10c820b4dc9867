"""The flow that converts an export: by Prefect, from the command line, with a page and the worker's folder."""

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from hyperexport import ExportOptions, flows
from hyperexport.cli.main import run
from hyperexport.convert.values import Target
from hyperexport.errors import TargetExists
from hyperexport.simulator import Simulator
from hyperexport.store.local import LocalStore
from tests.engine import stored_images, verifiable
from tests.flows.support import guest_bytes
from tests.flows.test_artifacts import artifacts_of


def test_what_was_exported_is_converted_to_the_guests_bytes_with_a_page(
    vcenter: Simulator, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--vm", "db01", "--snapshot", "--output", str(store), "--quiet"]) == 0
    capsys.readouterr()

    code = run(
        ["convert", "--vm", "db01", "--to", "raw", "--into", str(tmp_path / "out"), f"--output={store}", "--json"]
    )

    (conversion,) = json.loads(capsys.readouterr().out)["conversions"]
    assert code == 0
    assert [Path(file["path"]).read_bytes() for file in conversion["files"]] == guest_bytes(vcenter, "db01")
    with get_client(sync_client=True) as client:
        (newest,) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)  # type: ignore[arg-type]
    assert newest.name == "convert db01 to raw"
    shown = {key: (data, words) for key, data, words in artifacts_of(newest.id)}
    page = str(shown["conversion-db01"][0])
    assert "db01-disk-0.raw" in page.replace("\\", "")
    assert conversion["export_id"] in page
    assert shown["progress-db01-db01-disk-0-raw"][0] == 100.0


def test_the_flow_takes_plain_values_and_fails_with_words(store: Path, tmp_path: Path) -> None:
    export = verifiable.publish(LocalStore(store))
    options = ExportOptions.from_keys({"output": str(store)})

    made = flows.convert_export(export.export_id, to=Target.RAW, into=tmp_path / "out", disks=[1], options=options)

    assert [file.path.read_bytes() for file in made.files] == [stored_images.GUEST[1]]
    with pytest.raises(TargetExists, match=r"db01-disk-1\.raw already exists"):
        flows.convert_export(export.export_id, to=Target.RAW, into=tmp_path / "out", disks=[1], options=options)
