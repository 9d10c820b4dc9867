"""Chains of deltas verified, and what becomes of those with a damaged or missing file."""

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.images.opening import open_disks
from hyperexport.model.manifest import FileRole
from hyperexport.options.declaring import VerifyMode
from hyperexport.results import VerifiedExport
from hyperexport.simulator import Simulator
from hyperexport.steps.verification import verify
from hyperexport.verify.chains import Link, open_chain
from hyperexport.verify.export import ReadFiles
from tests.chains import (
    Place,
    files_of,
    guest,
    rot,
    s3_place,
    stored,
)
from tests.engine.delta_vm import a_chain, change
from tests.engine.local_exports import forge
from tests.engine.s3_exports import keys, settings
from tests.engine.s3_proxy import faulty_proxy
from tests.engine.s3_servers import S3Server

# -- verification ------------------------------------------------------------------------------------------------------


def bytes_read(verified: list[VerifiedExport]) -> int:
    return sum(one.verification.bytes_read for one in verified)


@pytest.mark.sample("folder")
def test_verify_reads_a_file_once_however_many_exports_share_it(vcenter: Simulator, place: Place) -> None:
    a_chain(vcenter, place)
    exports = place.store.exports()
    shared = {FileRole.DISK, FileRole.BASE, FileRole.TAGS}
    files = [entry for one in exports for entry in one.manifest.files]
    once = {entry.written_as: entry.size for entry in files if entry.role in shared}
    others = sum(entry.size for entry in files if entry.role not in shared)

    found = list(hyperexport.verify_exports(**place.where, verify="deep"))

    assert bytes_read(found) == sum(once.values()) + others
    assert all(one.verification.ok for one in found)


def test_verify_asks_a_server_once_about_a_file_however_many_exports_share_it(
    vcenter: Simulator, server: S3Server, tmp_path: Path
) -> None:
    place = s3_place(server, server.make_bucket("asked-once"))
    a_chain(vcenter, place)
    objects = {key for key in keys(server, place.store.url.split("/")[2]) if ".vmdk" in key}
    with faulty_proxy(server, tmp_path) as proxy:
        through = settings(server, endpoint_url=proxy.endpoint_url, ca_bundle=proxy.ca_file)
        found = list(hyperexport.verify_exports(**{**place.where, "s3": through}))
        asked = Counter(tuple(one.partition("?")[0].split()) for one in proxy.requests if ".vmdk" in one)
    assert all(one.verification.ok for one in found)
    heads = {target.split("/", 2)[2]: count for (method, target), count in asked.items() if method == "HEAD"}
    assert heads == dict.fromkeys(objects, 1)
    tags = {target: count for (method, target), count in asked.items() if method == "GET" and "disk-0.vmdk." in target}
    assert tags == dict.fromkeys(tags, 1)
    assert len(tags) == 6  # two kinds for each file of the chain


def test_a_chain_whose_files_do_not_fit_is_found_also_where_another_export_proved_its_beginning(
    vcenter: Simulator, folder: Place
) -> None:
    export = a_chain(vcenter, folder)
    sound = set[Link]()
    parts = export.manifest.parts(export.manifest.disks[0])
    before = folder.store.exports()[1]
    open_chain(folder.store, before, before.manifest.parts(before.manifest.disks[0]), sound)
    assert len(sound) == 2
    open_chain(folder.store, export, parts, sound)
    for wrong in (
        (parts[1], parts[2]),
        (parts[0], parts[2]),
        (parts[0], parts[1], parts[2].model_copy(update={"cid": "00000001"})),
        (parts[0].model_copy(update={"cid": "00000001"}), *parts[1:]),
    ):
        with pytest.raises(errors.VerificationFailed):
            open_chain(folder.store, export, wrong, sound)


def test_an_empty_store_beside_another_proves_nothing_and_the_other_is_verified(
    vcenter: Simulator, folder: Place, server: S3Server
) -> None:
    a_chain(vcenter, folder)
    bucket = server.make_bucket("empty-beside-another")
    misspelt = s3_place(server, bucket)
    with pytest.raises(errors.VerificationFailed, match=f"s3://{bucket}/vms, so nothing was verified there") as failed:
        hyperexport.verify_exports(**{**misspelt.where, **folder.where, "keep_local": True})
    assert all(one.verification.ok for one in failed.value.exports)
    assert all(export.manifest.verified for export in folder.store.exports())


def test_the_folder_that_nobody_named_may_be_empty_beside_a_bucket(
    vcenter: Simulator, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = s3_place(server, server.make_bucket("nobody-named"))
    place.export()
    assert [one.verification.ok for one in hyperexport.verify_exports(**{**place.where, "keep_local": True})] == [True]


def test_verify_names_every_export_that_builds_on_a_damaged_file(vcenter: Simulator, folder: Place) -> None:
    export = a_chain(vcenter, folder)
    rot(files_of(folder.store, export)[1])
    with pytest.raises(errors.VerificationFailed) as failed:
        hyperexport.verify_exports(**folder.where)
    oldest, *dependent = reversed(folder.store.exports())
    wrong = {one.location.rpartition("/")[2] for one in failed.value.exports if not one.verification.ok}
    assert wrong == {one.export_id for one in dependent}
    assert oldest.manifest.damage == ()


def test_a_file_that_is_written_to_while_verify_runs_is_read_again(vcenter: Simulator, folder: Place) -> None:
    """The manifests record the damage, and a second run finds none of it remembered."""
    export = a_chain(vcenter, folder)
    read = ReadFiles()
    assert verify(folder.store, export, VerifyMode.ON, StopSignal(), read=read)[1].ok
    rot(files_of(folder.store, export)[0])
    assert not verify(folder.store, export, VerifyMode.ON, StopSignal(), read=read)[1].ok


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.sample("1")
@pytest.mark.parametrize("link", [0, 1, 2])
def test_nothing_is_built_on_a_chain_with_a_damaged_link(vcenter: Simulator, folder: Place, link: int) -> None:
    export = a_chain(vcenter, folder)
    rot(files_of(folder.store, export)[link])
    change(vcenter, b"after the damage")

    result = folder.export(verify=True)

    assert result.manifest.disks[0].chain == ()
    assert any("is stored whole, not as a delta" in words for words in result.manifest.warnings)
    assert stored(folder.store, folder.newest()) == guest(vcenter)
    names = {path.name for path in (Path(folder.store.url) / str(folder.newest())).iterdir()}
    assert not any(name.startswith("base-2000") for name in names)
    for one in folder.store.exports()[1:]:
        assert verify(folder.store, one, VerifyMode.ON, StopSignal())[1].findings or link > len(
            one.manifest.disks[0].chain
        )


@pytest.mark.sample("1")
@pytest.mark.parametrize("link", [0, 1, 2])
def test_a_missing_link_is_a_full_export(vcenter: Simulator, folder: Place, link: int) -> None:
    export = a_chain(vcenter, folder)
    files_of(folder.store, export)[link].unlink()
    change(vcenter, b"after the loss")
    result = folder.export()
    assert "lacks" in result.plan.reason
    assert stored(folder.store, folder.newest()) == guest(vcenter)


def _unlinked(path: Path) -> None:
    path.unlink()


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _a_link(path: Path) -> None:
    elsewhere = path.rename(path.parents[3] / "elsewhere.vmdk")
    path.symlink_to(elsewhere)


def _shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 512)


@pytest.mark.parametrize("harm", [_unlinked, _a_folder, _a_link, _shorter, rot])
def test_a_restore_of_a_chain_whose_link_cannot_be_used_names_the_file_and_says_what_to_do(
    vcenter: Simulator, folder: Place, harm: Callable[[Path], None]
) -> None:
    export = a_chain(vcenter, folder)
    path = files_of(folder.store, export)[1]
    harm(path)
    with pytest.raises(errors.HyperExportError, match=path.name) as failed:
        hyperexport.restore(export.export_id, name="db01-back", **folder.where)
    assert failed.value.fix == errors.USE_ANOTHER_EXPORT


def test_a_sound_disk_is_restored_of_an_export_whose_other_disk_is_damaged(vcenter: Simulator, folder: Place) -> None:
    """The base of a chain rotted, so every export of the VM is damaged, in the same disk."""
    export = a_chain(vcenter, folder)
    rot(files_of(folder.store, export)[0])
    with pytest.raises(errors.VerificationFailed):
        hyperexport.verify_exports(**folder.where)

    hyperexport.restore(export.export_id, name="db01-back", disks=[1], **folder.where)

    assert guest(vcenter, "db01-back") == guest(vcenter)[1:]
    for disks in ((), (0,), (0, 1)):
        with pytest.raises(errors.VerificationFailed, match="is damaged: base-2000") as failed:
            hyperexport.restore(export.export_id, name="db01-again", disks=disks, **folder.where)
        assert "--disk" in (failed.value.fix or "")


def test_every_flipped_bit_of_a_delta_is_found(vcenter: Simulator, folder: Place) -> None:
    export = a_chain(vcenter, folder)
    path = files_of(folder.store, export)[-1]
    chance = random.Random(9)
    size = path.stat().st_size
    for at in (0, 40, 512, 600, size - 1, size - 1000, size - 1500, *(chance.randrange(size) for _ in range(12))):
        rot(path, at)
        _, found = verify(folder.store, export, VerifyMode.ON, StopSignal())
        assert path.name in {finding.file for finding in found.findings}
        rot(path, at)


def test_a_delta_on_another_base_is_found_although_every_checksum_is_right(vcenter: Simulator, folder: Place) -> None:
    """As after somebody put the files of two exports together, with manifests to match."""
    export = a_chain(vcenter, folder)
    manifest = export.manifest
    base, middle, top = manifest.parts(manifest.disks[0])
    swapped = manifest.disks[0].model_copy(update={"chain": (middle.name, base.name)})
    files = tuple(swapped if entry == top else entry for entry in manifest.files)
    wrong = forge(folder.store, export, files=files)

    _, found = verify(folder.store, wrong, VerifyMode.ON, StopSignal())

    assert any("builds on" in finding.problem for finding in found.findings)
    with (
        pytest.raises(errors.VerificationFailed, match="builds on"),
        open_disks(folder.store, wrong, stop=StopSignal()),
    ):
        pass
    assert folder.export().manifest.disks[0].chain == ()
