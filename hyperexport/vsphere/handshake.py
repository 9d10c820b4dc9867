"""The first question to a server: does it speak vSphere's API, and which is the newest version that we share.

Asked over plain HTTPS before any password is sent.
"""

import socket
from http.client import HTTPException, HTTPSConnection
from ssl import SSLContext
from typing import Final
from xml.etree import ElementTree as ET

from pyVmomi.VmomiSupport import versionIdMap

from hyperexport.errors import NotVSphere
from hyperexport.model.tls import certificate_thumbprint
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.faults import translate

_LARGEST: Final = 1024 * 1024
_NAMESPACE: Final = "urn:vim25"


def newest_common_version(endpoint: VSphereEndpoint, context: SSLContext) -> str:
    """Find the newest version of the API that both the server and pyVmomi know, in pyVmomi's spelling.

    Raises:
        NotVSphere: Something answers, and it is not a vSphere server.
        ServerUnreachable, ServerBusy, CertificateUntrusted: As they say.
    """
    # vSphere Web Services SDK: vimServiceVersions.xml lists the newest version first, then priorVersions in order.
    offered = _offered_versions(_fetch(endpoint, context), endpoint)
    known = {number: version for version, number in versionIdMap.items() if version.startswith("vim.version.")}
    for number in offered:
        if number in known:
            return known[number]
    raise NotVSphere(f"{endpoint.address} offers no version of the vSphere API that this tool knows")


def server_thumbprint(endpoint: VSphereEndpoint) -> str:
    """The SHA-1 thumbprint of the server's certificate, for programs that pin it, once the certificate is trusted.

    Raises:
        ServerUnreachable, CertificateUntrusted: As they say.
    """
    try:
        with (
            socket.create_connection((endpoint.host, endpoint.port), timeout=endpoint.timeout) as plain,
            endpoint.trust.ssl_context().wrap_socket(plain, server_hostname=endpoint.host) as wrapped,
        ):
            certificate = wrapped.getpeercert(binary_form=True) or b""
    except OSError as error:
        raise translate(error, doing="reading the server's certificate", endpoint=endpoint) from error
    return certificate_thumbprint(certificate, "sha1")


def _fetch(endpoint: VSphereEndpoint, context: SSLContext) -> bytes:
    doing = "connecting"
    connection = HTTPSConnection(endpoint.host, endpoint.port, timeout=endpoint.timeout, context=context)
    try:
        connection.request("GET", f"{endpoint.path}/vimServiceVersions.xml")
        response = connection.getresponse()
        body = response.read(_LARGEST)
    except (OSError, HTTPException) as error:
        raise translate(error, doing=doing, endpoint=endpoint) from error
    finally:
        connection.close()
    if response.status != 200:
        error = HTTPException(f"{response.status} {response.reason}")
        raise translate(error, doing=doing, endpoint=endpoint) from error
    return body


def _offered_versions(document: bytes, endpoint: VSphereEndpoint) -> list[str]:
    try:
        root = ET.fromstring(document)  # noqa: S314 - at most 1 MiB, and expat bounds entity expansion
    except ET.ParseError:
        root = None
    if root is None or root.tag != "namespaces":
        raise NotVSphere(
            f"{endpoint.address} answers, but it is not a vSphere server",
            fix="Check the address, the port and the path (usually /sdk)",
        )
    return [
        version.text.strip()
        for namespace in root.iter("namespace")
        if (namespace.findtext("name") or "").strip() == _NAMESPACE
        for version in (*namespace.findall("version"), *namespace.findall("priorVersions/version"))
        if version.text
    ]
