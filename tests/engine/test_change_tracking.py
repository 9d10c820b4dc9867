"""What changed since an earlier snapshot is proved to the end of the disk, or said to be unknown."""

import pytest

from hyperexport import errors
from hyperexport.model.ownership import Owner
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.vsphere.change_tracking import changed_areas
from hyperexport.vsphere.inventory import disks_of_snapshot, find_vm
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.snapshots import create_snapshot, remove_snapshot
from tests.engine.conftest import endpoint_of

MIB = 1 << 20
WIDE = 512 * MIB
FIRST, SECOND = 2000, 2001


@pytest.fixture(scope="module")
def server():
    vms = (
        *(VmSpec(f"vm-{number}", disks=(DiskSpec(8 * MIB), DiskSpec(4 * MIB))) for number in range(20)),
        VmSpec("wide", disks=(DiskSpec(WIDE, used=0),)),
        VmSpec("untracked", disks=(DiskSpec(MIB),), change_tracking=False),
    )
    with Simulator(vms) as server:
        yield server


@pytest.fixture(scope="module")
def fresh(server):
    """The names of VMs that no test has used."""
    return iter([vm.name for vm in server.vms()])


@pytest.fixture
def session(server):
    with connect(endpoint_of(server)) as session:
        yield session
    server.faults.clear()


@pytest.fixture
def guest(server, fresh):
    return server.vm(next(fresh))


class Backup:
    """What two exports in a row do: a snapshot, what changed since the last one, the snapshot removed."""

    def __init__(self, session, guest):
        self.session = session
        self.vm = find_vm(session, guest.name)
        self.snapshot = None
        self.frozen = {}

    def take(self):
        owner = Owner.of_this_process(run="r", vcenter=self.session.address, vm=self.vm.instance_uuid)
        made = create_snapshot(
            self.session,
            self.vm,
            name="backup",
            owner=owner,
            quiesce=True,
            memory=False,
            quiesce_required=False,
            tools_running=True,
            powered_on=True,
        )
        self.snapshot = made.record.moref
        self.frozen = {disk.key: disk for disk in disks_of_snapshot(self.session, self.snapshot)}
        return self.frozen

    def next(self):
        """Take a first snapshot, remove it; the disks as they were in it."""
        disks = self.take()
        remove_snapshot(self.session, self.vm, self.snapshot)
        return disks

    def changed(self, disk, since=None):
        now = self.frozen.get(disk.key, disk)
        return changed_areas(self.session, self.vm, now, snapshot=self.snapshot, since=since or disk.change_id)


@pytest.fixture
def backup(session, guest):
    return Backup(session, guest)


def test_a_disk_that_nobody_wrote_to_is_proved_unchanged(backup, guest):
    before = backup.next()
    guest.guest_write(0, 0, b"x")
    backup.take()
    assert backup.changed(before[SECOND]).bytes == 0
    assert backup.changed(before[SECOND]).extents == ()


def test_every_byte_that_was_written_lies_in_the_changed_areas(backup, guest):
    before = backup.next()
    written = [(0, 1), (3 * MIB + 7, 100_000), (8 * MIB - 1, 1)]
    for offset, length in written:
        guest.guest_write(0, offset, b"x" * length)
    backup.take()
    found = backup.changed(before[FIRST])
    for offset, length in written:
        assert any(area.start <= offset and offset + length <= area.start + area.length for area in found.extents), (
            offset
        )
    assert found.bytes == sum(area.length for area in found.extents) < 8 * MIB


def test_what_was_written_after_the_snapshot_does_not_count(backup, guest):
    before = backup.next()
    backup.take()
    guest.guest_write(0, 0, b"x")
    assert backup.changed(before[FIRST]).bytes == 0


def test_more_areas_than_one_answer_holds_are_all_walked(session, server):
    guest = server.vm("wide")
    backup = Backup(session, guest)
    (before,) = backup.next().values()
    step = WIDE // 3000 // 512 * 512
    for number in range(3000):
        guest.guest_write(0, number * step, b"x")
    backup.take()
    asked = server.requests.get("QueryChangedDiskAreas", 0)
    found = backup.changed(before)
    assert server.requests["QueryChangedDiskAreas"] - asked >= 2
    ends = [(area.start, area.start + area.length) for area in found.extents]
    missed = [number for number in range(3000) if not any(a <= number * step < b for a, b in ends)]
    assert missed == []


def test_tracking_that_began_anew_is_no_proof(backup, guest):
    before = backup.next()
    guest.reset_change_tracking(0)
    backup.take()
    with pytest.raises(errors.ChangeTrackingUnavailable, match="reset"):
        backup.changed(before[FIRST])


def test_a_disk_whose_changes_are_not_tracked_says_so(session, server):
    backup = Backup(session, server.vm("untracked"))
    (disk,) = backup.take().values()
    assert disk.change_id is None
    with pytest.raises(errors.ChangeTrackingUnavailable, match="does not track"):
        backup.changed(disk, since="52 de/1")


@pytest.mark.parametrize("fault", ["FileFault", "InvalidArgument"])
def test_a_fault_of_the_server_is_no_proof_and_is_told_in_words(backup, server, fault):
    before = backup.next()
    backup.take()
    server.faults.add(Fault(FaultKind.CBT_FAULT, fault=fault))
    with pytest.raises(errors.ChangeTrackingUnavailable, match=fault):
        backup.changed(before[FIRST])


def test_a_missing_privilege_is_no_proof_and_is_named(backup, server):
    before = backup.next()
    backup.take()
    privilege = "VirtualMachine.Provisioning.DiskRandomRead"
    server.faults.add(
        Fault(FaultKind.METHOD_FAULT, method="QueryChangedDiskAreas", fault="NoPermission", privilege=privilege)
    )
    with pytest.raises(errors.ChangeTrackingUnavailable, match=privilege):
        backup.changed(before[FIRST])


def test_a_disk_that_the_snapshot_does_not_hold_is_no_proof(backup):
    before = backup.next()
    backup.take()
    with pytest.raises(errors.ChangeTrackingUnavailable, match=r"disk 2999 of .* is unknown"):
        backup.changed(before[FIRST].model_copy(update={"key": 2999}))


def test_a_snapshot_that_is_gone_is_no_proof(backup):
    before = backup.next()
    with pytest.raises(errors.ChangeTrackingUnavailable):
        backup.changed(before[FIRST])


def page(start, length, *areas):
    """The answer of a server to the question what changed."""
    changed = "".join(f"<changedArea><start>{at}</start><length>{size}</length></changedArea>" for at, size in areas)
    return (
        f'<a xmlns="urn:vim25"><returnval><startOffset>{start}</startOffset><length>{length}</length>{changed}'
        "</returnval></a>"
    ).encode()


@pytest.mark.parametrize(
    "pages",
    [
        [page(0, 0)],
        [page(0, MIB), page(0, 7 * MIB)],
        [page(4096, 8 * MIB)],
        [page(0, 8 * MIB, (8 * MIB - 1, 2))],
        [page(0, 8 * MIB, (4096, 4096), (0, 512))],
        [page(0, 8 * MIB, (0, 0))],
        [page(0, 8 * MIB, (0, "much"))],
        [b'<a xmlns="urn:vim25" />'],
        [b"an error"],
    ],
    ids=[
        "no way forward",
        "a page twice",
        "a hole",
        "past the end",
        "backwards",
        "an empty area",
        "an area without a length",
        "an empty answer",
        "an answer that is not XML",
    ],
)
def test_an_answer_that_cannot_be_is_no_proof(backup, monkeypatch, pages):
    """No server that we can have gives such answers; the method's result is put in its place."""
    before = backup.next()
    backup.take()
    answers = iter(pages)
    monkeypatch.setattr(backup.session, "read_raw", lambda *_, **__: next(answers))
    with pytest.raises(errors.ChangeTrackingUnavailable):
        backup.changed(before[FIRST])
