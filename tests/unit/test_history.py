"""Which exports are of one VM, and in which order they were made: told by identities and links, not by one clock."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from hyperexport.model.history import by_vm, identity_of, is_of_the_future, newest_first, of_vm, place
from hyperexport.model.identity import VmIdentity
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.vm import VmRef
from tests.examples import NOW, VM, an_export

ONE, OTHER = "564d0000-0000-0000-0000-000000000001", "564d0000-0000-0000-0000-000000000002"
DAY = timedelta(days=1)


def identity(ref: VmRef = VM, vcenter: str = "vc01", uuid: str | None = ONE) -> VmIdentity:
    return VmIdentity.of(ref, vcenter=vcenter, vcenter_uuid=uuid)


def as_is(manifest: ExportManifest) -> ExportManifest:
    return manifest


# -- identity ---------------------------------------------------------------------------------------------------------


def test_a_vm_stays_itself_when_it_is_renamed_moved_or_reached_by_another_address() -> None:
    renamed = VM.model_copy(update={"name": "db01-old", "path": "/DC1/vm/attic/db01-old", "moref": "vm-977"})
    assert identity().matches(identity(renamed, vcenter="10.0.0.7"))
    assert identity().matches(identity(VM.model_copy(update={"instance_uuid": VM.instance_uuid.upper()})))


def test_equal_uuids_on_two_servers_are_two_vms() -> None:
    hosts = (identity(uuid=None, vcenter=name) for name in ("esx1", "esx2"))
    for one, other in itertools.combinations([identity(uuid=ONE), identity(uuid=OTHER), *hosts], 2):
        assert not one.matches(other)
        assert one.digest != other.digest


def test_uuids_that_differ_only_after_eight_digits_are_two_vms() -> None:
    other = VM.model_copy(update={"instance_uuid": VM.instance_uuid[:-1] + "7"})
    assert not identity().matches(identity(other))
    assert identity().digest != identity(other).digest


@pytest.mark.parametrize("empty", ["", "00000000-0000-0000-0000-000000000000", "  "])
def test_without_a_uuid_the_server_and_the_moref_identify_a_vm(empty: str) -> None:
    one = VM.model_copy(update={"instance_uuid": empty})
    other = one.model_copy(update={"moref": "vm-43"})
    assert not identity(one).matches(identity(other))
    assert identity(one).matches(identity(one.model_copy(update={"name": "new"})))


def test_a_host_that_keeps_no_uuids_apart_tells_copies_by_their_moref() -> None:
    copied = identity(VM.model_copy(update={"moref": "17"}), uuid=None)
    assert not identity(uuid=None).matches(copied)
    assert identity(uuid=None).digest != copied.digest


def test_the_address_counts_only_where_a_side_has_no_server_uuid() -> None:
    assert identity(uuid=None).matches(identity(uuid=ONE))
    assert not identity(uuid=None, vcenter="10.0.0.7").matches(identity(uuid=ONE))


def test_an_export_without_the_servers_uuid_joins_no_group_by_guess() -> None:
    old = an_export(tail="0001")
    first = an_export(tail="0002", vcenter_uuid=ONE)
    assert [len(group) for group in by_vm([old, first], as_is).values()] == [2]
    again = an_export(tail="0003", vcenter_uuid=OTHER)
    groups = by_vm([old, first, again], as_is)
    assert sorted(len(group) for group in groups.values()) == [1, 1, 1]
    assert of_vm([old, first, again], as_is, identity_of(again)) == [again]


# -- order ------------------------------------------------------------------------------------------------------------


def chain(*days: float) -> list[ExportManifest]:
    """Exports made one after the other, each dated so many days from NOW and knowing all before it."""
    made: list[ExportManifest] = []
    for number, day in enumerate(days):
        ids = tuple(one.export_id for one in reversed(made))
        made.append(an_export(age=-timedelta(days=day), tail=f"{number:04x}", predecessors=ids))
    return made


LEAPS = [timedelta(hours=2), DAY, 40 * DAY, 800 * DAY]


@pytest.mark.parametrize("leap", [*LEAPS, *(-one for one in LEAPS)], ids=str)
@pytest.mark.parametrize("position", range(4))
def test_links_beat_a_clock_that_leapt_at_any_position(leap: timedelta, position: int) -> None:
    days = [-4.0, -3.0, -2.0, -1.0]
    days[position] += leap / DAY
    exports = chain(*days)
    for shuffled in itertools.permutations(exports):
        assert newest_first(shuffled, as_is, NOW) == exports[::-1]


def test_the_order_outlives_the_deletion_of_exports_in_between() -> None:
    first, _, _, last = exports = chain(30, -3, -2, -1)
    assert newest_first([last, first], as_is, NOW) == [last, first]
    assert newest_first(exports[::2], as_is, NOW) == [exports[2], first]


def test_the_base_orders_exports_of_versions_that_recorded_no_predecessors() -> None:
    base = an_export(age=-2 * DAY, tail="0001")
    newer = an_export(age=DAY, tail="0002", kind="incremental", base=base.export_id, last_full=base.export_id)
    assert newest_first([base, newer], as_is, NOW) == [newer, base]


def test_the_servers_time_orders_exports_that_no_link_connects() -> None:
    ahead = an_export(age=-2 * DAY, tail="0001", server_time=NOW - 3 * DAY)
    right = an_export(age=DAY, tail="0002", server_time=NOW - DAY)
    assert newest_first([ahead, right], as_is, NOW) == [right, ahead]


def test_links_that_contradict_each_other_lose_no_export() -> None:
    one, other = an_export(age=2 * DAY, tail="0001"), an_export(age=DAY, tail="0002")
    forged = [
        one.model_copy(update={"predecessors": (other.export_id,)}),
        other.model_copy(update={"predecessors": (one.export_id,)}),
    ]
    assert len(newest_first(forged, as_is, NOW)) == 2


def test_an_export_is_no_older_than_those_that_it_was_made_after() -> None:
    first, second = chain(-1, -700)
    placed = place([first, second], NOW)
    assert [one.at for one in placed] == [NOW - DAY, NOW - DAY]
    assert [one.rank for one in placed] == [0, 1]


def test_copies_of_one_export_have_one_rank() -> None:
    export = an_export()
    assert [one.rank for one in place([export, export, an_export(age=9 * DAY)], NOW)] == [1, 1, 0]


def test_a_few_minutes_ahead_are_not_the_future() -> None:
    assert not is_of_the_future(an_export(age=-timedelta(minutes=5)), NOW)
    assert is_of_the_future(an_export(age=-timedelta(minutes=11)), NOW)
    assert is_of_the_future(an_export(server_time=datetime(2028, 1, 1, tzinfo=UTC)), NOW)
