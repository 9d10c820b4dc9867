"""Whether a fault of the API passes, lasts, or may do either, against what vSphere's API reference says of each."""

from collections.abc import Callable

import pytest
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GetVmodlType, ListDataTypes

from hyperexport.errors import HyperExportError, SnapshotFailed
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.faults import Outlook, is_about_quiescing, outlook, translate

ENDPOINT = VSphereEndpoint(url="https://vc01.example.com/sdk", username="backup", password="unused")

CALLED = {
    vim.VirtualMachine: (
        "ExportVm",
        "CreateSnapshot",
        "RemoveAllSnapshots",
        "ConsolidateDisks",
        "Reconfigure",
        "QueryChangedDiskAreas",
    ),
    vim.vm.Snapshot: ("ExportSnapshot", "Remove"),
    vim.HttpNfcLease: ("Progress", "Complete", "Abort", "GetManifest", "SetManifestChecksumType"),
    vim.OvfManager: ("CreateDescriptor",),
}
"""The methods that an export calls beyond reading properties."""

DOCUMENTED = {
    "vim.fault.ConcurrentAccess": Outlook.PASSES,
    "vim.fault.DuplicateName": Outlook.LASTS,
    "vim.fault.FileFault": Outlook.UNCERTAIN,
    "vim.fault.InsufficientResourcesFault": Outlook.UNCERTAIN,
    "vim.fault.InvalidDatastore": Outlook.LASTS,
    "vim.fault.InvalidName": Outlook.LASTS,
    "vim.fault.InvalidPowerState": Outlook.LASTS,
    "vim.fault.InvalidState": Outlook.UNCERTAIN,
    "vim.fault.NotFound": Outlook.LASTS,
    "vim.fault.SnapshotFault": Outlook.LASTS,
    "vim.fault.TaskInProgress": Outlook.PASSES,
    "vim.fault.Timedout": Outlook.PASSES,
    "vim.fault.VmConfigFault": Outlook.LASTS,
}

LASTING = [
    vmodl.fault.MethodNotFound,
    vmodl.fault.NotSupported,
    vmodl.fault.NotImplemented,
    vmodl.fault.InvalidArgument,
    vmodl.fault.InvalidRequest,
    vmodl.fault.InvalidType,
    vmodl.fault.ManagedObjectNotFound,
    vim.fault.NoPermission,
    vim.fault.RestrictedVersion,
    vim.fault.InvalidPowerState,
    vim.fault.InvalidLogin,
    vim.fault.FileNotFound,
    vim.fault.NoDiskSpace,
    vim.fault.QuestionPending,
    vim.fault.SnapshotDisabled,
    vim.fault.SnapshotIncompatibleDeviceInVm,
    vim.fault.MemorySnapshotOnIndependentDisk,
    vim.fault.InvalidVmConfig,
]
PASSING = [
    vim.fault.TaskInProgress,
    vim.fault.ResourceInUse,
    vim.fault.ConcurrentAccess,
    vim.fault.FileLocked,
    vim.fault.Timedout,
    vmodl.fault.HostCommunication,
    vmodl.fault.HostNotConnected,
    vmodl.fault.HostNotReachable,
]


def test_every_fault_that_a_called_method_documents_is_classified() -> None:
    documented = {
        fault for kind, methods in CALLED.items() for method in methods for fault in kind._GetMethodInfo(method).faults
    }
    assert documented == set(DOCUMENTED)
    found = {name: outlook(getattr(vim.fault, name.rpartition(".")[2])()) for name in documented}
    assert found == DOCUMENTED


@pytest.mark.parametrize("kind", LASTING)
def test_a_fault_that_lasts_is_not_tried_again(kind: Callable[..., Exception]) -> None:
    assert outlook(kind()) is Outlook.LASTS
    assert not translate(kind(), doing="exporting db01", endpoint=ENDPOINT).transient


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_is_tried_again(kind: Callable[..., Exception]) -> None:
    assert outlook(kind()) is Outlook.PASSES
    assert translate(kind(), doing="exporting db01", endpoint=ENDPOINT).transient


@pytest.mark.parametrize("kind", [vmodl.MethodFault, vmodl.RuntimeFault, vim.fault.VimFault, vmodl.fault.SystemError])
def test_a_fault_that_names_no_cause_is_uncertain(kind: Callable[..., Exception]) -> None:
    assert outlook(kind()) is Outlook.UNCERTAIN


FAULTS = 713
"""Of pyVmomi 9.1's classes of faults in vim and vmodl."""

MAY_PASS = {
    Outlook.PASSES: """
        ConcurrentAccess FileLocked FilterInUse HostCommunication HostNotConnected HostNotReachable
        PowerOnFtSecondaryTimedout QuiesceDatastoreIOForHAFailed ReplicationVmInProgressFault ResourceInUse
        TaskInProgress Timedout VAppOperationInProgress VAppTaskInProgress
    """,
    Outlook.UNCERTAIN: """
        AgentInstallFailed AlreadyBeingManaged AlreadyConnected CannotAccessFile CannotAccessNetwork
        CannotAccessVmComponent CannotAccessVmConfig CannotAccessVmDevice CannotAccessVmDisk
        CannotAddHostWithFTVmAsStandalone CannotAddHostWithFTVmToDifferentCluster
        CannotAddHostWithFTVmToNonHACluster CannotPowerOffVmInCluster DatabaseError DestinationSwitchFull
        FileFault GatewayConnectFault GatewayHostNotReachable GatewayNotFound GatewayNotReachable
        GatewayOperationRefused GatewayToHostAuthFault GatewayToHostConnectFault
        GatewayToHostTrustVerifyFault GenericVmConfigFault HostConnectFault InsufficientAgentVmsDeployed
        InsufficientCpuResourcesFault InsufficientFailoverResourcesFault InsufficientGraphicsResourcesFault
        InsufficientHostCapacityFault InsufficientHostCpuCapacityFault InsufficientHostMemoryCapacityFault
        InsufficientMemoryResourcesFault InsufficientNetworkCapacity InsufficientNetworkResourcePoolCapacity
        InsufficientPerCpuCapacity InsufficientResourcesFault InsufficientStandbyCpuResource
        InsufficientStandbyMemoryResource InsufficientStandbyResource InsufficientVFlashResourcesFault
        InvalidDatastoreState InvalidHostConnectionState InvalidHostState InvalidResourcePoolStructureFault
        InvalidState InvalidVmState LegacyNetworkInterfaceInUse MethodDisabled MethodFault
        MksConnectionLimitReached MultipleCertificatesVerifyFault NetworkCopyFault NoActiveHostInCluster
        NoHost NumVirtualCpusExceedsLimit OvfConsumerPowerOnFault RDMPointsToInaccessibleDisk
        ReadHostResourcePoolTreeFailed RequestCanceled ResourceNotAvailable RuntimeFault SnapshotLocked
        SystemError TooManyConcurrentNativeClones TooManyHosts TooManyNativeCloneLevels
        TooManyNativeClonesOnFile VMOnConflictDVPort VMOnVirtualIntranet VimFault
        VmFaultToleranceTooManyFtVcpusOnHost VmFaultToleranceTooManyVMsOnHost VmPowerOnDisabled
        VmSmpFaultToleranceTooManyVMsOnHost
    """,
}


def test_every_fault_of_pyvmomi_is_decided() -> None:
    """All that is not listed names a definite cause, which somebody has to change before another try."""
    kinds = {name: GetVmodlType(name) for name in ListDataTypes() if name.startswith(("vim.", "vmodl."))}
    faults = [kind for kind in kinds.values() if isinstance(kind, type) and issubclass(kind, vmodl.MethodFault)]
    found = {kind.__name__.rpartition(".")[2]: outlook(kind()) for kind in faults}
    decided = {name: outcome for outcome, names in MAY_PASS.items() for name in names.split()}
    assert {name: outcome for name, outcome in found.items() if outcome is not Outlook.LASTS} == decided
    assert len(faults) == FAULTS, "pyVmomi has other faults than those that were decided: look at the new ones"


def said_of(fault: Exception) -> HyperExportError:
    return translate(fault, doing="making a snapshot of db01", endpoint=ENDPOINT)


def about_quiescing(fault: Exception, *, vm: str = "db01") -> bool:
    """Whether a snapshot of a VM that failed with a fault failed because of quiescing."""
    error = SnapshotFailed(f"making a snapshot of {vm} failed")
    error.__cause__ = fault
    return is_about_quiescing(error)


@pytest.mark.parametrize(
    "fault",
    [
        vim.fault.ApplicationQuiesceFault(),
        vim.fault.FilesystemQuiesceFault(),
        vim.fault.GenericVmConfigFault(msg="An error occurred while quiescing the virtual machine. See its event log."),
        vim.fault.GenericVmConfigFault(msg="An error occurred while saving the snapshot: Failed to quiesce the VM."),
        vim.fault.GenericVmConfigFault(
            msg="The guest OS has reported an error during quiescing. The error code was: 3"
        ),
        vim.fault.GenericVmConfigFault(
            msg="Ein Fehler ist aufgetreten",
            faultMessage=[vmodl.LocalizableMessage(key="msg.snapshot.error-QUIESCINGERROR", message="Fehler")],
        ),
    ],
)
def test_a_guest_that_cannot_be_quiesced_is_known_in_every_language(fault: Exception) -> None:
    assert about_quiescing(fault)


def test_a_vm_named_for_quiescing_does_not_make_another_fault_one_of_quiescing() -> None:
    full = vim.fault.NoDiskSpace(msg="Insufficient disk space on datastore quiesced-vms", datastore="quiesced-vms")
    assert not about_quiescing(full, vm="quiesce-test")
    assert not about_quiescing(vim.fault.FileLocked(msg="Unable to access file [ds] quiesce/quiesce.vmx"), vm="quiesce")


def test_a_free_esxi_licence_is_explained() -> None:
    assert "free ESXi" in str(said_of(vim.fault.RestrictedVersion()))


def test_a_missing_file_is_named_with_the_likely_cause() -> None:
    said = str(said_of(vim.fault.FileNotFound(file="[nfs-iso] debian.iso")))
    assert "[nfs-iso] debian.iso" in said
    assert "CD-ROM" in said
    assert "Client Device" in said


@pytest.mark.parametrize("kind", [vim.fault.FileNotFound, vim.fault.CannotAccessFile, vim.fault.FileLocked])
def test_an_image_of_a_drive_that_is_missing_says_how_to_do_without_it(kind: Callable[..., Exception]) -> None:
    error = said_of(kind(file="[nfs-iso] Windows 2022.ISO"))
    assert "Windows 2022.ISO" in error.what
    if not error.transient:
        assert error.fix
        assert "Client Device" in error.fix


def test_a_missing_disk_is_not_taken_for_an_image() -> None:
    assert "Client Device" not in str(said_of(vim.fault.FileNotFound(file="[ds1] db01/db01.vmdk")))
