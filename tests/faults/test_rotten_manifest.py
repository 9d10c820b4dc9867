"""A rotten manifest decides nothing: each of its bytes flipped, against everything that reads manifests.

What is expected is what holds of a store in which that export does not count; it is worked out from the three ages.
"""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.cli.output import pair_lines
from hyperexport.model.history import identity_of
from hyperexport.model.manifest import FILE_NAME
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.groups import Cleanup
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.plan import newest_with_problem
from hyperexport.steps.recent import recent_exports
from hyperexport.steps.verification import select_exports, verify, verify_selected
from hyperexport.store.base import StoredExport
from hyperexport.store.cached_store import CachedStore
from hyperexport.store.contents import StoreContents
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Store
from hyperexport.views.survey import survey
from tests.chains import folder_place
from tests.engine.local_exports import FIRST, SECOND, THIRD, write_export
from tests.engine.s3_exports import open_store
from tests.engine.s3_servers import S3Server

LIMITS = {
    "count": Cleanup(enabled=True, max_count=1),
    "age": Cleanup(enabled=True, max_age=timedelta(seconds=1)),
    "size": Cleanup(enabled=True, max_size=1),
    "free": Cleanup(enabled=True, min_free=2**60),
}
EVERY = pytest.param(1, marks=pytest.mark.faults, id="every byte")
SEVENTH = pytest.param(7, marks=pytest.mark.faults, id="every 7th byte")
"""In a bucket, where each reader asks the server a dozen times; every bit is in another place of its byte."""
SAMPLE = pytest.param(29, id="every 29th byte")


def wrong_answers(store: LocalStore | S3Store, rotten: StoredExport, others: list[StoredExport]) -> list[str]:
    """Which readers let the rotten export decide, or do not report it. The others come newest first."""
    newest, *older = others
    listing = store.listing(rotten.folder)
    contents = StoreContents(store=store.url, exports=listing.exports, damaged=listing.damaged)
    young = datetime.now(UTC) - rotten.manifest.started + timedelta(hours=1)
    fresh = [newest] if newest.manifest.started > rotten.manifest.started else []
    (vm,) = survey(CachedStore(store)).vms
    verified = verify_selected(
        select_exports([store], [rotten.export_id]), VerifyMode.ON, StopSignal(), verify_one=verify
    )
    answers = {
        "list": list(listing.exports) == others and [str(one) for one in listing.damaged] == [str(rotten)],
        "list --quiet": f"export={rotten}" in pair_lines(contents),
        "next incremental": newest_with_problem(store, listing) == (newest, None),
        "skip-newer-than": list(recent_exports([store], [identity_of(newest.manifest)], young, server=None).values())
        == fresh,
        "report": vm.last_good == newest.manifest and vm.damaged == (rotten.export_id,),
        "verify": [item.verification.ok for item in verified] == [False],
    }
    for name, limit in LIMITS.items():
        if name == "free" and store.free_bytes() is None:
            continue  # a bucket has no end
        plan = plan_store_cleanup(store, limit)
        gone = {item.export_id for item in plan.to_delete}
        reported = [str(one) for one in plan.damaged] == [str(rotten)]
        # In a bucket the damaged one may use the bytes of any other.
        goes = set() if store.refers else {export.export_id for export in older}
        answers[f"cleanup by {name}"] = gone == goes and reported
    return [name for name, right in answers.items() if not right]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [SAMPLE, EVERY])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["newest", "middle", "oldest"])
def test_no_flipped_byte_of_a_manifest_decides_anything(tmp_path: Path, place: int, step: int) -> None:
    logging.disable(logging.CRITICAL)
    store = LocalStore(tmp_path)
    exports = [write_export(store, age) for age in (THIRD, SECOND, FIRST)]
    rotten, others = exports[place], [export for number, export in enumerate(exports) if number != place]
    path = tmp_path / str(rotten) / FILE_NAME
    data = path.read_bytes()
    wrong: list[tuple[int, list[str]]] = []
    try:
        for at in range(0, len(data), step):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            found = wrong_answers(store, rotten, others)
            wrong += [(at, found)] if found else []
    finally:
        logging.disable(logging.NOTSET)
    assert wrong == []


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Three exports of a day each, of which the second and the third are deltas."""
    place = folder_place(tmp_path_factory.mktemp("chain") / "exports")
    with pytest.MonkeyPatch.context() as patch, Simulator([VmSpec("db01", disks=(DiskSpec(1 << 20),))]) as vcenter:
        for name, value in vcenter.environment().items():
            patch.setenv(name, value)
        for day in range(3):
            vcenter.vm("db01").guest_write(0, 0, b"day %d" % day)
            place.export(max_chain=3)
    root = Path(place.store.url)
    for age, export in enumerate(place.store.exports(), start=1):
        at = datetime.now(UTC) - timedelta(days=age)
        times = {"started": at, "finished": at, "server_time": at}
        (root / str(export) / FILE_NAME).write_bytes(export.manifest.model_copy(update=times).to_json())
    assert [export.manifest.deltas for export in place.store.exports()] == [2, 1, 0]
    return LocalStore(root)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", [pytest.param(499, id="every 499th byte"), SEVENTH])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["newest", "middle", "oldest"])
def test_no_flipped_byte_of_a_manifest_of_deltas_decides_anything(chain: LocalStore, place: int, step: int) -> None:
    logging.disable(logging.CRITICAL)
    exports = chain.exports()
    rotten, others = exports[place], [export for number, export in enumerate(exports) if number != place]
    path = Path(chain.url) / str(rotten) / FILE_NAME
    data = path.read_bytes()
    wrong: list[tuple[int, list[str]]] = []
    try:
        for at in range(0, len(data), step):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            found = wrong_answers(chain, rotten, others)
            wrong += [(at, found)] if found else []
    finally:
        path.write_bytes(data)
        logging.disable(logging.NOTSET)
    assert wrong == []


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("step", [pytest.param(331, id="every 331st byte"), SEVENTH])
def test_no_flipped_byte_of_a_manifest_in_a_bucket_decides_anything(s3: S3Server, step: int) -> None:
    logging.disable(logging.CRITICAL)
    bucket = s3.make_bucket(f"flipped-{step}")
    store = open_store(s3, bucket, "vms")
    rotten, *others = [write_export(store, age) for age in (THIRD, SECOND, FIRST)]
    client, key = s3.client(), f"vms/{rotten}/{FILE_NAME}"
    data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    wrong: list[tuple[int, list[str]]] = []
    try:
        for at in range(0, len(data), step):
            client.put_object(Bucket=bucket, Key=key, Body=data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            found = wrong_answers(store, rotten, others)
            wrong += [(at, found)] if found else []
    finally:
        logging.disable(logging.NOTSET)
    assert wrong == []


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_an_export_whose_manifest_rots_after_the_plan_was_made_is_not_deleted(tmp_path: Path, limit: Cleanup) -> None:
    store = LocalStore(tmp_path)
    _, middle, oldest = (write_export(store, age) for age in (THIRD, SECOND, FIRST))
    plan = plan_store_cleanup(store, limit)
    path = tmp_path / str(oldest) / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-2"))
    done = delete_planned(store, plan, lambda _: False)
    assert done.deleted == (str(middle),)
    assert [words.partition(":")[0] for words in done.deferred] == [str(oldest)]
    assert path.exists()
