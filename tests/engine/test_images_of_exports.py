"""Every form of export opens as the same disks."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import VerificationFailed
from hyperexport.formats.block_tags import BlockTagger
from hyperexport.images.opening import open_disk, open_disks
from hyperexport.model.manifest import FileRole
from hyperexport.store.base import RangeReader, Store, StoredExport
from hyperexport.store.local import LocalStore
from tests.engine import stored_images, verifiable
from tests.engine.s3_exports import open_store


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


class Watched:
    """A local store that counts the bytes that are read of each file in ranges and in order."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root)
        self.url, self.refers = self._store.url, False
        self.streamed: list[str] = []

    @contextmanager
    def open(self, export: StoredExport, name: str) -> Iterator[RangeReader]:
        with self._store.open(export, name) as reader:
            chunks = reader.chunks

            def watched(size: int = 1 << 20) -> Iterator[bytes]:
                self.streamed.append(name)
                return chunks(size)

            reader.chunks = watched
            yield reader


def publish_with_tags(store: LocalStore, damaged: bool) -> StoredExport:
    """The VM as an OVF folder whose first disk has the tags of its blocks beside it."""
    name, data = next(iter(verifiable.DISKS.items()))
    tagger = BlockTagger()
    tagger.write(data)
    packed = tagger.finish().pack()
    with store.stage(verifiable.FOLDER, verifiable.EXPORT_ID, verifiable.OWNER) as staging:
        entries = [verifiable.put(staging, each, *content) for each, content in verifiable.contents().items()]
        entry = verifiable.put(staging, f"{name}.tags", FileRole.TAGS, packed)
        if damaged:
            staging.put(f"{name}.tags", bytes(len(packed)))
        return staging.publish(verifiable.manifest(*entries, entry))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_disk_with_tags_is_not_read_whole_beforehand_unless_they_are_damaged(damaged: bool, tmp_path: Path) -> None:
    export = publish_with_tags(LocalStore(tmp_path), damaged)
    store = Watched(tmp_path)

    with open_disk(cast("Store", store), export, export.manifest.disks[0], stop=StopSignal()) as disk:
        assert disk.read(0, disk.capacity) == stored_images.GUEST[0]

    assert store.streamed == ([export.manifest.disks[0].name] if damaged else [])


def test_a_damaged_block_of_a_disk_with_tags_is_an_error_where_it_is_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    export = publish_with_tags(store, damaged=False)
    name = export.manifest.disks[0].name
    with (
        stored_images.rotten_byte(store, export, name, len(verifiable.DISKS[name]) // 2),
        pytest.raises(VerificationFailed, match=rf"{name} of {export}.* is damaged between byte"),
        open_disk(store, export, export.manifest.disks[0], stop=StopSignal()) as disk,
    ):
        disk.read(0, disk.capacity)
