"""Every form of export opens as the same disks."""

import hashlib
from collections.abc import Generator
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import VerificationFailed
from hyperexport.images import open_disks
from hyperexport.store.base import Store
from hyperexport.store.local import LocalStore
from tests.engine import stored_images, verifiable
from tests.engine.s3_exports import open_store
from tests.engine.s3_servers import S3Server, rclone_s3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        yield running


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    server = request.getfixturevalue("server")
    return open_store(server, server.make_bucket("b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]))


@pytest.mark.parametrize("form", stored_images.FORMS)
def test_its_disks_have_the_guests_bytes(form: str, store: Store, tmp_path: Path) -> None:
    export = stored_images.publish(form, store, tmp_path / "scratch")

    with open_disks(store, export, stop=StopSignal()) as disks:
        assert [disk.read(0, disk.capacity) for disk in disks] == stored_images.GUEST
        assert [disk.read(70_000, 5000) for disk in disks] == [guest[70_000:75_000] for guest in stored_images.GUEST]


@pytest.mark.parametrize("form", ["ovf", "ova"])
def test_a_damaged_disk_is_named_before_a_byte_of_it_is_read(form: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    export = stored_images.publish(form, store, tmp_path)
    name = export.manifest.disks[1].name

    with (
        stored_images.rotten_byte(store, export, name, len(verifiable.DISKS[name]) // 2),
        pytest.raises(VerificationFailed, match=rf"{name} of {export}.* is damaged"),
        open_disks(store, export, stop=StopSignal()),
    ):
        pass
