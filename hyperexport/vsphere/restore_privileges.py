"""Which privileges a restore needs and on what, and which of them the user lacks. See ``privileges.py``."""

from typing import Any, Final, NamedTuple

from hyperexport.model.vm import VmRef
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.places import Placement
from hyperexport.vsphere.privileges import Place, Requirement, missing_on
from hyperexport.vsphere.session import Session

IMPORT_FOLDER: Final = Requirement(
    feature="import a VM",
    when="restore",
    privilege="VApp.Import",
    title="vApp > Import",
    place=Place.FOLDER,
    calls=("ImportVApp",),
    vital=True,
    without="nothing can be restored",
)
IMPORT_POOL: Final = IMPORT_FOLDER.model_copy(update={"place": Place.POOL})
ALLOCATE: Final = Requirement(
    feature="put its files there",
    when="restore",
    privilege="Datastore.AllocateSpace",
    title="Datastore > Allocate space",
    place=Place.TARGET_DATASTORE,
    calls=("ImportVApp",),
    vital=True,
    without="nothing can be restored",
)
ASSIGN: Final = Requirement(
    feature="connect it",
    when="restore",
    privilege="Network.Assign",
    title="Network > Assign network",
    place=Place.NETWORK,
    calls=("ImportVApp",),
    vital=True,
    without="a VM with network adapters cannot be restored",
)
ANNOTATE: Final = Requirement(
    feature="remove the owner tag",
    when="restore",
    privilege="VirtualMachine.Config.Annotation",
    title="Virtual machine > Change Configuration > Set annotation",
    place=Place.FOLDER,
    calls=("ReconfigVM_Task",),
    vital=True,
    without="a restored VM could not be distinguished from a half-made one, so the restore does not start",
)
DESTROY: Final = Requirement(
    feature="remove what is half made",
    when="restore, reap-snapshots",
    privilege="VirtualMachine.Inventory.Delete",
    title="Virtual machine > Edit Inventory > Remove",
    place=Place.FOLDER,
    calls=("Destroy_Task",),
    vital=True,
    without="a restore that fails late would leave its VM, so the restore does not begin",
)
POWER_ON: Final = Requirement(
    feature="power it on",
    when="restore --power-on",
    privilege="VirtualMachine.Interact.PowerOn",
    title="Virtual machine > Interaction > Power on",
    place=Place.FOLDER,
    calls=("PowerOnVM_Task",),
    vital=True,
    without="such a restore does not begin",
)
DRILL_POWER_ON: Final = POWER_ON.model_copy(
    update={"feature": "start a drill", "when": "drill --target vsphere", "without": "such a drill does not begin"}
)
DRILL_POWER_OFF: Final = Requirement(
    feature="end a drill",
    when="drill --target vsphere, reap-snapshots",
    privilege="VirtualMachine.Interact.PowerOff",
    title="Virtual machine > Interaction > Power off",
    place=Place.FOLDER,
    calls=("PowerOffVM_Task",),
    vital=True,
    without="a drill would leave a running VM, so it does not begin",
)
ANSWER: Final = Requirement(
    feature="end a drill that waits for an answer",
    when="drill --target vsphere, reap-snapshots",
    privilege="VirtualMachine.Interact.AnswerQuestion",
    title="Virtual machine > Interaction > Answer question",
    place=Place.FOLDER,
    calls=("AnswerVM",),
    vital=False,
    without="the drill's VM stays until its question is answered",
)
SCREENSHOT: Final = Requirement(
    feature="take a drill's screenshot",
    when="drill --target vsphere",
    privilege="VirtualMachine.Interact.CreateScreenshot",
    title="Virtual machine > Interaction > Create screenshot",
    place=Place.FOLDER,
    calls=("CreateScreenshot_Task",),
    vital=False,
    without="the record has no screenshot",
)
FETCH_SCREENSHOT: Final = Requirement(
    feature="fetch a drill's screenshot",
    when="drill --target vsphere",
    privilege="Datastore.Browse",
    title="Datastore > Browse datastore",
    place=Place.TARGET_DATASTORE,
    calls=(),
    vital=False,
    without="the record has no screenshot",
)
READ_SCREENSHOT: Final = FETCH_SCREENSHOT.model_copy(
    update={"privilege": "Datastore.FileManagement", "title": "Datastore > Low level file operations"}
)
SET_ATTRIBUTES: Final = Requirement(
    feature="set custom attributes",
    when="restore of a VM that had some",
    privilege="Global.SetCustomField",
    title="Global > Set custom attribute",
    place=Place.FOLDER,
    calls=("setCustomValue",),
    vital=False,
    without="the custom attributes are not restored",
)
ATTACH_TAGS: Final = Requirement(
    feature="attach tags",
    when="restore of a VM that had some",
    privilege="InventoryService.Tagging.AttachTag",
    title="vSphere Tagging > Assign or Unassign vSphere Tag",
    place=Place.FOLDER,
    calls=(),
    vital=False,
    without="the tags are not restored",
)
DETACH_DISK: Final = Requirement(
    feature="detach its disks",
    when="restore --attach-to",
    privilege="VirtualMachine.Config.RemoveDisk",
    title="Virtual machine > Change Configuration > Remove disk",
    place=Place.FOLDER,
    calls=("ReconfigVM_Task",),
    vital=True,
    without="no disk can be attached to another VM",
)
REATTACH_DISK: Final = Requirement(
    feature="take its disks back",
    when="restore --attach-to",
    privilege="VirtualMachine.Config.AddExistingDisk",
    title="Virtual machine > Change Configuration > Add existing disk",
    place=Place.FOLDER,
    calls=("ReconfigVM_Task",),
    vital=True,
    without="a disk would stay on the datastore if attaching it fails, so the restore does not begin",
)
ATTACH_DISK: Final = REATTACH_DISK.model_copy(
    update={
        "feature": "attach disks",
        "place": Place.TARGET_VM,
        "without": "no disk can be attached to another VM",
    }
)
RESTORE_TABLE: Final = (
    IMPORT_FOLDER,
    IMPORT_POOL,
    ALLOCATE,
    ASSIGN,
    ANNOTATE,
    DESTROY,
    POWER_ON,
    SET_ATTRIBUTES,
    ATTACH_TAGS,
    DETACH_DISK,
    REATTACH_DISK,
    ATTACH_DISK,
)


DRILL_TABLE: Final = (DRILL_POWER_ON, DRILL_POWER_OFF, ANSWER, SCREENSHOT, FETCH_SCREENSHOT, READ_SCREENSHOT)
"""What a drill needs beside :data:`DRILL_AS_RESTORE`."""
DRILL_AS_RESTORE: Final = (IMPORT_FOLDER, IMPORT_POOL, ALLOCATE, ASSIGN, DESTROY)


class RestoreNeeds(NamedTuple):
    """What a restore does beside making a VM."""

    power_on: bool = False
    tags: bool = False
    attributes: bool = False
    attach_to: VmRef | None = None
    drill: bool = False

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """The privileges that it needs."""
        if self.drill:
            return (*DRILL_AS_RESTORE, *DRILL_TABLE)
        needed = [IMPORT_FOLDER, IMPORT_POOL, ALLOCATE, ANNOTATE, DESTROY]
        needed += [] if self.attach_to else [ASSIGN]
        needed += [POWER_ON] * self.power_on + [SET_ATTRIBUTES] * self.attributes + [ATTACH_TAGS] * self.tags
        needed += [DETACH_DISK, REATTACH_DISK, ATTACH_DISK] if self.attach_to else []
        return tuple(needed)


class MissingPrivilege(NamedTuple):
    """A privilege that the user lacks."""

    requirement: Requirement
    place: str
    """The name or path of the object."""


def missing_for_restore(session: Session, placement: Placement, needs: RestoreNeeds) -> list[MissingPrivilege]:
    """Which privileges the user lacks for a restore, on the places that it uses."""
    places: dict[Place, list[tuple[Any, str]]] = {
        Place.FOLDER: [(placement.folder.obj, placement.folder.path)],
        Place.POOL: [(placement.pool.obj, placement.pool.path)],
        Place.TARGET_DATASTORE: [(placement.datastore.obj, placement.datastore.name)],
        Place.NETWORK: [(each.obj, each.name) for each in placement.networks.values()],
        Place.TARGET_VM: [(vm_object(session, needs.attach_to), needs.attach_to.path)] if needs.attach_to else [],
    }
    missing: list[MissingPrivilege] = []
    for place, objects in places.items():
        wanted = {each.privilege: each for each in needs.requirements if each.place is place}
        for obj, name in objects if wanted else ():
            lacked = missing_on(session, obj, wanted, name=name)
            missing += [MissingPrivilege(wanted[privilege], name) for privilege in lacked]
    return missing
