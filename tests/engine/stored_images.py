"""The same small VM as an export of every form: in a folder or a bucket, OVF or OVA, its own bytes or an earlier's."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from hyperexport.model.manifest import FileRole
from hyperexport.simulator.disks import Disk
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.local import LocalStore
from tests.engine import verifiable
from tests.examples import an_export

FORMS = ("ovf", "ova", "reused")
GUEST = [Disk(verifiable.CAPACITY, seed=number, used=0.1).read(0, verifiable.CAPACITY) for number in (0, 1)]
"""What the guest had on each disk."""


def publish(form: str, store: Store, scratch: Path) -> StoredExport:
    """Put the VM into a store in one of the forms."""
    if form == "ova":
        return verifiable.publish_ova(store if isinstance(store, LocalStore) else LocalStore(scratch), store)
    base = verifiable.publish(store)
    if form == "ovf":
        return base
    age = verifiable.AGE - timedelta(hours=2)
    with store.stage(verifiable.FOLDER, an_export(age=age).export_id, verifiable.OWNER) as staging:
        entries = []
        for name, content in verifiable.contents().items():
            found = base.manifest.file(name)
            assert found is not None
            reused = staging.reuse(base, found, name) if content[0] is FileRole.DISK else None
            entries.append(reused or verifiable.put(staging, name, *content))
        return staging.publish(an_export(age=age, files=tuple(entries)))


@contextmanager
def rotten_byte(store: LocalStore, export: StoredExport, name: str, offset: int) -> Iterator[None]:
    """Change one byte of a stored file while the block runs."""
    entry = export.manifest.file(name)
    assert entry is not None
    folder = Path(store.url) / str(export)
    path, at = folder / (entry.member_of or name), offset + (entry.offset or 0)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    try:
        yield
    finally:
        data[at] ^= 1
        path.write_bytes(data)
