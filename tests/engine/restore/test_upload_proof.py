"""How the files of a restore are proved: by the server's SHA-256 of what arrived, and never less where it gives none.

In each test the stored bytes, the transfer or the server is wrong, or all are right; the error says which it was.
"""

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base import retry
from hyperexport.model.restore import Proof, RestoreResult
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.steps import upload_proof
from hyperexport.transfer import upload
from hyperexport.views.pages import markdown_of
from tests.engine.restores import export_all
from tests.engine.s3_servers import S3Server
from tests.engine.simulator_client import find, finish, logged_in

MIB = 1 << 20
DISKS = ("db01-disk-0.vmdk", "db01-disk-1.vmdk")
CONTENT_ID = re.compile(rb"(?<=\nCID=)[0-9a-f]")
"""A digit of a disk's descriptor that no server looks at: only a checksum of the whole file can tell."""

NO_SHA256 = Fault(FaultKind.METHOD_FAULT, method="HttpNfcLeaseSetManifestChecksumType", fault="NotSupported", times=0)
SHA1_ALONE = Fault(FaultKind.MANIFEST_SHA1, vm="copy", times=0)
NO_ENTRY = Fault(FaultKind.MANIFEST_MISSING, vm="copy", times=0)
WRONG = Fault(FaultKind.MANIFEST_WRONG, vm="copy", disk=0, times=0)
SERVERS = {"proves": None, "knows no SHA-256": NO_SHA256, "gives SHA-1 alone": SHA1_ALONE, "gives nothing": NO_ENTRY}


@pytest.fixture(scope="module")
def shared() -> Generator[Simulator]:
    with Simulator((VmSpec("db01", powered_on=False, disks=(DiskSpec(4 * MIB), DiskSpec(MIB))),)) as simulator:
        yield simulator


@pytest.fixture
def sim(shared: Simulator, monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """The simulated vCenter, named by the environment; the VM that a test made is gone after it."""
    for name, value in shared.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "RETRY_DELAYS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(upload_proof, "SECONDS_FOR_PROMISED", 0.0)
    yield shared
    shared.faults.clear()
    assert shared.leases() == []
    with logged_in(shared) as service:
        for vm in shared.vms():
            if vm.name != "db01":
                finish(find(service, vm.name).Destroy_Task())
    assert shared.detached_disks() == []


@dataclass(frozen=True)
class Place:
    """A store with one export of db01."""

    options: dict[str, Any]
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], None]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """By which it is reached."""

    def damage(self, name: str, what: "re.Pattern[bytes] | int") -> bytes:
        """Change one byte of a stored file, and return the file as it was."""
        data = self.read(name)
        at = what
        if not isinstance(at, int):
            found = at.search(data)
            assert found
            at = found.start()
        changed = b"1" if data[at : at + 1] == b"0" else b"0"
        self.write(name, data[:at] + changed + data[at + 1 :])
        return data


@pytest.fixture(scope="module")
def folder(shared: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder."""
    root = export_all(shared, tmp_path_factory.mktemp("exports"), "db01")

    def path(name: str) -> Path:
        (found,) = root.glob(f"*/*/{name}")
        return found

    def write(name: str, data: bytes) -> None:
        path(name).chmod(0o644)
        path(name).write_bytes(data)

    return Place({"output": root}, lambda name: path(name).read_bytes(), write)


@pytest.fixture(scope="module")
def s3(shared: Simulator, server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A bucket of a real S3 server."""
    client, bucket = server.client(), server.make_bucket("proofs")
    options = {
        "output": tmp_path_factory.mktemp("work"),
        "upload": f"s3://{bucket}/x",
        "s3_endpoint": server.endpoint_url,
        "keep_local": False,
    }

    def key(name: str) -> str:
        (found,) = (
            each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"] if each["Key"].endswith(name)
        )
        return found

    environment = {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_CA_BUNDLE": str(server.ca_file),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (shared.environment() | environment).items():
            patch.setenv(name, value)
        hyperexport.export("db01", **options)
    return Place(
        options,
        lambda name: client.get_object(Bucket=bucket, Key=key(name))["Body"].read(),
        lambda name, data: client.put_object(Bucket=bucket, Key=key(name), Body=data),
        environment,
    )


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Each kind of store in turn."""
    found: Place = request.getfixturevalue(request.param)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found


def restore(place: Place, **given: Any) -> RestoreResult:
    return hyperexport.restore(**{"vm": "db01", "name": "copy", **place.options, **given})


def contents(sim: Simulator, vm: str) -> list[bytes]:
    return [sim.vm(vm).read_disk(number, 0, size) for number, size in enumerate(sim.vm(vm).state()["disks"])]


def nothing_is_left(sim: Simulator) -> bool:
    return ([vm.name for vm in sim.vms()], sim.leases(), sim.detached_disks()) == (["db01"], [], [])


class Changing:
    """Changes the content id of a disk after it was read and hashed, and before it is sent.

    Args:
        times: In how many uploads.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
        self.left = times
        self._write = upload.Upload.write

        def changed(sink: upload.Upload, data: bytes | memoryview) -> None:
            self._changed(sink, data)

        monkeypatch.setattr(upload.Upload, "write", changed)

    def _changed(self, sink: upload.Upload, data: bytes | memoryview) -> None:
        data = bytes(data)
        if self.left and (found := CONTENT_ID.search(data)):
            self.left -= 1
            other = b"1" if found[0] == b"0" else b"0"
            data = data[: found.start()] + other + data[found.end() :]
        self._write(sink, data)


PROOFS = {
    "proves": (Proof.SERVER, True),
    "knows no SHA-256": (Proof.SENT, True),
    "gives SHA-1 alone": (Proof.READ_AGAIN, True),
    "gives nothing": (Proof.READ_AGAIN, False),
}


@pytest.mark.parametrize("server_that", SERVERS)
def test_each_file_is_proved_and_the_result_says_how(server_that: str, sim: Simulator, place: Place) -> None:
    if fault := SERVERS[server_that]:
        sim.faults.add(fault)
    result = restore(place, parallel=1)
    proof, compared = PROOFS[server_that]
    assert contents(sim, "copy") == contents(sim, "db01")
    # After the first promise that is not kept the server is not relied on.
    second = Proof.SENT if proof is Proof.READ_AGAIN else proof
    assert result.proofs == {DISKS[0]: proof, DISKS[1]: second, "db01.nvram": Proof.SENT}
    assert result.verified is compared
    assert proof.words in markdown_of(result)


@pytest.mark.parametrize("server_that", SERVERS)
@pytest.mark.parametrize("damaged", [CONTENT_ID, -70_000], ids=["where no server looks", "in a grain"])
def test_a_stored_file_that_rotted_is_refused_as_damaged(
    damaged: "re.Pattern[bytes] | int", server_that: str, sim: Simulator, place: Place
) -> None:
    if fault := SERVERS[server_that]:
        sim.faults.add(fault)
    whole = place.damage(DISKS[0], damaged)
    try:
        with pytest.raises(errors.VerificationFailed, match=rf"{DISKS[0]} of .* is damaged"):
            restore(place)
    finally:
        place.write(DISKS[0], whole)
    assert nothing_is_left(sim)


def test_a_rotten_file_is_refused_as_damaged_without_the_servers_checksums_too(sim: Simulator, folder: Place) -> None:
    whole = folder.damage(DISKS[0], CONTENT_ID)
    try:
        with pytest.raises(errors.VerificationFailed, match=rf"{DISKS[0]} of .* is damaged"):
            restore(folder, verify=False)
    finally:
        folder.write(DISKS[0], whole)
    assert nothing_is_left(sim)
    assert set(restore(folder, verify=False).proofs.values()) == {Proof.SENT}


@pytest.mark.parametrize("server_that", [name for name in SERVERS if name != "gives nothing"])
def test_a_sound_file_that_arrives_changed_is_refused_as_a_transfer(
    server_that: str, sim: Simulator, folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault := SERVERS[server_that]:
        sim.faults.add(fault)
    Changing(monkeypatch, times=99)
    with pytest.raises(errors.ChecksumMismatch, match=r"db01-disk-\d\.vmdk: .* were sent, and the server has"):
        restore(folder)
    assert nothing_is_left(sim)


def test_a_transfer_that_changed_a_file_once_is_repeated_and_then_proved_before_the_last_byte(
    sim: Simulator, folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = Changing(monkeypatch, times=1)
    result = restore(folder, disks=[0])
    assert changing.left == 0
    assert result.proofs[DISKS[0]] is Proof.SENT
    assert result.verified
    assert contents(sim, "copy") == contents(sim, "db01")[:1]


def test_a_server_whose_checksum_is_of_other_bytes_is_refused_as_a_transfer(sim: Simulator, place: Place) -> None:
    sim.faults.add(WRONG)
    with pytest.raises(errors.ChecksumMismatch, match=DISKS[0]):
        restore(place)
    assert nothing_is_left(sim)


def test_a_disk_that_is_put_together_from_a_chain_is_proved_by_the_server_too(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Simulator((VmSpec("db01", disks=(DiskSpec(4 * MIB),), change_tracking=True),)) as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        hyperexport.export("db01", output=tmp_path, snapshot=True)
        running.vm("db01").guest_write(0, MIB, b"later" * 10_000)
        newer = hyperexport.export("db01", output=tmp_path, snapshot=True, incremental=True, max_chain=3)
        assert newer.manifest
        assert len(newer.manifest.parts(newer.manifest.disks[0])) == 2
        chain = Place({"output": tmp_path}, lambda _: b"", lambda *_: None)
        assert restore(chain).proofs[DISKS[0]] is Proof.SERVER
        assert contents(running, "copy") == contents(running, "db01")
        running.faults.add(Fault(FaultKind.MANIFEST_WRONG, vm="other", disk=0, times=0))
        with pytest.raises(errors.ChecksumMismatch, match=DISKS[0]):
            restore(chain, name="other")
        running.faults.clear()
        running.faults.add(Fault(FaultKind.MANIFEST_SHA1, vm="third", times=0))
        assert restore(chain, name="third").proofs[DISKS[0]] is Proof.READ_AGAIN


def test_disks_for_a_vm_that_is_there_are_proved_in_the_same_way(sim: Simulator, folder: Place) -> None:
    restore(folder, name="copy", disks=[1])
    result = restore(folder, name=None, attach_to="copy", disks=[0])
    assert result.proofs == {DISKS[0]: Proof.SERVER}
    whole = folder.damage(DISKS[0], CONTENT_ID)
    try:
        with pytest.raises(errors.VerificationFailed, match="damaged"):
            restore(folder, name=None, attach_to="copy", disks=[0])
    finally:
        folder.write(DISKS[0], whole)
    assert [vm.name for vm in sim.vms()] == ["db01", "copy"]
    assert len(sim.vm("copy").state()["disks"]) == 2


def test_a_host_that_refuses_a_sound_disk_is_the_error_and_the_file_is_read_again_once(
    sim: Simulator, folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read_again = upload_proof.WholeFile.read_again

    def watch(whole: upload_proof.WholeFile, *algorithms: str, **given: Any) -> dict[str, str]:
        asked.append(whole.name)
        return read_again(whole, *algorithms, **given)

    monkeypatch.setattr(upload_proof.WholeFile, "read_again", watch)
    sim.faults.add(Fault(FaultKind.HTTP_STATUS, vm="copy", disk=0, status=500, times=0))
    with pytest.raises(errors.TransferInterrupted, match="answered 500"):
        restore(folder)
    assert asked == [DISKS[0]]
    assert nothing_is_left(sim)
