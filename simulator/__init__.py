"""A simulated vCenter: the other end of the wire, for the demo and the tests.

It speaks SOAP over TLS on pyVmomi's own type definitions, and serves what a vCenter and its hosts serve. It knows
nothing of the product that is tested against it, but for the VMDK format.
"""

from hyperexport.simulator.core import Simulator, VmHandle
from hyperexport.simulator.faults import Fault, FaultKind
from hyperexport.simulator.spec import DEFAULT_VMS, DatastoreSpec, DiskSpec, Permission, UserSpec, VmSpec

__all__ = [
    "DEFAULT_VMS",
    "DatastoreSpec",
    "DiskSpec",
    "Fault",
    "FaultKind",
    "Permission",
    "Simulator",
    "UserSpec",
    "VmHandle",
    "VmSpec",
]
