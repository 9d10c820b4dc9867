"""Which export is read: the newest good one of a VM, that of a time, or the one that is named."""

import hashlib
from datetime import timedelta
from typing import Any, cast

import pytest

from hyperexport.errors import ExportNotFound, UsageError
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.manifest import vm_folder
from hyperexport.steps.choosing import choose_export
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.listing import StoreListing
from tests.examples import NOW, VM, an_export

TAIL = "1111-2222-3333-444455556666"
OTHER = VM.model_copy(
    update={"name": "db02", "path": "/DC0/vm/db02", "instance_uuid": "99990000-1111-2222-3333-444455556666"}
)


class Listed:
    """A store of which only the listing is asked for."""

    def __init__(self, url: str, *exports: StoredExport, damaged: tuple[DamagedExport, ...] = ()) -> None:
        self.url = url
        self._listing = StoreListing(exports=exports, damaged=damaged)

    def listing(self) -> StoreListing:
        return self._listing

    def exports(self) -> list[StoredExport]:
        return list(self._listing.exports)


def stored(days: int, **changes: Any) -> StoredExport:
    manifest = an_export(age=timedelta(days=days), **changes)
    return StoredExport(folder=vm_folder(manifest.vm), manifest=manifest)


def chosen(*stores: Listed, **wanted: Any) -> tuple[str, str]:
    found = choose_export([cast("Store", store) for store in stores], **wanted)
    return found.store.url, str(found.export)


NEW, OLD, ELSEWHERE = stored(1), stored(9), stored(2, vm=OTHER)
STORE = Listed("local", ELSEWHERE, OLD, NEW)


@pytest.mark.parametrize("name", [VM.name, VM.path, VM.instance_uuid, NEW.folder])
def test_of_a_vm_the_newest_is_read(name: str) -> None:
    assert chosen(STORE, vm=name) == ("local", str(NEW))


def test_of_a_time_the_newest_before_it_is_read() -> None:
    assert chosen(STORE, vm="db01", at=NOW - timedelta(days=5)) == ("local", str(OLD))
    assert chosen(STORE, vm="db01", at=NEW.manifest.started) == ("local", str(NEW))
    with pytest.raises(ExportNotFound, match=r"no good export of 'db01' at or before 2026-11-03"):
        chosen(STORE, vm="db01", at=NOW - timedelta(days=20))


def test_a_damaged_export_is_passed_over_unless_it_is_named() -> None:
    bad = stored(0, damage=("db01-disk-0.vmdk: bad",))
    store = Listed("local", bad, NEW)
    assert chosen(store, vm="db01") == ("local", str(NEW))
    assert chosen(store, export=bad.export_id) == ("local", str(bad))
    with pytest.raises(ExportNotFound, match="1 are there, and damaged"):
        chosen(Listed("local", bad), vm="db01")


def test_an_export_that_nothing_proves_is_not_read_even_if_it_is_named() -> None:
    broken = DamagedExport(folder=NEW.folder, export_id=NEW.export_id, problem=Problem.SEAL, reason="has a broken seal")
    with pytest.raises(ExportNotFound, match=r"cannot be read: .*has a broken seal"):
        chosen(Listed("local", OLD, damaged=(broken,)), export=NEW.export_id)


def test_of_equal_copies_that_in_the_earlier_store_is_read_and_a_newer_one_wins_wherever_it_is() -> None:
    assert chosen(Listed("local", NEW), Listed("s3", NEW), vm="db01")[0] == "local"
    assert chosen(Listed("local", OLD), Listed("s3", NEW), vm="db01")[0] == "s3"


@pytest.mark.parametrize("name", [NEW.export_id, str(NEW), f"s3://bucket/prefix/{NEW}/"])
def test_an_export_is_found_as_it_is_listed(name: str) -> None:
    assert chosen(STORE, export=name) == ("local", str(NEW))


def test_an_export_is_found_by_the_short_id_that_is_listed() -> None:
    short = hashlib.sha256(str(NEW).encode()).hexdigest()[:8]
    assert chosen(STORE, export=short) == ("local", str(NEW))


def test_a_short_id_of_two_exports_names_neither() -> None:
    """The two ids were searched for: their digests begin alike."""
    same = stored(22, tail="1358"), stored(20, tail="3d56")
    with pytest.raises(UsageError, match=f"short id 9c62fd75: {same[0]}, {same[1]}"):
        chosen(Listed("local", *same), export="9c62fd75")


def test_a_name_that_several_vms_bear_lists_an_export_of_each() -> None:
    twin = stored(3, vm=VM.model_copy(update={"instance_uuid": "77770000-1111-2222-3333-444455556666"}))
    store = Listed("local", NEW, twin)
    with pytest.raises(UsageError, match=f"{NEW}, {twin}"):
        chosen(store, vm="db01")
    assert chosen(store, vm=twin.manifest.vm.instance_uuid)[1] == str(twin)


def test_vms_whose_uuids_begin_alike_are_not_one_vm() -> None:
    clone = stored(0, vm=VM.model_copy(update={"name": "db01", "instance_uuid": VM.instance_uuid[:-1] + "7"}))
    assert clone.folder == NEW.folder
    store = Listed("local", NEW, clone)
    with pytest.raises(UsageError, match="several VMs"):
        chosen(store, vm="db01")
    assert chosen(store, vm=VM.instance_uuid)[1] == str(NEW)


def test_a_renamed_vm_is_found_by_its_new_name_and_by_its_old_one() -> None:
    renamed = stored(0, vm=VM.model_copy(update={"name": "db-new", "path": "/DC0/vm/db-new"}))
    store = Listed("local", OLD, NEW, renamed)
    assert chosen(store, vm="db-new") == ("local", str(renamed))
    assert chosen(store, vm="db01") == ("local", str(renamed))
    successor = stored(0, tail="0002", vm=VM.model_copy(update={"instance_uuid": f"12345678-{TAIL}"}))
    assert chosen(Listed("local", OLD, renamed, successor), vm="db01") == ("local", str(successor))


def test_what_is_not_there_says_what_is() -> None:
    with pytest.raises(ExportNotFound, match=r"Its VMs are db01, db02\."):
        chosen(STORE, vm="db03")
    with pytest.raises(ExportNotFound, match="no export at all"):
        chosen(Listed("local"), vm="db01")


def test_what_cannot_be_read_is_not_called_absent() -> None:
    lost = DamagedExport(folder=NEW.folder, export_id=NEW.export_id, problem=Problem.BYTES, reason="its base is gone")
    with pytest.raises(ExportNotFound, match="1 damaged export is left out"):
        chosen(Listed("local", damaged=(lost,)), vm="db01")
    with pytest.raises(ExportNotFound, match=r"exports of db02\. 1 damaged export is left out"):
        chosen(Listed("local", ELSEWHERE, damaged=(lost,)), vm="db01")


def test_neither_nor_both_is_a_usage_error() -> None:
    for wanted in ({}, {"vm": "db01", "export": "x"}, {"export": NEW.export_id, "at": NOW}):
        with pytest.raises(UsageError):
            chosen(STORE, **wanted)


def test_an_export_that_was_made_after_the_time_is_not_read_whatever_its_clock_said() -> None:
    """The clock of the second's machine was two years behind; it names the first, which the store held before it."""
    first = stored(2)
    behind = stored(730, tail="00ff", predecessors=(first.export_id,))
    store = Listed("local", behind, first)
    assert chosen(store, vm="db01") == ("local", str(behind))
    with pytest.raises(ExportNotFound, match="at or before"):
        chosen(store, vm="db01", at=NOW - timedelta(days=365))
    server_knows = stored(730, tail="00fe", server_time=NOW - timedelta(days=1))
    with pytest.raises(ExportNotFound, match="at or before"):
        chosen(Listed("local", server_knows), vm="db01", at=NOW - timedelta(days=365))


@pytest.mark.parametrize("name", ["db01", "/DC0/vm/production/db01"])
def test_who_names_a_vm_where_an_export_is_asked_for_learns_its_newest(name: str) -> None:
    short = hashlib.sha256(str(NEW).encode()).hexdigest()[:8]
    with pytest.raises(ExportNotFound) as refused:
        chosen(STORE, export=name)
    assert f"{name} is a VM; its newest export is {short}" in str(refused.value.fix)
