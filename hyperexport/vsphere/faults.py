"""Translates faults of the vSphere API and failures of the connection into HyperExport's errors.

The only place that maps them. The fault itself
stays the error's ``__cause__``, so that a neighbour in this room can ask for it with :func:`is_caused_by`.
"""

import re
import ssl
import struct
import zlib
from enum import StrEnum
from http.client import HTTPException
from typing import Any, Final
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from hyperexport.errors import (
    CertificateUntrusted,
    HyperExportError,
    LoginRefused,
    NotVSphere,
    PermissionMissing,
    ServerBusy,
    ServerFault,
    ServerUnreachable,
    SessionLost,
)
from hyperexport.model.tls import clock_is_in_question, presented_thumbprint, refusal_words, show_thumbprint
from hyperexport.vsphere.endpoint import VSphereEndpoint

_NONSENSE: Final[tuple[type[Exception], ...]] = (
    TypeError, ValueError, LookupError, AttributeError, RecursionError, EOFError, struct.error, zlib.error
)  # fmt: skip
"""What pyVmomi's reader makes of an answer that is valid SOAP with invalid content: an unknown type, a number without
digits, a field that is missing, compressed bytes that end early."""

FAILURES: Final[tuple[type[Exception], ...]] = (vmodl.MethodFault, OSError, HTTPException, ExpatError, *_NONSENSE)
"""What a call through pyVmomi can raise when the server or the way to it is at fault."""

GONE: Final[tuple[type[Exception], ...]] = (vmodl.fault.ManagedObjectNotFound,)
UNKNOWN_METHOD: Final[tuple[type[Exception], ...]] = (
    vmodl.fault.MethodNotFound,
    vmodl.fault.NotSupported,
    vmodl.fault.NotImplemented,
)

CONFLICT: Final[tuple[type[Exception], ...]] = (vim.fault.TaskInProgress,)
"""Another task holds the VM. It ends by itself, and may take hours."""


class Outlook(StrEnum):
    """Whether the same call, repeated, may succeed."""

    PASSES = "passes"
    """The cause goes away by itself."""
    UNCERTAIN = "uncertain"
    """vSphere uses the fault for passing and for lasting causes alike: a few attempts are worth their time."""
    LASTS = "lasts"
    """An administrator has to change something first."""


_OUTLOOK: Final[dict[type[Any], Outlook]] = {
    vim.fault.TaskInProgress: Outlook.PASSES,
    vim.fault.ResourceInUse: Outlook.PASSES,
    vim.fault.ConcurrentAccess: Outlook.PASSES,
    vim.fault.FileLocked: Outlook.PASSES,
    vim.fault.Timedout: Outlook.PASSES,
    vim.fault.ReplicationVmInProgressFault: Outlook.PASSES,
    vim.fault.VAppOperationInProgress: Outlook.PASSES,
    vmodl.fault.HostCommunication: Outlook.PASSES,
    # A locked disk is reported as any of the next five, depending on the version and on who holds the lock.
    vim.fault.FileFault: Outlook.UNCERTAIN,
    vim.fault.CannotAccessFile: Outlook.UNCERTAIN,
    vim.fault.GenericVmConfigFault: Outlook.UNCERTAIN,
    vim.fault.CannotAccessVmComponent: Outlook.UNCERTAIN,
    vim.fault.SnapshotLocked: Outlook.UNCERTAIN,
    vim.fault.NetworkCopyFault: Outlook.UNCERTAIN,
    vim.fault.InvalidState: Outlook.UNCERTAIN,
    vim.fault.HostConnectFault: Outlook.UNCERTAIN,
    vim.fault.InsufficientResourcesFault: Outlook.UNCERTAIN,
    vim.fault.MethodDisabled: Outlook.UNCERTAIN,  # by another backup product, for the time of its own work
    vim.fault.ResourceNotAvailable: Outlook.UNCERTAIN,
    vim.fault.DatabaseError: Outlook.UNCERTAIN,
    vmodl.fault.SystemError: Outlook.UNCERTAIN,
    vmodl.fault.RequestCanceled: Outlook.UNCERTAIN,
    vim.fault.InvalidPowerState: Outlook.LASTS,
    vim.fault.QuestionPending: Outlook.LASTS,
    vim.fault.FileNotFound: Outlook.LASTS,
    vim.fault.NoDiskSpace: Outlook.LASTS,
    vim.fault.CannotCreateFile: Outlook.LASTS,
    vim.fault.CannotDeleteFile: Outlook.LASTS,
    vim.fault.FileAlreadyExists: Outlook.LASTS,
    vim.fault.FileNameTooLong: Outlook.LASTS,
    vim.fault.FileNotWritable: Outlook.LASTS,
    vim.fault.FileTooLarge: Outlook.LASTS,
    vim.fault.DirectoryNotEmpty: Outlook.LASTS,
    vim.fault.IncorrectFileType: Outlook.LASTS,
    vim.fault.NotADirectory: Outlook.LASTS,
    vim.fault.NotAFile: Outlook.LASTS,
    vim.fault.EncryptionKeyRequired: Outlook.LASTS,
    vim.fault.InsufficientStorageSpace: Outlook.LASTS,
    vim.fault.NotSupportedHost: Outlook.LASTS,
    vim.fault.NoPermissionOnHost: Outlook.LASTS,
    vim.fault.SSLVerifyFault: Outlook.LASTS,
    vim.fault.SSLDisabledFault: Outlook.LASTS,
}
"""By the fault's own class or its nearest ancestor here. Every other fault names a definite cause, and lasts."""

_QUIESCE_FAULTS: Final[tuple[type[Exception], ...]] = (
    vim.fault.ApplicationQuiesceFault,
    vim.fault.FilesystemQuiesceFault,
    vim.fault.ToolsUnavailable,
)

_NAMELESS: Final = frozenset({vmodl.MethodFault, vmodl.RuntimeFault, vim.fault.VimFault})
"""Classes that say only that something failed."""

_FIXES: Final[tuple[tuple[type[Any], str], ...]] = (
    (
        vim.fault.RestrictedVersion,
        "Assign the host a paid licence: with the free ESXi licence the API is read-only, and nothing can be exported",
    ),
    (
        vim.fault.FileNotFound,
        "Restore the missing file, or detach it in the VM's settings (often the ISO image of a CD-ROM drive)",
    ),
    (vmodl.fault.MethodNotFound, "Upgrade the server: this version does not have the method"),
    (vim.fault.NoDiskSpace, "Free some space on the datastore"),
    (vim.fault.QuestionPending, "Answer the VM's question in the vSphere client"),
    (vmodl.fault.ManagedObjectNotFound, "Check in vSphere whether it was removed in the meantime"),
)


_IMAGES: Final = (".iso", ".flp", ".img")
_IMAGE_FIX: Final = (
    "In the VM's settings, set the CD-ROM or floppy drive to Client Device; or restore the image, or its datastore"
)


def _fix_for(fault: Any) -> str | None:
    """What to do about a fault; None where vSphere's own message has to suffice."""
    if isinstance(fault, vim.fault.FileFault) and (fault.file or "").lower().endswith(_IMAGES):
        return _IMAGE_FIX
    return next((fix for kind, fix in _FIXES if isinstance(fault, kind)), None)


def outlook(fault: object) -> Outlook:
    """Tell whether the call that raised this fault may succeed when it is repeated."""
    kind = type(fault)
    if kind in _NAMELESS:
        return Outlook.UNCERTAIN
    return next((_OUTLOOK[ancestor] for ancestor in kind.__mro__ if ancestor in _OUTLOOK), Outlook.LASTS)


def cannot_succeed(error: HyperExportError) -> bool:
    """Tell whether an error of ours stands for a fault that lasts; False where no fault of the API is its cause."""
    cause = error.__cause__
    return isinstance(cause, vmodl.MethodFault) and outlook(cause) is Outlook.LASTS


def is_caused_by(error: BaseException, kinds: tuple[type[Exception], ...]) -> bool:
    """Tell whether an error of ours stands for one of these faults of the API."""
    return isinstance(error.__cause__, kinds)


_FAILED_TO_QUIESCE: Final = re.compile(r"\b(while|during|to|not|cannot) quiesc(e|ing)(?![-\w])", re.IGNORECASE)


def is_about_quiescing(error: BaseException) -> bool:
    """Whether a snapshot failed because the guest could not be quiesced.

    Where ESXi has no fault class of its own for it, only the server's message says so, by its key or in English ("An
    error occurred while quiescing the virtual machine"). Names of VMs and datastores in a message do not count.
    """
    fault = error.__cause__
    if isinstance(fault, _QUIESCE_FAULTS):
        return True
    parts = getattr(fault, "faultMessage", None) or ()
    texts = [getattr(fault, "msg", None), *(getattr(part, "message", None) for part in parts)]
    return any("QUIESC" in (getattr(part, "key", None) or "").upper() for part in parts) or any(
        _FAILED_TO_QUIESCE.search(text or "") for text in texts
    )


def words(fault: Any) -> str:
    """A fault's class and whatever message it carries, on one line."""
    name = type(fault).__name__.rpartition(".")[2]
    details = [getattr(fault, "msg", None)]
    details += [getattr(part, "message", None) for part in getattr(fault, "faultMessage", None) or ()]
    if isinstance(fault, vim.fault.FileFault):
        details.append(fault.file)
    text = "; ".join(dict.fromkeys(" ".join(detail.split()).rstrip(".") for detail in details if detail))
    return f"{name} ({text})" if text else name


def translate(error: Exception, *, doing: str, endpoint: VSphereEndpoint) -> HyperExportError:
    """Say what failed as one of our errors.

    Args:
        error: One of :data:`FAILURES`, or a task's ``info.error``.
        doing: What was being done, on what, as a phrase such as "making a snapshot of db01".
        endpoint: The server that it was said to.
    """
    if isinstance(error, vmodl.MethodFault):
        return _translate_fault(error, doing=doing, endpoint=endpoint)
    if isinstance(error, UnicodeError) and not isinstance(error, UnicodeDecodeError):
        return ServerUnreachable(  # IDNA, RFC 5891: a label is too long, or holds what no name may
            f"{doing} failed: {endpoint.address} cannot be the name of a host", fix="Check the address"
        )
    if isinstance(error, _NONSENSE) and not isinstance(error, OSError):
        return ServerFault(
            f"{doing} failed: the answer of {endpoint.address} is invalid ({type(error).__name__})",
            fix="Run it again with --debug for details, and check that the server is a healthy vSphere server",
        )
    return _translate_wire(error, doing=doing, endpoint=endpoint)


def _translate_fault(fault: Any, *, doing: str, endpoint: VSphereEndpoint) -> HyperExportError:
    failed = f"{doing} failed on {endpoint.address}: {words(fault)}"
    if isinstance(fault, vim.fault.InvalidLogin):
        return LoginRefused(
            f"{endpoint.address} refuses the login of {endpoint.username}: {words(fault)}",
            fix="Check the user name (with its domain, such as name@vsphere.local) and the password",
        )
    if isinstance(fault, vim.fault.NotAuthenticated):  # is a NoPermission, so it is asked first
        return SessionLost(failed)
    if isinstance(fault, vim.fault.NoPermission):
        return _permission_missing(fault, doing=doing, endpoint=endpoint)
    if outlook(fault) is Outlook.PASSES:
        return ServerBusy(failed, fix="Wait for the other task to end, and run it again")
    return ServerFault(failed, fix=_fix_for(fault))


def _permission_missing(fault: Any, *, doing: str, endpoint: VSphereEndpoint) -> PermissionMissing:
    # vSphere API: since 7.0.3.2 a NoPermission may list several objects in missingPrivileges.
    several = [
        (entry.entity, list(entry.privilegeIds or ())) for entry in getattr(fault, "missingPrivileges", None) or ()
    ]
    missing = several or [(fault.object, [fault.privilegeId])]
    listed = ", ".join(
        f"{' and '.join(filter(None, privileges)) or 'a privilege'} on {_name_of(entity)}"
        for entity, privileges in missing
    )
    return PermissionMissing(
        f"{doing} was not allowed on {endpoint.address}: {endpoint.username} lacks {listed}",
        fix="Give the user a role with this privilege there",
    )


def _name_of(entity: Any) -> str:
    if entity is None:
        return "the object"
    try:
        name = entity.name
    except (AttributeError, *FAILURES):
        name = None
    kind = type(entity).__name__.rpartition(".")[2]
    return f"{kind} {name} ({entity._GetMoId()})" if name else f"{kind} {entity._GetMoId()}"


def _translate_wire(error: Exception, *, doing: str, endpoint: VSphereEndpoint) -> HyperExportError:
    address = endpoint.address
    if isinstance(error, ssl.SSLCertVerificationError):
        return untrusted(error, endpoint)
    # Only an error that OpenSSL itself reported has a reason; Python's own have no such attribute.
    if isinstance(error, ssl.SSLError) and getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
        return NotVSphere(f"{address} does not speak TLS", fix="Check the port")
    # pyVmomi raises HTTPException("503 Service Unavailable"): the status is nowhere but in the text.
    if isinstance(error, HTTPException) and str(error).startswith("503"):
        # vSphere: "Out of HTTP sessions" and a service that is still starting answer so.
        return ServerBusy(f"{doing} failed: {address} answers {error}", fix="Run it again in a few minutes")
    if isinstance(error, HTTPException) and str(error)[:1] == "4":
        return NotVSphere(f"{doing} failed: {address} answers {error}", fix="Check the address and its path")
    if isinstance(error, ExpatError):
        return NotVSphere(f"{doing} failed: what {address} answered is not SOAP", fix="Check the address")
    reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return ServerUnreachable(
        f"{doing} failed: {address} cannot be reached: {reason}",
        fix="Check the address, the network and that the server runs",
    )


def untrusted(error: ssl.SSLCertVerificationError, endpoint: VSphereEndpoint) -> CertificateUntrusted:
    """Say whose certificate is not trusted, why, what it is, and what to do about it."""
    shown = presented_thumbprint(endpoint.host, endpoint.port, timeout=min(endpoint.timeout, 10))
    presented = (
        f"; the certificate that it presents has the SHA-256 thumbprint {show_thumbprint(shown)}" if shown else ""
    )
    clock = "Set this machine's clock if it is wrong. Otherwise: " if clock_is_in_question(error) else ""
    return CertificateUntrusted(
        f"the certificate of {endpoint.address} is not trusted: {refusal_words(error)}{presented}",
        fix=f"{clock}Give the CA that signed it (GOVC_TLS_CA_CERTS or HYPEREXPORT_VSPHERE_CA_FILE), or compare the "
        "thumbprint with the server's own console and pin it (HYPEREXPORT_VSPHERE_THUMBPRINT)",
    )
