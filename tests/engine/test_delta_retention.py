"""Keep rules over chains: whatever a cleanup deletes, each export that is kept restores byte for byte."""

import random
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.model.manifest import FILE_NAME, ExportManifest
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.groups import Cleanup
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.verification import verify
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.local import LocalStore
from tests.chains import Place, folder_place, guest, s3_place, stored
from tests.engine.s3_servers import S3Server

MIB = 1 << 20
EXPORTS = 9


class Made(NamedTuple):
    """A store of chains that no test touches, and what the guest had at each export."""

    place: Place
    bytes_of: dict[str, list[bytes]]


def make(place: Place) -> Made:
    """Export a VM again and again, in chains of three deltas."""
    bytes_of: dict[str, list[bytes]] = {}
    with pytest.MonkeyPatch.context() as patch, Simulator([VmSpec("db01", disks=(DiskSpec(2 * MIB, used=0.5),))]) as vc:
        for name, value in vc.environment().items():
            patch.setenv(name, value)
        for day in range(EXPORTS):
            vc.vm("db01").guest_write(0, day * 70_000, b"day %d" % day)
            bytes_of[place.export(max_chain=3).manifest.export_id] = guest(vc)
    assert [export.manifest.deltas for export in reversed(place.store.exports())] == [0, 1, 2, 3] * 2 + [0]
    return Made(place, bytes_of)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(folder_place(tmp_path_factory.mktemp("chains") / "exports"))


@pytest.fixture(scope="module")
def bucket(server: S3Server) -> Made:
    return make(s3_place(server, server.make_bucket("chains")))


def dated(export: StoredExport, at: datetime) -> bytes:
    """The manifest of an export that was made at another time."""
    times = {"started": at, "finished": at + timedelta(minutes=5), "server_time": at}
    return export.manifest.model_copy(update=times).to_json()


def days_of(chance: random.Random) -> list[datetime]:
    """When each export was made, the oldest first: days, weeks or months apart."""
    at, found = datetime.now(UTC) - timedelta(hours=1), list[datetime]()
    for _ in range(EXPORTS):
        found.append(at)
        at -= timedelta(days=chance.choice([1, 1, 2, 7, 31]), hours=chance.randrange(12))
    return found[::-1]


def rules_of(chance: random.Random) -> Cleanup:
    periods = ("daily", "weekly", "monthly")
    keep: dict[str, Any] = {f"keep_{period}": chance.choice([0, 0, 1, 2, 3]) for period in periods}
    limit = chance.choice([{"max_count": 1}, {"max_age": timedelta(days=chance.randrange(1, 60))}, {"max_size": 1}])
    return Cleanup.model_validate({"enabled": True, **keep, **limit, "trust_clock": True})


def clean_up_and_prove(store: Store, bytes_of: dict[str, list[bytes]], rules: Cleanup) -> set[str]:
    plan = plan_store_cleanup(store, rules)
    held = {item.export_id for item in plan.items if item.kept_by}
    done = delete_planned(store, plan, lambda _: True)
    assert done.failed == ()
    listing = store.listing()
    assert listing.damaged == ()
    left = {export.export_id for export in listing.exports}
    assert held <= left
    for export in listing.exports:
        assert stored(store, export) == bytes_of[export.export_id], f"{export}: {rules}"
        assert verify(store, export, VerifyMode.DEEP, StopSignal())[1].findings == ()
    return bytes_of.keys() - left


def test_what_keep_rules_hold_of_chains_restores_after_any_cleanup_of_a_folder(folder: Made, tmp_path: Path) -> None:
    gone = 0
    for seed in range(12):
        chance = random.Random(seed)
        root = tmp_path / str(seed)
        subprocess.run(["cp", "-al", folder.place.store.url, root], check=True)
        store = LocalStore(root)
        for export, at in zip(reversed(store.exports()), days_of(chance), strict=True):
            manifest = root / str(export) / FILE_NAME
            data = dated(export, at)
            manifest.unlink()  # the name alone: the file is the first store's, too
            manifest.write_bytes(data)
        gone += len(clean_up_and_prove(store, folder.bytes_of, rules_of(chance)))
    assert gone > 12
    for export in folder.place.store.exports():
        assert stored(folder.place.store, export) == folder.bytes_of[export.export_id]


@pytest.mark.matrix  # delta_chains/test_delta_chains.py deletes from chains in a bucket, too
def test_what_keep_rules_hold_of_chains_restores_after_cleanups_of_a_bucket(bucket: Made, server: S3Server) -> None:
    """One after the other in the same store: each time older exports have gone."""
    store, client = bucket.place.store, server.client()
    now = datetime.now(UTC) - timedelta(hours=1)
    for number, export in enumerate(store.exports()):
        data = dated(export, now - timedelta(days=5 * number))
        client.put_object(Bucket="chains", Key=f"vms/{export}/{FILE_NAME}", Body=data)
    gone: set[str] = set()
    for keep in ({"keep_weekly": 4, "keep_monthly": 2}, {"keep_weekly": 2}, {"keep_daily": 1}):
        rules = Cleanup.model_validate({"enabled": True, "max_count": 1, "trust_clock": True, **keep})
        gone |= clean_up_and_prove(store, bucket.bytes_of, rules)
    assert gone
    for item in client.list_objects_v2(Bucket="chains", Prefix="vms/").get("Contents", []):
        export_id = item["Key"].split("/")[2]
        assert export_id not in gone, "nothing of a deleted export stays"
    kept: list[ExportManifest] = [export.manifest for export in store.exports()]
    assert {entry.stored_in for one in kept for entry in one.files if entry.stored_in} <= {
        one.export_id for one in kept
    }
