"""The vCenter's HTTPS port: SOAP at ``/sdk``, files at ``/folder``, tags at ``/api``.

The simulator's own control is at ``/simulator/``.
"""

import base64
import logging
import re
from typing import Any

from pyVmomi import vmodl

from hyperexport.simulator import folder, soap
from hyperexport.simulator.control import ControlFace
from hyperexport.simulator.dispatch import AnswerLost, Dispatcher, HttpStatus
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.folder_log import FolderRequest
from hyperexport.simulator.net import Handler
from hyperexport.simulator.sessions import COOKIE, Session
from hyperexport.simulator.vcenter import VCenter

logger = logging.getLogger(__name__)

_COOKIE = re.compile(rf'{COOKIE}="?([0-9a-f]+)"?')
_XML = "text/xml; charset=utf-8"
_PRIOR = (
    "8.0.2.0",
    "8.0.1.0",
    "8.0.0.1",
    "7.0.3.0",
    "7.0.2.0",
    "7.0.1.0",
    "7.0.0.0",
    "6.7.3",
    "6.7",
    "6.5",
    "6.0",
    "5.5",
)

_VERSIONS = (
    '<?xml version="1.0" encoding="UTF-8" ?>\n<namespaces version="1.0"><namespace>'
    f"<name>{soap.NAMESPACE}</name><version>{soap.API_VERSION}</version><priorVersions>"
    + "".join(f"<version>{version}</version>" for version in _PRIOR)
    + "</priorVersions></namespace></namespaces>\n"
).encode()

_WSDL = (
    b'<?xml version="1.0" encoding="UTF-8" ?>\n<definitions targetNamespace="urn:vim25Service" '
    b'xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:interface="urn:vim25">'
    b'<import location="vim.wsdl" namespace="urn:vim25" /></definitions>\n'
)


class VCenterHandler(Handler):
    """Answers one connection to the vCenter's port."""

    def __init__(self, vcenter: VCenter, dispatcher: Dispatcher, control: ControlFace, *connection: Any) -> None:
        self._vcenter = vcenter
        self._dispatcher = dispatcher
        self._face = control
        super().__init__(*connection)

    def do_POST(self) -> None:
        """SOAP, or a verb of the control."""
        body = self.read_body()
        if self.path in {"/sdk", "/sdk/", "/sdk/vimService"}:
            self._soap(body)
        elif self.path.startswith("/simulator/"):
            self._control(body)
        elif self.path.startswith("/api/"):
            self._rest(body)
        else:
            self.refuse(404)

    def do_DELETE(self) -> None:
        """The end of a login to the REST API."""
        if self.path.startswith("/api/"):
            self._rest(b"")
        else:
            self.refuse(404)

    def do_GET(self) -> None:
        """The descriptions of the service, a file in a datastore, or the control's state."""
        if self.path == "/sdk/vimServiceVersions.xml":
            self.answer(200, _VERSIONS, _XML)
        elif self.path in {"/sdk/vimService.wsdl", "/sdk/vimService?wsdl"}:
            self.answer(200, _WSDL, _XML)
        elif self.path.startswith("/folder/"):
            self._file()
        elif self.path.startswith("/simulator/"):
            self._control(b"")
        elif self.path.startswith("/api/"):
            self._rest(b"")
        else:
            self.refuse(404)

    def do_HEAD(self) -> None:
        """The size of a file in a datastore."""
        if self.path.startswith("/folder/"):
            self._file()
        else:
            self.refuse(404)

    # -- SOAP ------------------------------------------------------------------------------------------------------

    def _soap(self, body: bytes) -> None:
        version = soap.version_of(self.headers.get("SOAPAction", ""))
        before = self._session()
        headers: dict[str, str] = {}
        try:
            call = soap.read_call(body)
            result, after = self._dispatcher.invoke(call, before)
            with self._vcenter.world.lock:
                answer, status = soap.write_result(call, result, version), 200
            if after is not None and after is not before:
                after.user_agent = self.headers.get("User-Agent", "")
                headers["Set-Cookie"] = f'{COOKIE}="{after.cookie}"; Path=/; HttpOnly; Secure;'
        except soap.MalformedRequest as error:
            fault: Any = vmodl.fault.InvalidRequest(msg=str(error))
            answer, status = soap.write_fault(fault, version), 500
        except vmodl.MethodFault as error:
            answer, status = soap.write_fault(error, version), 500
        except HttpStatus as error:
            self.refuse(error.status)
            return
        except AnswerLost as lost:
            if lost.session is not None:
                lost.session.user_agent = self.headers.get("User-Agent", "")
            self.close_connection = True
            return
        except Exception as error:
            logger.exception("the simulator failed at a call")
            fault = vmodl.fault.SystemError(msg="A general system error occurred.", reason=str(error))
            answer, status = soap.write_fault(fault, version), 500
        self.answer(status, answer, _XML, headers)

    def _session(self) -> Session | None:
        match = _COOKIE.search(self.headers.get("Cookie", ""))
        return self._vcenter.sessions.by_cookie(match[1]) if match else None

    # -- REST ------------------------------------------------------------------------------------------------------

    def _rest(self, body: bytes) -> None:
        answer = self._vcenter.tagging.answer(self.command, self.path, self.headers, body)
        self.answer(answer.status, answer.body, "application/json")

    # -- datastore access ------------------------------------------------------------------------------------------

    def _file(self) -> None:
        session = self._session() or self._basic()
        if session is None:
            self.answer(401, b"", headers={"WWW-Authenticate": 'Basic realm="VMware HTTP server"'})
            return
        log, faults = self._vcenter.folder_log.requests, self._vcenter.world.faults
        path = self.path.partition("?")[0].removeprefix("/folder/")
        try:
            file = folder.find(self._vcenter, self.path, session)
            folder.refuse_on_demand(file, faults)
            first, end, part = folder.span(self.headers.get("Range"), file.size)
        except folder.Refused as refused:
            log.append(FolderRequest(path, refused.status, 0, 0))
            self.refuse(refused.status)
            return
        if part and file.is_extent and faults.take(FaultKind.FOLDER_WHOLE, vm=file.vm, disk=file.disk):
            first, end, part = 0, file.size, False
        log.append(FolderRequest(path, 206 if part else 200, first, end - first))
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("Accept-Ranges", "bytes"),
            ("Content-Length", str(end - first)),
        ]
        if part:
            headers.append(("Content-Range", f"bytes {first}-{end - 1}/{file.size}"))
        head = self.begin(206 if part else 200, headers)
        sent = 0
        for piece in folder.pieces(file, first, end, faults) if self.command != "HEAD" else ():
            self.connection.sendall(head + piece)
            head = b""
            sent += len(piece)
        if head:
            self.connection.sendall(head)
        if sent < end - first and self.command != "HEAD":
            self.close_connection = True

    def _basic(self) -> Session | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        name, _, password = base64.b64decode(token).decode().partition(":")
        user = self._vcenter.sessions.by_password(name, password)
        return Session(user) if user else None

    # -- the simulator's own ---------------------------------------------------------------------------------------

    def _control(self, body: bytes) -> None:
        status, answer = self._face.answer(self.command, self.path, self.headers.get("X-Simulator-Token"), body)
        self.answer(status, answer, "application/json")
