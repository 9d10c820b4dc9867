"""``convert``, ``nbd`` and ``files`` at a terminal and from Python, over real stores, without Prefect."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

import hyperexport
from hyperexport.cli import convert as convert_command
from hyperexport.cli.main import run
from hyperexport.convert.values import Target
from hyperexport.errors import ExportNotFound, TargetExists, ToolMissing, UsageError
from hyperexport.files import libraries
from hyperexport.model.manifest import FileRole
from hyperexport.model.restore_point import parse_time
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from tests.conftest import require_program
from tests.engine import stored_images, verifiable
from tests.engine.s3_servers import rclone_s3
from tests.examples import an_export
from tests.images import vmdk_of

GRAIN = 64 << 10
Answers = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Answers:
    """Runs a command line in this process: its exit code, standard output and standard error."""

    def answer(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([*words, "--no-prefect"])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return answer


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """The default store of a folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return LocalStore(tmp_path / "exports")


@pytest.fixture
def export(store: LocalStore) -> StoredExport:
    return verifiable.publish(store)


@pytest.fixture
def guest(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredExport:
    """An export of a VM with an ext4 filesystem on its first disk."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    mke2fs = require_program("mke2fs", "no filesystem of a guest is made with it")
    source, image = tmp_path / "source", tmp_path / "image"
    (source / "etc").mkdir(parents=True)
    (source / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (source / "etc" / "motd").write_text("hello\n")
    (source / "etc" / "link").symlink_to("/etc/shadow")
    with image.open("wb") as file:
        file.truncate(verifiable.CAPACITY)
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-O", "^has_journal", "-d", source, image], check=True)
    data = image.read_bytes()
    grains = {number: data[number * GRAIN :][:GRAIN] for number in range(verifiable.CAPACITY // GRAIN)}
    files = verifiable.contents()
    files["db01-disk-0.vmdk"] = (FileRole.DISK, vmdk_of(verifiable.CAPACITY, grains))
    return verifiable.publish(store, files)


# -- convert ----------------------------------------------------------------------------------------------------------


def test_convert_makes_the_guests_disks_and_says_so_in_every_form(export: StoredExport, command: Answers) -> None:
    code, pretty, _ = command("convert", export.export_id, "--to", "raw", "--into", "pretty")
    assert code == 0
    assert [path.read_bytes() for path in sorted(Path("pretty").iterdir())] == stored_images.GUEST
    for path in Path("pretty").iterdir():
        assert str(path.absolute()) in pretty

    code, quiet, progress = command("convert", str(export), "--to", "raw", "--disk", "1", "--into", "quiet", "--quiet")
    told = dict(line.split("=", 1) for line in quiet.splitlines())
    assert (code, told["vm"], told["export"], told["to"]) == (0, "db01", export.export_id, "raw")
    assert Path(told["file"]).read_bytes() == stored_images.GUEST[1]
    assert list(Path("quiet").iterdir()) == [Path(told["file"]).relative_to(Path.cwd())]
    assert progress == ""

    code, document, progress = command("convert", "--vm", "db01", "--to", "ova", "--into", "json", "--json")
    (conversion,) = json.loads(document)["conversions"]
    assert (code, conversion["export_id"]) == (0, export.export_id)
    assert Path(conversion["files"][0]["path"]).stat().st_size == conversion["files"][0]["size"]
    assert "convert db01.ova: done" in progress


@pytest.mark.parametrize("to", ["raw", "ovf", "ova"])
def test_a_dry_run_tells_the_files_that_a_conversion_writes_and_writes_none(
    to: str, export: StoredExport, command: Answers
) -> None:
    words = ("convert", export.export_id, "--to", to, "--into", "out", "--json")
    code, planned, _ = command(*words, "--dry-run")
    assert code == 0
    assert not Path("out").exists()
    code, done, _ = command(*words)
    assert code == 0
    (would,), (did,) = json.loads(planned)["conversions"], json.loads(done)["conversions"]
    assert (would["dry_run"], did["dry_run"]) == (True, False)
    assert [file["path"] for file in would["files"]] == [file["path"] for file in did["files"]]
    for most, file in zip(would["files"], did["files"], strict=True):
        assert (most["size"], most["source"]) == (file["size"], file["source"])


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["real", "dry run"])
def test_what_stands_in_the_way_is_an_error_of_the_dry_run_too(
    dry_run: list[str], export: StoredExport, command: Answers
) -> None:
    Path("out").mkdir()
    Path("out/db01-disk-1.raw").write_text("mine")
    code, _, told = command("convert", export.export_id, "--to", "raw", "--into", "out", *dry_run)
    assert (code, "[target-exists]" in told) == (1, True)
    code, _, told = command("convert", export.export_id, "--to", "raw", "--into", "out/db01-disk-1.raw/x", *dry_run)
    assert (code, "[conversion-failed]" in told) == (1, True)
    assert [path.name for path in Path("out").iterdir()] == ["db01-disk-1.raw"]
    assert Path("out/db01-disk-1.raw").read_text() == "mine"


def test_a_time_chooses_the_newest_export_that_was_begun_by_then(store: LocalStore, command: Answers) -> None:
    old = verifiable.publish(store)
    newer = an_export(age=verifiable.AGE - timedelta(hours=2))
    with store.stage(verifiable.FOLDER, newer.export_id, verifiable.OWNER) as staging:
        entries = tuple(verifiable.put(staging, *item) for item in _named(verifiable.contents()))
        staging.publish(newer.model_copy(update={"files": entries}))
    words = ("convert", "--vm", "db01", "--to", "raw", "--dry-run", "--into", "out", "--quiet")

    def chosen(*more: str) -> str:
        code, quiet, told = command(*words, *more)
        assert code == 0, told
        return dict(line.split("=", 1) for line in quiet.splitlines())["export"]

    assert chosen() == newer.export_id
    assert chosen("--at", newer.started.isoformat()) == newer.export_id
    assert chosen("--at", (newer.started - timedelta(seconds=1)).isoformat()) == old.export_id
    # Without a zone it is this machine's time.
    local = newer.started.astimezone().replace(tzinfo=None) - timedelta(seconds=1)
    assert chosen("--at", local.isoformat()) == old.export_id
    code, _, told = command(*words, "--at", (old.manifest.started - timedelta(days=1)).isoformat())
    assert (code, "[export-not-found]" in told) == (1, True)


def _named(files: dict[str, tuple[FileRole, bytes]]) -> list[tuple[str, FileRole, bytes]]:
    return [(name, *content) for name, content in files.items()]


@pytest.mark.parametrize("text", ["2026-11-23", "yesterday", "18:00", ""])
def test_a_time_that_could_mean_two_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a date and time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("convert --to raw --into out", "one export must be named"),
        ("convert ID --vm db01 --to raw --into out", "one export must be named"),
        ("convert ID --at 2026-11-23T18:00 --to raw --into out", "already names a time"),
        ("convert ID --to zip --into out", "zip"),
        ("convert ID --into out", "--to"),
        ("convert ID --to raw", "--into"),
        ("convert ID --to raw --into out --disk 2", "has no disk 2"),
        ("convert ID --to ova --into out --disk 0", "has all disks"),
        ("convert ID --to vhdx --into out --libvirt", "libvirt does not take vhdx"),
        ("convert ID other --to raw --into out", "other"),
        ("nbd", "one export must be named"),
        ("nbd ID --socket s --port 1", "exclude each other"),
        ("nbd ID --port 70000", "not a TCP port"),
        ("nbd ID --socket exports", "cannot listen on"),
        ("files", "one export must be named"),
        ("files ID /a /b", "one path at a time"),
        ("files ID --get /disk0/etc", "--get and --into belong together"),
        ("files ID --into out", "--get and --into belong together"),
        ("files ID /disk0 --get /disk0/etc --into out", "no path to list"),
    ],
)
def test_words_that_make_no_sense_are_usage_errors_and_write_nothing(
    words: str, message: str, export: StoredExport, command: Answers
) -> None:
    code, _, told = command(*words.replace("ID", export.export_id).split())
    assert (code, "[usage]" in told) == (2, True)
    assert message in told
    assert not Path("out").exists()


def test_a_damaged_export_is_named_and_leaves_nothing(
    store: LocalStore, export: StoredExport, command: Answers
) -> None:
    with stored_images.rotten_byte(store, export, "db01-disk-1.vmdk", 70_000):
        for words in (
            ("convert", export.export_id, "--to", "raw", "--into", "out"),
            ("nbd", export.export_id),
            ("files", export.export_id),
        ):
            code, _, told = command(*words)
            assert code == 1
            assert "db01-disk-1.vmdk" in told
            assert "[verification-failed]" in told
    assert not Path("out").exists()


def test_the_formats_at_the_terminal_are_those_of_the_engine() -> None:
    assert set(convert_command.Format.__args__) == set(Target)


# -- nbd --------------------------------------------------------------------------------------------------------------


@contextmanager
def serving(*words: str) -> Generator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    """A process that serves, and its first lines; it must end well when it is told to."""
    call = [sys.executable, "-m", "hyperexport.cli.main", "nbd", *words, "--quiet", "--no-prefect"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            told: dict[str, str] = {}
            while "qemu" not in told:
                key, _, value = process.stdout.readline().rstrip("\n").partition("=")
                assert key, "it ended"
                told[key] = value
            yield process, told
            process.send_signal(signal.SIGINT)
            assert process.wait(150) == 0
        finally:
            process.kill()


def test_nbd_serves_the_guests_disks_to_qemu_until_it_is_told_to_end(
    export: StoredExport, qemu_img: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.sock"
    with serving(export.export_id, "--socket", str(path)) as (_, told):
        for number, key in enumerate(("uri", "uri_2")):
            raw = tmp_path / f"{number}.raw"
            subprocess.run([qemu_img, "convert", "-f", "raw", "-O", "raw", told[key], raw], check=True)
            assert raw.read_bytes() == stored_images.GUEST[number]
        assert told["uri"] in told["qemu"]
        assert "snapshot=on" in told["qemu"]
    assert not path.exists()


def test_nbd_listens_where_only_its_user_can_connect_unless_a_port_is_asked_for(export: StoredExport) -> None:
    with serving(export.export_id) as (_, told):
        path = Path(told["uri"].partition("?socket=")[2])
        assert path.is_socket()
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0
    assert not path.parent.exists()


def test_nbd_listens_on_the_loopback_address_only_and_serves_what_is_asked_for(export: StoredExport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving("--vm", "db01", "--disk", "1", "--port", str(port)) as (_, told):
        assert told["uri"] == f"nbd://127.0.0.1:{port}/disk-1"
        assert "uri_2" not in told
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            assert client.recv(8) == b"NBDMAGIC"
        with pytest.raises(OSError, match=r"refused|unreachable"):
            socket.create_connection(("127.0.0.2", port), timeout=20)


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_lists_volumes_then_folders_and_extracts(guest: StoredExport, command: Answers) -> None:
    code, volumes, _ = command("files", guest.export_id, "--json")
    assert code == 0
    found = {volume["name"]: volume["filesystem"] for volume in json.loads(volumes)["volumes"]}
    assert found == {"disk0": "ext4", "disk1": None}

    code, listing, _ = command("files", "--vm", "db01", "/disk0/etc", "--json")
    assert code == 0
    files = {file["path"]: (file["kind"], file["size"]) for file in json.loads(listing)["files"]}
    assert files["/disk0/etc/hosts"] == ("file", len("127.0.0.1 localhost\n"))
    assert files["/disk0/etc/link"][0] == "link"
    code, pretty, _ = command("files", guest.export_id, "/disk0/etc")
    assert (code, "/disk0/etc/link -> /etc/shadow" in pretty) == (0, True)

    code, quiet, _ = command(
        "files", guest.export_id, "--get", "/disk0/etc", "--get", "/disk0/etc/motd", "--into", "out", "--quiet"
    )
    assert code == 0
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in quiet.strip().split("\n\n")]
    assert [(Path(block["path"]).name, block["files"], block["skipped"]) for block in blocks] == [
        ("etc", "2", "1"),
        ("motd", "1", "0"),
    ]
    assert Path("out/etc/hosts").read_text() == "127.0.0.1 localhost\n"
    assert sorted(path.name for path in Path("out/etc").iterdir()) == ["hosts", "motd"]
    code, _, told = command("files", guest.export_id, "--get", "/disk0/etc", "--into", "out")
    assert (code, "[target-exists]" in told) == (1, True)
    code, _, told = command("files", guest.export_id, "/disk0/nosuch")
    assert (code, "[guest-file-not-found]" in told) == (1, True)


def test_a_missing_extra_is_named_before_a_disk_is_read(
    export: StoredExport, command: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(libraries.importlib, "import_module", absent)
    code, _, told = command("files", export.export_id)
    assert code == 1
    assert "pip install 'hyperexport[files]'" in told
    assert "[tool-missing]" in told
    assert "verify" not in told


# -- S3 and Python ----------------------------------------------------------------------------------------------------


def test_an_export_that_is_only_in_s3_is_converted_and_listed(
    tmp_path: Path, command: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with rclone_s3(tmp_path / "rclone") as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca_file))
        url = f"s3://{server.make_bucket('reading')}/vms"
        s3 = hyperexport.S3Settings(endpoint_url=server.endpoint_url)
        export = verifiable.publish(hyperexport.open_store(url, s3=s3))
        place = (f"--upload={url}", f"--s3-endpoint={server.endpoint_url}")
        code, _, told = command("convert", export.export_id, "--to", "raw", "--into", "out", *place)
        assert code == 0, told
        assert [path.read_bytes() for path in sorted(Path("out").iterdir())] == stored_images.GUEST
        with hyperexport.open_export(vm="db01", upload=url, s3_endpoint=server.endpoint_url, disks=[1]) as opened:
            assert opened.disks[0].read(0, opened.disks[0].capacity) == stored_images.GUEST[1]


def test_python_converts_opens_serves_and_lists(guest: StoredExport, qemu_img: Path) -> None:
    made = hyperexport.convert_export(vm="db01", to="raw", into="out", disks=[1])
    assert made.files[0].path.read_bytes() == stored_images.GUEST[1]
    assert "db01-disk-1.raw" in made._repr_html_()
    with hyperexport.open_export(guest.export_id) as opened:
        whole = [disk.read(0, disk.capacity) for disk in opened.disks]
    assert whole[1] == stored_images.GUEST[1]
    with hyperexport.serve_disks(guest.export_id, disks=[0], socket="nbd.sock") as served:
        subprocess.run([qemu_img, "convert", "-f", "raw", "-O", "raw", served.disks[0].uri, "served.raw"], check=True)
    assert hashlib.sha256(Path("served.raw").read_bytes()).digest() == hashlib.sha256(whole[0]).digest()
    assert [volume.filesystem for volume in hyperexport.list_volumes(vm="db01")] == ["ext4", None]
    assert "/disk0/etc/hosts" in [entry.path for entry in hyperexport.list_files("/disk0/etc", vm="db01")]
    (extracted,) = hyperexport.extract_files("/disk0/etc/hosts", into="files", vm="db01")
    assert extracted.path.read_text() == "127.0.0.1 localhost\n"


def test_python_names_what_it_cannot_do(export: StoredExport) -> None:
    with pytest.raises(UsageError, match="is not a format"):
        hyperexport.convert_export(export.export_id, to="zip", into="out")
    with pytest.raises(UsageError, match="one export must be named"):
        hyperexport.convert_export(to="raw", into="out")
    with pytest.raises(ExportNotFound):
        hyperexport.convert_export(vm="nosuch", to="raw", into="out")
    Path("db01-disk-0.raw").write_text("mine")
    with pytest.raises(TargetExists):
        hyperexport.convert_export(export.export_id, to="raw", into=".")


def test_python_names_a_missing_qemu_img(export: StoredExport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissing, match="qemu-img"):
        hyperexport.convert_export(export.export_id, to="qcow2", into="out", dry_run=True)
