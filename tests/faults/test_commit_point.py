"""The moment at which an export becomes visible: nothing before it is left to chance, and it has one winner."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.errors import StoreUnusable
from hyperexport.model.ownership import Owner
from hyperexport.simulator import Simulator
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.vsphere.endpoint import VSphereEndpoint
from tests.engine.s3_servers import S3Server, radosgw_s3
from tests.engine.verifiable import EXPORT_ID, FOLDER, OWNER, contents, manifest, put

ROUNDS = 12

Event = tuple[str, str]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What is synced, renamed and created from here on, in order."""
    events: list[Event] = []
    fsync, rename, real_open = os.fsync, os.rename, os.open

    def traced_fsync(fd: int) -> None:
        fsync(fd)
        events.append(("synced", str(Path(f"/proc/self/fd/{fd}").readlink())))

    def traced_rename(source: Path, target: Path, **how: int) -> None:
        rename(source, target, **how)
        events.append(("renamed", str(target)))

    def traced_open(path: Path, flags: int, *more: int, **how: int) -> int:
        fd = real_open(path, flags, *more, **how)
        if flags & os.O_CREAT:
            events.append(("created", str(path)))
        return fd

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    monkeypatch.setattr(os, "open", traced_open)
    return events


@pytest.mark.parametrize("form", ["ovf", "ova"])
def test_everything_is_on_the_disk_before_the_export_gets_its_name(
    vcenter: Simulator, fresh: Iterator[str], tmp_path: Path, traced: list[Event], form: str
) -> None:
    server = VSphereEndpoint(
        url=vcenter.url, username=vcenter.username, password=SecretStr(vcenter.password), ca_file=vcenter.ca_file
    )
    result = hyperexport.export(next(fresh), vsphere=server, output=tmp_path, format=form, snapshot=True)
    assert result.manifest
    final = Path(result.locations[0])
    staged = f"{final}.partial"
    named = traced.index(("renamed", str(final)))
    files = {entry.name for entry in result.manifest.files if not entry.member_of} | {"export.json"}
    last = {name: max(i for i, event in enumerate(traced) if event == ("synced", f"{staged}/{name}")) for name in files}
    made = max(i for i, (what, path) in enumerate(traced) if what == "created" and Path(path).parent == Path(staged))
    listed = [i for i, event in enumerate(traced) if event == ("synced", staged)]

    assert max(last[name] for name in files - {"export.json"}) < last["export.json"], "the manifest is synced last"
    assert made < last["export.json"] < listed[-1] < named, "then the folder, then the name"
    assert ("synced", str(final.parent)) in traced[named:], "and the name, too, is made to last"


@pytest.fixture(scope="module")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with radosgw_s3(tmp_path_factory.mktemp("radosgw")) as server:
        yield server


def open_store(server: S3Server, bucket: str) -> S3Store:
    settings = S3Settings(
        endpoint_url=server.endpoint_url,
        ca_bundle=server.ca_file,
        access_key=SecretStr(server.access_key),
        secret_key=SecretStr(server.secret_key),
    )
    return S3Store(S3Location(bucket=bucket, prefix="vms"), settings, stop=StopSignal())


def at_once(*calls: Callable[[], bool]) -> list[bool]:
    """Do all at the same moment, as far as threads can."""
    barrier = threading.Barrier(len(calls))

    def call(one: Callable[[], bool]) -> bool:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(call, calls))


def winners(server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of two that have both looked are told, round by round, that the place is theirs."""
    server.make_bucket(bucket)
    buckets = [open_store(server, bucket)._bucket for _ in range(2)]
    for one in buckets:
        monkeypatch.setattr(one, "head", lambda _key: None)  # both looked before either wrote

    def create(number: int, place: int) -> Callable[[], bool]:
        return lambda: buckets[number].create_if_absent(f"place-{place}", b"%d" % number)

    return [sum(at_once(create(0, place), create(1, place))) for place in range(ROUNDS)]


@pytest.mark.radosgw
@pytest.mark.faults
def test_of_two_that_race_for_a_place_one_wins_where_the_server_has_conditional_writes(
    radosgw: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert winners(radosgw, "race", monkeypatch) == [1] * ROUNDS


@pytest.mark.faults
def test_rclone_knows_no_conditional_writes(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Should this fail one day, rclone has learnt them, and docs/reliability.md has a sentence too many.
    assert winners(s3, "race", monkeypatch) == [2] * ROUNDS


def test_where_a_server_has_none_the_mark_decides_who_publishes(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.make_bucket("two-runs")
    first, second = open_store(s3, "two-runs"), open_store(s3, "two-runs")
    other = Owner.of_this_process(run="run-2", vcenter="vcenter.example.com", vm=OWNER.vm)
    files = contents()
    with first.stage(FOLDER, EXPORT_ID, OWNER) as early:
        # The second looked before the first wrote, and finds nothing at the place.
        with monkeypatch.context() as blind:
            blind.setattr(second._bucket, "objects", lambda _prefix: iter(()))
            blind.setattr(second._bucket, "head", lambda _key: None)
            late = second.stage(FOLDER, EXPORT_ID, other)
            staging = late.__enter__()
        entries = [put(staging, name, *content) for name, content in files.items()]
        with pytest.raises(StoreUnusable, match="another run"):
            early.publish(manifest(*(put(early, name, *content) for name, content in files.items())))
    published = staging.publish(manifest(*entries))
    late.__exit__(None, None, None)
    assert first.exports() == [published], "the first one's failure took nothing of the second one's away"
    assert first.abandoned() == []


def test_a_run_that_was_taken_for_dead_publishes_no_hollow_export(s3: S3Server) -> None:
    s3.make_bucket("taken-for-dead")
    store = open_store(s3, "taken-for-dead")
    with store.stage(FOLDER, EXPORT_ID, OWNER) as staging:
        entries = [put(staging, name, *content) for name, content in contents().items()]
        (found,) = store.abandoned(FOLDER)
        store.remove_abandoned(found)
        with pytest.raises(StoreUnusable, match="Start the export again"):
            staging.publish(manifest(*entries))
    assert store.exports() == []
