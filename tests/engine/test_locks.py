"""Two runs on the same VM's exports: one waits or is told who is there, and neither spoils the other."""

import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ExportNotFound, Interrupted, StoreUnusable, VmHeld
from hyperexport.model.manifest import new_export_id
from hyperexport.model.marks import VerifiedMark
from hyperexport.model.ownership import Owner
from hyperexport.options.groups import Cleanup
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.liveness import at_work_here, process_at_work, process_is_over
from hyperexport.steps.locks import lock_folder, other_stagings
from hyperexport.steps.orphans import abandoned_stagings, remove_abandoned_stagings
from hyperexport.steps.preservation import preserve
from hyperexport.store.base import Store
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from tests.engine.local_exports import DISKS, FIRST, FOLDER, OWNER, SECOND, THIRD, manifest_of, write_export, write_file
from tests.engine.s3_servers import S3Server

KEEP_ONE = Cleanup(enabled=True, max_count=1)


def owner_of(run: str, **changes: object) -> Owner:
    return OWNER.model_copy(update={"run": run, **changes}).signed()


ELSEWHERE = owner_of("far-away", host="backup2", pid=4242, process=None, started=datetime(2026, 11, 24, tzinfo=UTC))


def everybody(_owner: Owner) -> bool:
    return True


def nobody(_owner: Owner) -> bool:
    return False


def lock(
    store: Store,
    owner: Owner,
    *,
    is_over: Callable[[Owner], bool] = nobody,
    at_work: Callable[[Owner], bool] = everybody,
    timeout: float = 0.0,
):
    return lock_folder(
        store,
        FOLDER,
        new_export_id(datetime.now(UTC)),
        owner=owner,
        is_over=is_over,
        at_work=at_work,
        stop=StopSignal(),
        timeout=timeout,
    )


@pytest.fixture
def s3(server: S3Server, tmp_path: Path) -> S3Store:
    bucket = f"b{abs(hash(str(tmp_path)))}"
    server.make_bucket(bucket)
    settings = S3Settings(
        endpoint_url=server.endpoint_url,
        ca_bundle=server.ca_file,
        access_key=SecretStr(server.access_key),
        secret_key=SecretStr(server.secret_key),
    )
    return S3Store(S3Location(bucket=bucket, prefix="vms"), settings, stop=StopSignal())


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "exports") if request.param == "local" else request.getfixturevalue("s3")


# -- who is there -----------------------------------------------------------------------------------------------------


def test_the_second_is_told_who_holds_the_vms_exports_and_since_when(store: Store) -> None:
    with lock(store, ELSEWHERE), pytest.raises(VmHeld) as caught, lock(store, owner_of("second")):
        pass
    for words in (FOLDER, "far-away", "backup2", "4242", "2026-11-24 00:00:00 UTC"):
        assert words in str(caught.value)
    assert store.abandoned() == []


def test_the_second_waits_for_the_first_to_be_done(store: Store) -> None:
    first = ExitStack()
    first.enter_context(lock(store, ELSEWHERE))
    asked: list[Owner] = []

    def is_over(owner: Owner) -> bool:
        asked.append(owner)
        if len(asked) == 2:
            first.close()
        return False

    with lock(store, owner_of("second"), is_over=is_over, timeout=60):
        assert [staging.owner for staging in store.abandoned()] == [owner_of("second")]
    assert asked == [ELSEWHERE, ELSEWHERE]


def test_a_run_that_is_stopped_does_not_go_on_waiting(store: Store) -> None:
    stop = StopSignal()

    def is_over(_owner: Owner) -> bool:
        stop.set()
        return False

    who = {"owner": OWNER, "is_over": is_over, "at_work": everybody}
    with (
        lock(store, ELSEWHERE),
        pytest.raises(Interrupted),
        lock_folder(store, FOLDER, "20261125T000000Z-0000", stop=stop, timeout=600, **who),
    ):
        pass
    assert store.abandoned() == []


def test_of_many_that_come_at_once_never_are_two_at_work(store: Store) -> None:
    inside: list[str] = []
    most: list[int] = []
    refused: list[str] = []
    begin = threading.Barrier(4)

    def run(name: str) -> None:
        begin.wait(60)
        try:
            with lock(store, owner_of(name), timeout=6):
                inside.append(name)
                most.append(len(inside))
                threading.Event().wait(0.05)
                inside.remove(name)
        except VmHeld:
            refused.append(name)

    threads = [threading.Thread(target=run, args=(f"run-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) + len(refused) == 4
    assert most, "they were all in each other's way to the end"
    assert max(most) == 1
    assert store.abandoned() == []


def test_a_run_that_nobody_knows_to_be_over_holds_the_exports_and_the_way_on_is_named(store: Store) -> None:
    with (
        lock(store, ELSEWHERE),
        pytest.raises(VmHeld) as caught,
        lock(store, owner_of("second"), at_work=nobody),
    ):
        pass
    assert "unknown whether that run is over" in str(caught.value)
    assert "hyperexport reap-snapshots --reap-run far-away" in caught.value.fix


def test_a_run_that_is_over_holds_nothing(store: Store) -> None:
    with lock(store, ELSEWHERE), lock(store, owner_of("second"), is_over=everybody) as held:
        assert held.doubtful == ()


def test_a_run_that_has_ended_in_this_process_holds_nothing_any_more() -> None:
    notebook = owner_of("in a notebook")
    with at_work_here(notebook.run):
        assert process_at_work(notebook)
        assert not process_is_over(notebook)
    assert process_is_over(notebook)
    assert not process_at_work(notebook)
    with at_work_here(notebook.run):
        assert process_at_work(notebook), "the same run, tried again"


# -- a cleanup beside an export ---------------------------------------------------------------------------------------


def test_a_cleanup_leaves_a_vm_alone_whose_export_may_refer_to_what_would_go(s3: S3Store) -> None:
    base = write_export(s3, FIRST)  # type: ignore[arg-type]
    write_export(s3, SECOND)  # type: ignore[arg-type]
    entry = base.manifest.file("db01-disk-1.vmdk")
    assert entry
    with s3.stage(FOLDER, manifest_of(THIRD).export_id, owner_of("exporting")) as staging:
        held = delete_planned(s3, plan_store_cleanup(s3, KEEP_ONE), process_is_over)
        assert held.deleted == ()
        assert held.failed == ()
        assert "exporting" in held.deferred[0]
        reused = staging.reuse(base, entry, entry.name)
        assert reused
        first = write_file(staging, "db01-disk-0.vmdk", DISKS["db01-disk-0.vmdk"])  # type: ignore[arg-type]
        staging.publish(manifest_of(THIRD, first, reused))
    done = delete_planned(s3, plan_store_cleanup(s3, KEEP_ONE), process_is_over)
    assert list(done.deleted) == [f"{FOLDER}/{manifest_of(SECOND).export_id}"]
    with s3.open(s3.exports()[0], entry.name) as reader:
        assert reader.read_at(0, reader.size) == DISKS["db01-disk-1.vmdk"]


def test_an_old_plan_does_not_take_what_a_new_export_uses(s3: S3Store) -> None:
    base = write_export(s3, FIRST)  # type: ignore[arg-type]
    write_export(s3, SECOND)  # type: ignore[arg-type]
    plan = plan_store_cleanup(s3, KEEP_ONE)
    assert [str(item) for item in plan.to_delete] == [str(base)]
    newest = write_export(s3, THIRD, reuse=base)  # type: ignore[arg-type]
    done = delete_planned(s3, plan, process_is_over)
    assert done.deleted == ()
    assert str(newest) in done.deferred[0]
    assert len(s3.exports()) == 3


def test_an_export_waits_for_a_cleanup_of_its_vm(s3: S3Store) -> None:
    cleaning = owner_of("cleaning")
    with (
        s3.stage(FOLDER, new_export_id(datetime.now(UTC)), cleaning),
        pytest.raises(VmHeld, match="cleaning"),
        lock(s3, owner_of("exporting"), is_over=process_is_over, at_work=process_at_work),
    ):
        pass


def test_an_export_whose_files_were_taken_away_is_not_published(s3: S3Store) -> None:
    base = write_export(s3, FIRST)  # type: ignore[arg-type]
    entry = base.manifest.file("db01-disk-1.vmdk")
    assert entry
    with s3.stage(FOLDER, manifest_of(SECOND).export_id, owner_of("exporting")) as staging:
        reused = staging.reuse(base, entry, entry.name)
        assert reused
        s3.delete(base)
        with pytest.raises(StoreUnusable, match=base.export_id):
            staging.publish(manifest_of(SECOND, reused))
    assert s3.exports() == []
    assert s3.abandoned() == []


def test_two_cleanups_with_one_plan_both_end_well(store: Store) -> None:
    for age in (FIRST, SECOND, THIRD):
        write_export(store, age)  # type: ignore[arg-type]
    plan = plan_store_cleanup(store, KEEP_ONE)
    first = delete_planned(store, plan, process_is_over)
    second = delete_planned(store, plan, process_is_over)
    assert (first.failed, second.failed, second.deferred) == ((), (), ())
    assert len(first.deleted) == 2
    assert [export.export_id for export in store.exports()] == [manifest_of(THIRD).export_id]


# -- two who change one export ----------------------------------------------------------------------------------------


def test_an_export_that_was_preserved_since_the_plan_was_made_stays(store: Store) -> None:
    for age in (FIRST, SECOND):
        write_export(store, age)  # type: ignore[arg-type]
    plan = plan_store_cleanup(store, KEEP_ONE)
    preserve([store], [manifest_of(FIRST).export_id], on=True)
    done = delete_planned(store, plan, process_is_over)
    assert done.deleted == ()
    assert "preserved" in done.deferred[0]
    assert len(store.exports()) == 2


def test_a_mark_that_comes_between_the_look_and_the_deletion_wins(store: Store) -> None:
    seen = write_export(store, FIRST)  # type: ignore[arg-type]
    preserve([store], [seen.export_id], on=True)
    with pytest.raises(StoreUnusable, match="has changed"):
        store.delete(seen)
    assert store.exports()[0].manifest.preserve


def test_a_long_verification_does_not_take_away_a_mark_that_was_made_meanwhile(store: Store) -> None:
    being_verified = write_export(store, FIRST)  # type: ignore[arg-type]
    preserve([store], [being_verified.export_id], on=True)
    mark = VerifiedMark(export_id=being_verified.export_id, verified=datetime.now(UTC), seconds=1)
    written = store.write_mark(being_verified, mark)
    (found,) = store.exports()
    assert found == written
    assert found.manifest.preserve
    assert found.manifest.verified == mark.verified


def test_a_deleted_export_is_not_brought_back_by_whoever_still_verifies_it(store: Store) -> None:
    being_verified = write_export(store, FIRST)  # type: ignore[arg-type]
    store.delete(being_verified)
    with pytest.raises(ExportNotFound):
        store.write_mark(being_verified, VerifiedMark(export_id=being_verified.export_id, seconds=1))
    assert store.exports() == []


# -- an owner tag that rotted -----------------------------------------------------------------------------------------


def test_no_flipped_byte_of_an_owner_tag_hides_a_claim_or_makes_a_run_dead(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    mine, dead = owner_of("mine"), owner_of("dead", pid=gone.pid)
    staging = tmp_path / FOLDER / f"{manifest_of(FIRST).export_id}.partial"
    with store.stage(FOLDER, manifest_of(FIRST).export_id, dead) as staged:
        write_file(staged, *next(iter(DISKS.items())))
        tag = staging / ".owner.json"
        data = tag.read_bytes()
        believed: list[int] = []
        # Three flips spell the same time in another way (t, z, and a comma for the point): they change nothing.
        begun = data.index(b'"started"')
        same = [(data.index(sign, begun), bit) for sign, bit in ((b"T", 5), (b".", 1), (b"Z", 5))]
        for at in range(len(data)):
            if (at, at % 8) in same:
                continue
            tag.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            found = [one.export_id for one in other_stagings(store, FOLDER, mine)]
            if found != [staged.export_id] or abandoned_stagings(store, FOLDER, process_is_over):
                believed.append(at)
        assert believed == []
        tag.write_bytes(data)
        assert remove_abandoned_stagings(store, FOLDER, process_is_over).removed == [f"{FOLDER}/{staged.export_id}"]


def test_a_tag_that_another_machine_made_for_another_vm_is_a_claim_in_doubt(tmp_path: Path) -> None:
    """Whether it rotted cannot be known here. Nothing that this machine signed for another VM is one."""
    store, vm = LocalStore(tmp_path), "99990000-1111-2222-3333-444455556666"
    for run, tag in {"far": ELSEWHERE.model_copy(update={"vm": vm}), "near": owner_of("near", vm=vm)}.items():
        with store.stage(FOLDER, new_export_id(datetime.now(UTC)), tag):
            assert [one.owner.run for one in other_stagings(store, FOLDER, OWNER) if one.owner] == (
                ["far-away"] if run == "far" else []
            )
