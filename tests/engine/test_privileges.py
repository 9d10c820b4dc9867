"""What a user may not do is known before anything is begun, and no documented role holds more than it needs.

The simulator enforces the privileges of the API's own type information, on the objects where vSphere looks for them.
Each feature is used with exactly the role of the table, and again with that role less one privilege.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, PermissionMissing
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import Level
from hyperexport.simulator import DiskSpec, Permission, Simulator, UserSpec, VmSpec
from hyperexport.steps.check_vms import check_vms
from hyperexport.steps.plan import missing_requirements, requirements
from hyperexport.vsphere import privileges
from hyperexport.vsphere.backing_files import backing_files
from hyperexport.vsphere.change_tracking import changed_areas, enable_change_tracking
from hyperexport.vsphere.inventory import datastore_free, describe, disks_of_snapshot, find_vm
from hyperexport.vsphere.lease import open_lease
from hyperexport.vsphere.ovf import create_descriptor
from hyperexport.vsphere.privileges import TABLE, Place, Requirement, missing_on_datastores, missing_privileges
from hyperexport.vsphere.restore_privileges import DRILL_AS_RESTORE, DRILL_TABLE, RESTORE_TABLE
from hyperexport.vsphere.session import Session, connect
from hyperexport.vsphere.snapshots import consolidate_disks, create_snapshot, remove_all_snapshots, remove_snapshot
from tests.engine.conftest import endpoint_of

PAGE = Path(__file__).parents[2] / "docs" / "privileges.md"
MIB = 1 << 20
PLACES = {Place.VM: "/DC0/vm/backup", Place.DATASTORE: "/DC0/datastore"}


def user(needs: tuple[Requirement, ...], name: str) -> UserSpec:
    """A user with a role of exactly these privileges on the folders of the VMs and of the datastores."""
    held = {place: frozenset(need.privilege for need in needs if need.place is place) for place in PLACES}
    return UserSpec(name, "a password", permissions=tuple(Permission(PLACES[place], held[place]) for place in PLACES))


def without(requirement: Requirement) -> UserSpec:
    return user(tuple(need for need in TABLE if need is not requirement), f"without {requirement.feature}")


FEATURES = [need for need in TABLE if need is not privileges.FREE_SPACE]
"""Those that a role can lack: System.Read is in every role."""

BLIND = UserSpec("blind", "a password", permissions=(Permission(PLACES[Place.VM], frozenset({"VApp.Export"})),))


@pytest.fixture(scope="module")
def server():
    disks = (DiskSpec(2 * MIB),)
    vms = (
        VmSpec("on", folder="backup", disks=disks),
        VmSpec("off", folder="backup", disks=disks, powered_on=False),
        VmSpec("other", disks=disks),
    )
    users = (*(user((need,), need.feature) for need in TABLE), *map(without, FEATURES), user(TABLE, "all"), BLIND)
    with Simulator(vms, users=users) as running:
        yield running


@pytest.fixture
def administrator(server):
    with connect(endpoint_of(server)) as session:
        yield session


def login(server: Simulator, name: str):
    endpoint = endpoint_of(server)
    return connect(type(endpoint)(**{**endpoint.model_dump(), "username": name, "password": "a password"}))


# -- the features ------------------------------------------------------------------------------------------------------


def export(session: Session, server: Simulator) -> None:
    ref = find_vm(session, "off")
    with open_lease(session, ref, snapshot=None, stop=StopSignal()) as lease:
        assert [file for file in lease.files if file.disk]


def describe_as_ovf(session: Session, server: Simulator) -> None:
    assert create_descriptor(session, find_vm(session, "off"), snapshot=None, files=()).text


def export_snapshot(session: Session, server: Simulator) -> None:
    moref = server.vm("on").take_snapshot("a user's")
    try:
        with open_lease(session, find_vm(session, "on"), snapshot=moref, stop=StopSignal()) as lease:
            assert lease.files
    finally:
        server.vm("on").remove_snapshot(moref)


def take_snapshot(session: Session, server: Simulator) -> None:
    ref = find_vm(session, "on")
    owner = Owner.of_this_process(run="test", vcenter=session.address, vm=ref.instance_uuid)
    made = create_snapshot(
        session,
        ref,
        name="ours",
        owner=owner,
        quiesce=False,
        memory=False,
        quiesce_required=False,
        tools_running=True,
        powered_on=True,
    )
    server.vm("on").remove_snapshot(made.record.moref)


def remove_one(session: Session, server: Simulator) -> None:
    moref = server.vm("on").take_snapshot("to be removed")
    try:
        remove_snapshot(session, find_vm(session, "on"), moref)
    finally:
        tidy(server)


def remove_all(session: Session, server: Simulator) -> None:
    server.vm("on").take_snapshot("to be removed")
    try:
        remove_all_snapshots(session, find_vm(session, "on"))
    finally:
        tidy(server)


def consolidate(session: Session, server: Simulator) -> None:
    server.vm("on").consolidation_needed = True
    try:
        consolidate_disks(session, find_vm(session, "on"))
    finally:
        server.vm("on").consolidation_needed = False


def ask_what_changed(session: Session, server: Simulator) -> None:
    moref = server.vm("on").take_snapshot("before")
    try:
        disk = disks_of_snapshot(session, moref)[0]
        ref = find_vm(session, "on")
        assert disk.change_id
        changed_areas(session, ref, disk, snapshot=moref, since=disk.change_id)
    finally:
        server.vm("on").remove_snapshot(moref)


def switch_tracking_on(session: Session, server: Simulator) -> None:
    enable_change_tracking(session, find_vm(session, "off"))


def see_when_files_changed(session: Session, server: Simulator) -> None:
    if not backing_files(session, find_vm(session, "off")):
        raise PermissionMissing("Datastore.Browse")  # the engine goes on without, and says so in its log


def tidy(server: Simulator) -> None:
    for moref, *_ in server.vm("on").snapshots():
        server.vm("on").remove_snapshot(moref)


USES: list[tuple[Requirement, Callable[[Session, Simulator], None]]] = [
    (privileges.EXPORT, export),
    (privileges.EXPORT, describe_as_ovf),
    (privileges.EXPORT, export_snapshot),
    (privileges.CREATE_SNAPSHOT, take_snapshot),
    (privileges.REMOVE_SNAPSHOT, remove_one),
    (privileges.REMOVE_SNAPSHOT, remove_all),
    (privileges.REMOVE_SNAPSHOT, consolidate),
    (privileges.CHANGED_AREAS, ask_what_changed),
    (privileges.CHANGE_TRACKING, switch_tracking_on),
    (privileges.BROWSE, see_when_files_changed),
]


def test_every_privilege_that_a_role_can_lack_is_tried():
    assert {need.feature for need, _ in USES} == {need.feature for need in FEATURES}


@pytest.mark.parametrize(("need", "use"), USES, ids=lambda value: getattr(value, "__name__", None))
def test_a_feature_works_with_its_one_privilege(server, need, use):
    with login(server, need.feature) as session:
        use(session, server)


@pytest.mark.parametrize(("need", "use"), USES, ids=lambda value: getattr(value, "__name__", None))
def test_without_its_privilege_a_feature_is_refused_by_name_whatever_else_the_role_holds(server, need, use):
    with (
        login(server, f"without {need.feature}") as session,
        pytest.raises(HyperExportError, match=re.escape(need.privilege)),
    ):
        use(session, server)


@pytest.mark.parametrize("dropped", FEATURES, ids=lambda need: need.privilege)
def test_without_one_privilege_all_else_works(server, dropped):
    with login(server, f"without {dropped.feature}") as session:
        for need, use in USES:
            if need is not dropped:
                use(session, server)


# -- what is foretold --------------------------------------------------------------------------------------------------

EVERYTHING = ExportOptions.from_keys(
    {"snapshot": True, "keep_snapshots": 3, "incremental": True, "enable_change_tracking": True}
)
"""Also of a VM that is off, which gets a snapshot only to be kept."""


@pytest.mark.parametrize("dropped", FEATURES, ids=lambda need: need.privilege)
def test_what_is_missing_is_foretold_with_its_place(server, dropped):
    with login(server, f"without {dropped.feature}") as session:
        vm = describe(session, find_vm(session, "off"))
        where = "/DC0/vm/backup/off" if dropped.place is Place.VM else "datastore datastore1"
        assert missing_requirements(session, vm, EVERYTHING) == [(dropped, where)]


@pytest.mark.parametrize("dropped", FEATURES, ids=lambda need: need.privilege)
def test_the_check_foretells_it_too(server, dropped):
    with login(server, f"without {dropped.feature}") as session:
        vm = describe(session, find_vm(session, "off"))
        findings = [one for one in check_vms(session, [vm], EVERYTHING, stop=StopSignal()) if one.level is not Level.OK]
    (finding,) = findings
    assert finding.level is (Level.FAIL if dropped.vital else Level.WARN)
    assert f"lacks {dropped.privilege}" in finding.words


def test_the_documented_role_lacks_nothing(server):
    with login(server, "all") as session:
        for name in ("on", "off"):
            assert missing_requirements(session, describe(session, find_vm(session, name)), EVERYTHING) == []


def test_without_any_role_on_the_datastores_their_free_space_is_not_seen(server):
    with login(server, BLIND.name) as session:
        vm = describe(session, find_vm(session, "on"))
        missing = [need for need, _ in missing_requirements(session, vm, ExportOptions.from_keys({"snapshot": True}))]
        assert missing == [privileges.CREATE_SNAPSHOT, privileges.REMOVE_SNAPSHOT, privileges.FREE_SPACE]
        assert datastore_free(session, vm.ref) == {}
    with login(server, "all") as session:
        assert datastore_free(session, find_vm(session, "on"))


def test_a_vm_outside_of_the_folder_is_not_even_seen(server):
    with login(server, "all") as session, pytest.raises(HyperExportError, match="may not see it"):
        find_vm(session, "other")


def test_files_are_looked_at_only_of_a_vm_that_is_off(server):
    with login(server, f"without {privileges.BROWSE.feature}") as session:
        assert missing_requirements(session, describe(session, find_vm(session, "on")), EVERYTHING) == []


def test_only_what_the_options_use_is_asked_for():
    def asked(**keys: object) -> set[str]:
        return {need.privilege for need in requirements(ExportOptions.from_keys(keys))}

    assert asked() == {"VApp.Export"}
    kept = asked(snapshot=True, delete_snapshot=False)
    assert "VirtualMachine.State.RemoveSnapshot" not in kept
    assert "VirtualMachine.State.RemoveSnapshot" in asked(snapshot=True)
    assert "VirtualMachine.Provisioning.DiskRandomRead" in asked(incremental=True)


def test_a_privilege_that_the_server_does_not_know_spoils_no_question(administrator, server):
    vm = find_vm(administrator, "on")
    assert missing_privileges(administrator, vm, {"No.Such.Privilege"}) == []
    with login(server, BLIND.name) as session:
        assert missing_privileges(session, vm, {"VApp.Export", "No.Such.Privilege"}) == []
        snapshots = {"VirtualMachine.State.CreateSnapshot", "No.Such.Privilege"}
        assert missing_privileges(session, vm, snapshots) == ["VirtualMachine.State.CreateSnapshot"]


def test_vmwares_own_simulator_answers_the_question_too(vmware):
    with connect(vmware.endpoint) as session:
        vm: VmRef = find_vm(session, next(vmware.fresh))
        every = [need.privilege for need in TABLE]
        assert missing_privileges(session, vm, every) == []
        assert missing_on_datastores(session, vm, every) == {}


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_table_as_it_is():
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and "`" in line
    ]
    shown = [(row[0], row[1], row[2].strip("`"), row[3], row[4], row[5]) for row in rows if len(row) == 6]
    assert shown == [
        (need.feature, _code(need.when), need.privilege, need.title, need.place, need.without)
        for need in (*TABLE, *RESTORE_TABLE, *DRILL_TABLE)
    ]


def _code(when: str) -> str:
    return re.sub(r"(--target vsphere|--[a-z-]+|reap-snapshots)", r"`\1`", when).strip("`")


def test_the_commands_of_the_page_make_roles_of_exactly_the_table():
    commands = re.findall(r"govc role\.create (\S+) ((?:\\\n|[\w. ])+)", PAGE.read_text())
    made = {name: set(words.replace("\\", " ").split()) for name, words in commands}
    on_vms = {need.privilege for need in TABLE if need.place is Place.VM}
    least = {need.privilege for need in requirements(ExportOptions.from_keys({"snapshot": True})) if need.vital}
    assert made == {
        "HyperExport": least,
        "HyperExportIncremental": on_vms - {"VirtualMachine.Config.ChangeTracking"},
        "HyperExportOff": {"VApp.Export"},
        "HyperExportTracking": on_vms,
        "HyperExportDatastore": {"Datastore.Browse"},
        "HyperExportRestore": {need.privilege for need in RESTORE_TABLE},
        "HyperExportDrill": {need.privilege for need in (*DRILL_AS_RESTORE, *DRILL_TABLE)},
    }
