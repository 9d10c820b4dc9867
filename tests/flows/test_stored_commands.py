"""What the command line does with exports that are stored already: of several VMs, in a bucket, damaged."""

import json
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.cli.main import run
from hyperexport.model.manifest import vm_folder
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from tests.engine.s3_servers import S3Server, rclone_s3
from tests.engine.verifiable import OWNER, contents, publish, put
from tests.examples import VM, an_export

Answers = Callable[..., tuple[int, str]]


@pytest.fixture
def hyperexport(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Runs a command line in this process, without Prefect: its exit code and standard output."""
    monkeypatch.setenv("HYPEREXPORT_NO_PREFECT", "true")

    def answer(*words: str) -> tuple[int, str]:
        code = run(words)
        return code, capsys.readouterr().out

    return answer


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[S3Server]:
    """A real S3 server, whose keys this process knows."""
    with rclone_s3(tmp_path / "rclone") as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca_file))
        yield server


def test_a_cleanup_of_a_bucket_keeps_the_newest_of_every_vm(
    bucket: S3Server, hyperexport: Answers, tmp_path: Path
) -> None:
    name = bucket.make_bucket("several-vms")
    store = S3Store(
        S3Location.parse(f"s3://{name}/vms"), S3Settings(endpoint_url=bucket.endpoint_url), stop=StopSignal()
    )
    for number, (vm, ages) in enumerate({"db01": (5, 4, 3), "web01": (9, 8), "zoo": (7,)}.items()):
        ref = VM.model_copy(update={"name": vm, "path": f"/DC0/vm/{vm}", "instance_uuid": f"{number:08d}-0000"})
        for days in ages:
            manifest = an_export(age=timedelta(days=days), vm=ref)
            with store.stage(vm_folder(ref), manifest.export_id, OWNER) as staging:
                entries = tuple(put(staging, file, *content) for file, content in contents().items())
                staging.publish(manifest.model_copy(update={"files": entries}))
    words = ("--cleanup", "--no-keep-local", f"--output={tmp_path / 'none'}", f"--upload={store.url}")
    words += (f"--s3-endpoint={bucket.endpoint_url}", "--cleanup-max-count=1", "--json")

    code, planned = hyperexport(*words, "--cleanup-dry-run")
    assert code == 0
    (would,) = json.loads(planned)["cleanups"]
    assert len(store.exports()) == 6, "a dry run deletes nothing"

    code, done = hyperexport(*words)
    (did,) = json.loads(done)["cleanups"]
    assert (code, did["failed"]) == (0, [])
    assert did["plan"]["items"] == would["plan"]["items"]
    assert len(did["deleted"]) == 3
    assert {(export.manifest.vm.name, export.manifest.started) for export in store.exports()} == {
        (vm, an_export(age=timedelta(days=days)).started) for vm, days in {"db01": 3, "web01": 8, "zoo": 7}.items()
    }


def test_every_damaged_export_is_named_in_every_form(hyperexport: Answers, tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("flipped", "missing")]
    store = LocalStore(tmp_path / "exports")
    sound = publish(store)
    damaged: list[str] = []
    for number, root in enumerate(roots):
        other = publish(LocalStore(root))
        export_id = other.export_id.replace("-0000", f"-000{number + 1}")
        manifest = other.manifest.model_copy(update={"export_id": export_id, "last_full": export_id})
        with store.stage(other.folder, export_id, OWNER) as staging:
            for file, content in contents().items():
                put(staging, file, *content)
            damaged.append(str(staging.publish(manifest)))
    flipped = tmp_path / "exports" / damaged[0] / "db01-disk-0.vmdk"
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    (tmp_path / "exports" / damaged[1] / "db01.nvram").unlink()

    output = f"--output={store.url}"
    code, pretty = hyperexport("verify", output)
    assert code == 1
    for export in damaged:
        assert export in pretty
    code, quiet = hyperexport("verify", output, "--quiet")
    assert code == 1
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in quiet.strip().split("\n\n")]
    assert {block["location"]: block["verified"] for block in blocks} == {
        f"{store.url}/{sound}": "true",
        f"{store.url}/{damaged[0]}": "false",
        f"{store.url}/{damaged[1]}": "false",
    }
    code, document = hyperexport("verify", output, "--json")
    verified = {item["location"]: item["verification"] for item in json.loads(document)["verified"]}
    assert code == 1
    assert verified[f"{store.url}/{sound}"]["findings"] == []
    assert "db01-disk-0.vmdk" in str(verified[f"{store.url}/{damaged[0]}"]["findings"])
    assert "db01.nvram" in str(verified[f"{store.url}/{damaged[1]}"]["findings"])
    assert json.loads(document)["errors"]
