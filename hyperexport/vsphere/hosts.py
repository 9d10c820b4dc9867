"""The ESXi hosts behind a vCenter: where a lease would point, and what vCenter knows of each. Nothing is changed."""

from collections.abc import Sequence

from pydantic import Field
from pyVmomi import vim

from hyperexport.model.tls import Trust, normalise_thumbprint
from hyperexport.model.vm import Value, VmRef
from hyperexport.vsphere.collector import Properties, properties_of
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.names import unescape
from hyperexport.vsphere.session import Session

_PATHS = (
    "name",
    "runtime.connectionState",
    "summary.config.name",
    "summary.config.port",
    "summary.config.sslThumbprint",
)
_HTTPS = 443
_NFC = 902


class HostAddress(Value):
    """A host that runs or keeps some of the VMs."""

    name: str
    address: str = Field(description="Its name or address, as vCenter reaches it.")
    port: int
    thumbprint: str | None = Field(description="Of its certificate, as vCenter knows it; None where it does not tell.")
    connected: bool

    def trust(self, endpoint: VSphereEndpoint) -> Trust:
        """What its certificate has to prove, by the same rules as for a lease's URL (``lease_files.py``)."""
        if endpoint.insecure:
            return endpoint.trust
        return Trust(thumbprint=self.thumbprint) if self.thumbprint else endpoint.authorities


def hosts_of(session: Session, refs: Sequence[VmRef]) -> tuple[list[HostAddress], int]:
    """Read the hosts that these VMs are on, each once, by name.

    Returns:
        Those of which the address can be read, and how many others there are that the user may not see.
    """
    doing = "reading the hosts of the VMs"
    placed = properties_of(session, [vm_object(session, ref) for ref in refs], ("runtime.host",), doing=doing)
    moids = {values["runtime.host"]._GetMoId() for _, values in placed if "runtime.host" in values}
    objects = [session.reference(vim.HostSystem, moid) for moid in sorted(moids)]
    read = [values for _, values in properties_of(session, objects, _PATHS, doing=doing)]
    known = [_address(values) for values in read if "summary.config.name" in values]
    return sorted(known, key=lambda host: host.name), len(objects) - len(known)


def _address(values: Properties) -> HostAddress:
    port = values.shown("summary.config.port", _HTTPS)
    shown = values.shown("summary.config.sslThumbprint")
    return HostAddress(
        name=unescape(values.shown("name", values["summary.config.name"])),
        address=values["summary.config.name"],
        # Some hosts tell the port of their other NFC service; a lease's URLs are HTTPS.
        port=_HTTPS if port == _NFC else port,
        thumbprint=normalise_thumbprint(shown) if shown else None,
        connected=values.shown("runtime.connectionState", "connected") == "connected",
    )
