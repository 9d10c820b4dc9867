"""What an export lease offers: each file's address, the disk that it is, and how its host's certificate is checked.

Pure: nothing is asked of any server.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field

from hyperexport.errors import LeaseFailed
from hyperexport.model.tls import Trust, certificate_thumbprint, normalise_thumbprint
from hyperexport.model.vm import DiskInfo, Value
from hyperexport.vsphere.endpoint import VSphereEndpoint

_DISK_KEY: Final = re.compile(r"/([A-Za-z]+\d+):(\d+)$")


class LeaseFile(Value):
    """One file that the lease offers."""

    key: str = Field(description="The server's key of the device, such as /vm-42/ParaVirtualSCSIController0:0.")
    url: str = Field(
        repr=False, description="Where it is read from; the address carries its own ticket, so it is a secret."
    )
    name: str = Field(description="The server's name for it, as it came; not safe as a file name.")
    disk: bool
    size: int | None = Field(description="Bytes; the server tells it only of files that are not disks.")
    import_key: str = Field(default="", description="Imports: what the import spec calls the file.")
    disk_key: int | None = Field(description="The VM's device key, where the file is a disk that could be matched.")
    trust: Trust = Field(description="What the certificate of the URL's host has to prove.")


def lease_files(urls: Any, endpoint: VSphereEndpoint, disks: tuple[DiskInfo, ...]) -> tuple[LeaseFile, ...]:
    """Read a lease's ``info.deviceUrl``.

    Args:
        urls: The API's HttpNfcLeaseDeviceUrl values.
        endpoint: The server that they came from.
        disks: The disks of what is exported.

    Raises:
        LeaseFailed: What the server says makes no sense.
    """
    try:
        keys = _disk_keys([url.key for url in urls if url.disk], disks)
        return tuple(
            LeaseFile(
                key=url.key,
                url=(address := _address(url.url, endpoint)),
                name=url.targetId or urlsplit(url.url).path.rpartition("/")[2],
                disk=bool(url.disk),
                size=None if url.disk else url.fileSize,
                import_key=url.importKey or "",
                disk_key=keys.get(url.key),
                trust=_trust(url, address, endpoint),
            )
            for url in urls
        )
    except (ValueError, TypeError, AttributeError) as error:
        # Of an address with a ticket in it nothing is repeated.
        raise LeaseFailed(
            f"a lease of {endpoint.address} reports an invalid address, size or thumbprint ({type(error).__name__})"
        ) from None


def _disk_keys(lease_keys: list[str], disks: tuple[DiskInfo, ...]) -> dict[str, int]:
    """Match the lease's disks to the VM's: by controller and unit, else by order where that leaves no doubt."""
    places = {(disk.controller, str(disk.unit)): disk.key for disk in disks}
    named = ((key, _DISK_KEY.search(key)) for key in lease_keys)
    matched = {key: places[place] for key, found in named if found and (place := found.groups()) in places}
    if len(matched) == len(lease_keys):
        return matched
    offered = [disk.key for disk in disks if disk.unexportable is None]
    return dict(zip(lease_keys, offered, strict=True)) if len(offered) == len(lease_keys) else matched


def _address(url: str, endpoint: VSphereEndpoint) -> str:
    """Put the server's own address in the place of ``*``, which a host writes for "the one you are talking to"."""
    parts = urlsplit(url)
    if not parts.netloc.startswith("*"):
        return url
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    port = parts.netloc[1:] or (f":{endpoint.port}" if endpoint.port != 443 else "")
    return urlunsplit(parts._replace(netloc=host + port))


def _trust(url: Any, address: str, endpoint: VSphereEndpoint) -> Trust:
    """Trust what the server says of its hosts only as far as the server itself is trusted.

    A lease's thumbprint comes over the session: verified, it pins the host. The whole certificate (API 9.0 and later)
    is better than ``sslThumbprint``, which is SHA-1.
    """
    if endpoint.insecure or _same_server(address, endpoint):
        return endpoint.trust
    if url.sslCertificate:
        return Trust(thumbprint=certificate_thumbprint(url.sslCertificate))
    if url.sslThumbprint:
        return Trust(thumbprint=normalise_thumbprint(url.sslThumbprint))
    return endpoint.authorities


def _same_server(address: str, endpoint: VSphereEndpoint) -> bool:
    parts = urlsplit(address)
    return (parts.hostname, parts.port or 443) == (endpoint.host, endpoint.port)
