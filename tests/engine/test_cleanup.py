"""A cleanup of real stores: what was planned goes, what can't go is told, and a failed listing deletes nothing."""

import os
import re
import shutil
import subprocess
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.cli.main import run
from hyperexport.errors import ExportNotFound, HyperExportError
from hyperexport.model.manifest import FILE_NAME
from hyperexport.options.groups import Cleanup
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.orphans import abandoned_stagings
from hyperexport.steps.preservation import preserve
from hyperexport.steps.verification import select_exports
from hyperexport.store.base import Store
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from tests.engine.local_exports import FIRST, FOLDER, OWNER, SECOND, THIRD, manifest_of, write_export
from tests.engine.s3_servers import S3Server, rclone_s3

KEEP_ONE = Cleanup(enabled=True, max_count=1)


def everything_is_over(_owner: object) -> bool:
    return True


def nothing_is_over(_owner: object) -> bool:
    return False


def names(store: Store) -> list[str]:
    return [str(export) for export in store.exports()]


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "exports")
    for age in (FIRST, SECOND, THIRD):
        write_export(store, age)
    return store


@pytest.fixture
def server(tmp_path: Path) -> Generator[S3Server]:
    with rclone_s3(tmp_path / "rclone") as running:
        running.make_bucket("backups")
        yield running


@pytest.fixture
def s3(server: S3Server) -> S3Store:
    settings = S3Settings(
        endpoint_url=server.endpoint_url,
        ca_bundle=server.ca_file,
        access_key=SecretStr(server.access_key),
        secret_key=SecretStr(server.secret_key),
    )
    return S3Store(S3Location(bucket="backups", prefix="vms"), settings, stop=StopSignal())


def test_what_was_planned_is_what_goes(local: LocalStore) -> None:
    newest, *older = names(local)
    plan = plan_store_cleanup(local, KEEP_ONE)
    assert names(local) == [newest, *older]
    done = delete_planned(local, plan, nothing_is_over)
    assert list(done.deleted) == [str(item) for item in plan.to_delete]
    assert sorted(done.deleted) == sorted(older)
    assert names(local) == [newest]


def test_a_marked_export_outlives_every_limit_until_the_mark_is_taken_away(local: LocalStore) -> None:
    *_, oldest = names(local)
    preserve([local], [oldest.partition("/")[2]], on=True)
    assert oldest not in delete_planned(local, plan_store_cleanup(local, KEEP_ONE), nothing_is_over).deleted
    assert oldest in names(local)
    preserve([local], [oldest], on=False)
    assert delete_planned(local, plan_store_cleanup(local, KEEP_ONE), nothing_is_over).deleted == (oldest,)


def test_a_mark_goes_to_every_store_that_holds_the_export(local: LocalStore, s3: S3Store) -> None:
    export = write_export(s3, THIRD)  # type: ignore[arg-type]
    marked = preserve([local, s3], [export.export_id], on=True)
    assert [store.url for store, _ in marked] == [local.url, s3.url]
    assert [found.manifest.preserve for found in s3.exports()] == [True]
    with pytest.raises(ExportNotFound, match="nothing-like-it"):
        preserve([local, s3], [export.export_id, "nothing-like-it"], on=False)
    assert [found.manifest.preserve for found in s3.exports()] == [True]


def test_what_cannot_be_deleted_is_told_and_not_counted(local: LocalStore) -> None:
    newest, middle, oldest = names(local)
    locked = Path(local.url) / oldest
    if subprocess.run(["chattr", "+i", locked], capture_output=True, check=False).returncode:
        pytest.skip("this filesystem or user cannot make a folder immutable (chattr +i)")
    try:
        done = delete_planned(local, plan_store_cleanup(local, KEEP_ONE), nothing_is_over)
    finally:
        subprocess.run(["chattr", "-i", locked], check=True)
    assert done.deleted == (middle,)
    assert len(done.failed) == 1
    assert done.failed[0].startswith(f"{oldest}: ")
    assert oldest in names(local)
    assert newest in names(local)


def test_abandoned_exports_go_once_their_runs_are_over(local: LocalStore) -> None:
    half = manifest_of(timedelta(hours=1)).export_id
    staged = local.stage(FOLDER, half, OWNER)
    staged.__enter__().put("db01.ovf", b"<Envelope/>")
    plan = plan_store_cleanup(local, Cleanup(enabled=True, max_count=9))
    assert delete_planned(local, plan, nothing_is_over).abandoned == ()
    assert [str(found) for found in abandoned_stagings(local, None, everything_is_over)] == [f"{FOLDER}/{half}"]
    assert delete_planned(local, plan, everything_is_over).abandoned == (f"{FOLDER}/{half}",)
    assert local.abandoned() == []


def test_the_oldest_go_until_enough_is_free(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user cannot mount a small filesystem")
    try:
        store = LocalStore(disk / "exports")
        for age in (FIRST, SECOND, THIRD):
            write_export(store, age)
        newest, middle, oldest = names(store)
        wanted = store.free_bytes() + 1
        done = delete_planned(store, plan_store_cleanup(store, Cleanup(enabled=True, min_free=wanted)), nothing_is_over)
        assert done.deleted == (oldest,)
        assert names(store) == [newest, middle]
        assert store.free_bytes() >= wanted
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("limit", ["max_size", "min_free"])
def test_in_a_store_that_was_copied_without_its_links_space_is_counted_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Each export of the copy has a file of its own, where the manifests say that all share one."""
    original = LocalStore(tmp_path / "original")
    base = write_export(original, timedelta(days=4))
    for age in (FIRST, SECOND, THIRD):
        base = write_export(original, age, reuse=base)
    shutil.copytree(original.url, tmp_path / "copy")
    copy = LocalStore(tmp_path / "copy")
    size = sum(
        path.stat().st_size for path in (tmp_path / "copy").rglob("*") if path.name != FILE_NAME and path.is_file()
    )
    monkeypatch.setattr(copy, "free_bytes", lambda: 0)
    options = (
        Cleanup(enabled=True, max_size=size // 2) if limit == "max_size" else Cleanup(enabled=True, min_free=size // 2)
    )

    done = delete_planned(copy, plan_store_cleanup(copy, options), nothing_is_over)

    assert len(done.deleted) == 2
    assert done.freed_bytes >= size // 2
    assert plan_store_cleanup(copy, Cleanup(enabled=True, max_size=size // 2)).to_delete == ()


def test_in_s3_an_export_that_a_kept_one_refers_to_stays(s3: S3Store) -> None:
    base = write_export(s3, FIRST)  # type: ignore[arg-type]
    alone = write_export(s3, SECOND)  # type: ignore[arg-type]
    newest = write_export(s3, THIRD, reuse=base)  # type: ignore[arg-type]
    done = delete_planned(s3, plan_store_cleanup(s3, KEEP_ONE), nothing_is_over)
    assert done.deleted == (str(alone),)
    assert names(s3) == [str(newest), str(base)]
    with s3.open(newest, "db01-disk-1.vmdk") as reader:
        assert b"".join(reader.chunks()).startswith(b"KDMV one")


def test_where_s3_cannot_be_listed_nothing_is_planned_and_nothing_goes(
    short_s3_pauses: None, server: S3Server, s3: S3Store
) -> None:
    for age in (FIRST, SECOND):
        write_export(s3, age)  # type: ignore[arg-type]
    plan = plan_store_cleanup(s3, KEEP_ONE)
    assert plan.to_delete
    before = sorted(server.root.rglob("*"))
    server.kill()
    with pytest.raises(HyperExportError):
        plan_store_cleanup(s3, KEEP_ONE)
    with pytest.raises(HyperExportError):
        delete_planned(s3, plan, everything_is_over)
    assert sorted(server.root.rglob("*")) == before


# -- at the terminal, where none of this needs Prefect -----------------------------------------------------------------


def test_list_and_preserve_at_the_terminal(local: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    newest, middle, oldest = names(local)
    (Path(local.url) / middle / "export.json").write_bytes(b"{")
    assert run(["preserve", oldest, "--output", local.url, "--quiet"]) == 0
    assert "preserved=true" in capsys.readouterr().out
    assert run(["list", "--output", local.url, "--quiet"]) == 0
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines()) for block in capsys.readouterr().out.split("\n\n")
    ]
    assert [(block["export"], block.get("preserved"), block.get("problem")) for block in blocks] == [
        (newest, "false", None),
        (oldest, "true", None),
        (middle, None, "manifest-invalid"),
    ]
    assert run(["list", "--output", local.url]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"{re.escape(middle)} .* DAMAGED", shown), "a row of the table"
    assert re.search(rf"{re.escape(middle)}.*: its manifest cannot be read", shown), "why, below it"
    assert run(["preserve", middle, "--output", local.url]) == 1
    assert "[manifest-invalid]" in capsys.readouterr().err
    assert run(["preserve", "no-such", "--output", local.url]) == 1
    assert "[export-not-found]" in capsys.readouterr().err


def test_an_export_is_found_by_id_path_or_url_and_a_damaged_one_too(local: LocalStore) -> None:
    newest, middle, _ = names(local)
    (Path(local.url) / middle / "export.json").write_bytes(b"{")
    for name in (newest, newest.partition("/")[2], f"{local.url}/{newest}/", f"{local.url}/{newest}/export.json"):
        (found,) = select_exports([local], [name])
        assert ([str(export) for export in found.exports], found.damaged) == ([newest], [])
    (found,) = select_exports([local], [middle])
    assert (found.exports, [str(one) for one in found.damaged]) == ([], [middle])


def test_the_configuration_says_where_each_value_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPEREXPORT_CLEANUP_MAX_COUNT", "7")
    monkeypatch.setenv("HYPEREXPORT_PARALEL", "2")
    monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", "hunter2")
    assert run(["config", "--bandwidth-limit=5", "--quiet"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    for line in (
        "bandwidth_limit=5.0",
        "bandwidth_limit.source=given",
        "cleanup_max_count=7",
        "cleanup_max_count.source=environment",
        "parallel=4",
        "parallel.source=default",
        "HYPEREXPORT_EMAIL_PASSWORD=set",
        "GOVC_PASSWORD=not set",
    ):
        assert line in lines
    assert "HYPEREXPORT_PARALEL (did you mean HYPEREXPORT_PARALLEL?)" in told.err
    assert "hunter2" not in told.out + told.err
    assert run(["config"]) == 0
    assert "environment, HYPEREXPORT_CLEANUP_MAX_COUNT" in capsys.readouterr().out
    assert os.environ["HYPEREXPORT_CLEANUP_MAX_COUNT"] == "7"


def test_an_empty_store_proves_nothing_and_that_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportNotFound, match="nothing was verified"):
        select_exports([LocalStore(tmp_path / "misspelt")], [])
