"""A login to a vSphere server that lasts as long as it is needed and no longer.

Verified TLS, timeouts on everything, a re-login when the server has forgotten us, a keep-alive thread, and a logout on
every way out: a session that leaks counts against the server's limit. Every request passes through
:meth:`Session.call`, so that only errors of our own family leave this room. Knows requests, not what they are about.
"""

import logging
import ssl
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPException
from io import BytesIO
from typing import Any, Final

from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapResponseDeserializer
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from hyperexport import __version__
from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, NotVSphere, ServerBusy, ServerUnreachable, SessionLost, UsageError
from hyperexport.model.ownership import Owner
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.faults import FAILURES, translate
from hyperexport.vsphere.handshake import newest_common_version
from hyperexport.vsphere.wire import BoundedStub

logger = logging.getLogger(__name__)

KEEP_ALIVE: Final = 20.0
"""Seconds between signs of life. vCenter ends a session that was idle for 30 minutes (VMware KB 1031039); other runs
see by these signs that this one is at work (``steps/logins.py``)."""

_LOGOUT_TIMEOUT: Final = 10.0
_IDLE_CONNECTION: Final = 20  # seconds; servers close idle connections, and the next request on one would fail
_LOGINS_PER_CALL: Final = 3  # other threads' answers to the dead session may overwrite the new cookie once


@contextmanager
def connect(
    endpoint: VSphereEndpoint, *, stop: StopSignal | None = None, run: str = "", keep_alive: float = KEEP_ALIVE
) -> Generator["Session"]:
    """Log in, and out again whatever happens in the block.

    Args:
        endpoint: The server, the user, and what the certificate has to prove.
        stop: When it is raised, reads that failed are not repeated.
        run: The id of the run that logs in, for the session's mark.
        keep_alive: Seconds between signs of life.

    Raises:
        ServerUnreachable, NotVSphere, CertificateUntrusted, LoginRefused, ServerBusy: As they say.
    """
    session = Session(endpoint, stop=stop or StopSignal(), run=run, keep_alive=keep_alive)
    try:
        session.open()
        yield session
    finally:
        session.close()


class Session:
    """An open login. Safe to share between threads."""

    content: Any
    """vSphere's ServiceContent: the managers and the root folder."""

    constants: dict[str, Any]
    """What the server answers the same for as long as the login lasts, kept by those who asked for it."""

    def __init__(self, endpoint: VSphereEndpoint, *, stop: StopSignal, run: str, keep_alive: float) -> None:
        self.endpoint = endpoint
        self.user = endpoint.username
        self.key = ""
        self.constants = {}
        self._stop = stop
        self._run = run
        self._keep_alive = keep_alive
        self._stub: Any = None
        self._lock = threading.Lock()
        self._generation = 0
        self._logged_in = False
        self._closed = threading.Event()

    @property
    def address(self) -> str:
        """The server's address, as people name it."""
        return self.endpoint.address

    @property
    def instance_uuid(self) -> str | None:
        """The server's own identity; None on a server that has none."""
        return self.content.about.instanceUuid

    @property
    def api_version(self) -> str:
        """The version of the server's API, such as 8.0.3.0."""
        return self.content.about.apiVersion

    @property
    def is_vcenter(self) -> bool:
        """Whether this is a vCenter and not a host of its own."""
        return self.content.about.apiType == "VirtualCenter"

    @property
    def cookie(self) -> str:
        """The session's cookie, for downloads from the server's datastores. It is as good as the login: never shown."""
        return str(self._stub.cookie).partition(";")[0]

    def time(self) -> datetime:
        """The time by the server's clock."""
        instance = self.reference(vim.ServiceInstance, "ServiceInstance")
        return self.read(instance.CurrentTime, doing="asking for the time").astimezone(UTC)

    def reference(self, kind: Any, moref: str) -> Any:
        """The object with this id, to call methods on; nothing is asked of the server."""
        return kind(moref, self._stub)

    def open(self) -> None:
        """Connect and log in; :func:`connect` calls it."""
        context = self._ssl_context()
        version = newest_common_version(self.endpoint, context)
        self._stub = BoundedStub(
            host=self.endpoint.host,
            port=self.endpoint.port,
            path=self.endpoint.path,
            version=version,
            sslContext=context,
            httpConnectionTimeout=self.endpoint.timeout,
            connectionPoolTimeout=_IDLE_CONNECTION,
            # vCenter keeps it with the session (UserSession.userAgent): the mark is in the thing itself.
            customHeaders={"User-Agent": f"hyperexport/{__version__} {self._mark()}"},
        )
        instance = vim.ServiceInstance("ServiceInstance", self._stub)
        self.content = self._once(instance.RetrieveContent, doing="connecting")
        if not isinstance(self.content, vim.ServiceInstanceContent) or self.content.sessionManager is None:
            raise NotVSphere(f"{self.address} answers, but not as a vSphere server does", fix="Check the address")
        with self._lock:
            self._log_in()
        logger.info("logged in to %s as %s (API %s)", self.address, self.user, self.api_version)
        threading.Thread(target=self._stay_alive, name="vsphere-keep-alive", daemon=True).start()

    def close(self) -> None:
        """Log out, in bounded time; failures are logged, since nothing more can be done about them."""
        self._closed.set()
        with self._lock:
            logged_in, self._logged_in = self._logged_in, False
        if not logged_in:
            return
        try:
            self._log_out()
        except BaseException:
            # Ctrl-C or SIGTERM met the logout itself, perhaps before it was sent. Once more.
            self._log_out()
            raise

    def _log_out(self) -> None:
        self._stub.schemeArgs["timeout"] = min(self.endpoint.timeout, _LOGOUT_TIMEOUT)
        self._stub.DropConnections()
        try:
            self.content.sessionManager.Logout()
        except FAILURES as error:
            logger.warning("could not log out of %s: %s", self.address, error)
        finally:
            self._stub.DropConnections()

    def call(self, method: Callable[..., Any], *args: Any, doing: str, **kwargs: Any) -> Any:
        """Call a method of the API once; log in again, and repeat it, if the server has forgotten the session.

        Repeating is safe then, whatever the method does: a call that is refused as not authenticated did nothing.

        Args:
            method: The bound method of a managed object.
            args: Its arguments.
            doing: What it is for and on what, as a phrase for error messages: "making a snapshot of db01".
            kwargs: Its keyword arguments.

        Raises:
            HyperExportError: The class says what failed; the API's fault, where there was one, is its cause.
        """
        for _ in range(_LOGINS_PER_CALL):
            generation = self._generation
            try:
                return method(*args, **kwargs)
            except vim.fault.NotAuthenticated as error:
                if self._closed.is_set():
                    raise self.error(error, doing=doing) from error
                self._log_in_again(generation, doing)
            except FAILURES as error:
                raise self.error(error, doing=doing) from error
        raise SessionLost(f"{doing} failed: {self.address} repeatedly ended the session of {self.user}")

    def read(self, method: Callable[..., Any], *args: Any, doing: str, **kwargs: Any) -> Any:
        """The same for a method that may be repeated: a passing failure is tried again, four times in all."""
        for attempt in Retrying(
            retry=retry_if_exception_type((ServerUnreachable, ServerBusy)),
            stop=self._enough,
            wait=wait_random_exponential(multiplier=0.5, max=8),
            sleep=self._stop.wait,
            reraise=True,
        ):
            with attempt:
                return self.call(method, *args, doing=doing, **kwargs)
        raise AssertionError("tenacity ends with a result or an exception")

    def read_raw(self, obj: Any, method: str, *args: Any, doing: str) -> bytes:
        """The SOAP answer to a read, as it came: for who needs little of an answer that is costly to turn into objects.

        pyVmomi spends 2 ms on the devices of one VM; a list of thousands wants a number from each.

        Args:
            obj: The managed object.
            method: The method's name in the API.
            args: All its arguments, in the API's order.
            doing: For error messages.
        """
        return self.read(self._fetch, obj, obj._GetMethodInfo(method), args, doing=doing)

    def begin(self, method: Callable[..., Any], *args: Any, doing: str) -> Future[Any]:
        """Call a method in a thread of its own, so that its answer is not lost when the caller is interrupted.

        For calls whose answer is needed to undo them: Ctrl-C or a cancellation breaks off the caller's waiting, not the
        request, and the cleanup still learns from the future what was made.
        """
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(self.call(method, *args, doing=doing))
            except BaseException as error:  # noqa: BLE001 - it is the future's to raise
                answer.set_exception(error)

        threading.Thread(target=run, name="vsphere-call", daemon=True).start()
        return answer

    def error(self, error: Exception, *, doing: str) -> HyperExportError:
        """Translate a failure (of a call, or a task's ``info.error``) into one of our errors."""
        return translate(error, doing=doing, endpoint=self.endpoint)

    def _fetch(self, obj: Any, info: Any, args: Sequence[Any]) -> bytes:
        """What pyVmomi's own stub does to call a method, up to where it reads the answer."""
        stub = self._stub
        headers = {"Cookie": stub.cookie, "SOAPAction": stub.versionId, "Content-Type": "text/xml; charset=UTF-8"}
        connection = stub.GetConnection()
        try:
            connection.request("POST", stub.path, stub.SerializeRequest(obj, info, args), headers)
            answer = connection.getresponse()
            body = answer.read()
        except BaseException:
            connection.close()
            raise
        stub.ReturnConnection(connection)
        if answer.status == 200:
            return body
        if answer.status == 500:  # SOAP's status of every fault
            fault: Any = SoapResponseDeserializer(stub).Deserialize(BytesIO(body), info.result)
            raise fault
        raise HTTPException(f"{answer.status} {answer.reason}")

    def _enough(self, state: Any) -> bool:
        return self._stop.is_set() or stop_after_attempt(4)(state)

    def _once(self, method: Callable[..., Any], *args: Any, doing: str) -> Any:
        try:
            return method(*args)
        except FAILURES as error:
            raise self.error(error, doing=doing) from error

    def _ssl_context(self) -> ssl.SSLContext:
        if self.endpoint.insecure:
            logger.warning(
                "the certificate of %s is NOT verified: anyone on the network path can read the password", self.address
            )
        try:
            return self.endpoint.trust.ssl_context()
        except ssl.SSLError as error:
            raise UsageError(
                f"the CAs given for {self.address} contain no certificate: {error}",
                fix="Give a PEM file, with GOVC_TLS_CA_CERTS or HYPEREXPORT_VSPHERE_CA_FILE",
            ) from error

    def _mark(self) -> str:
        return Owner.of_this_process(run=self._run, vcenter=self.address, vm="").to_tag()

    def _log_in(self) -> None:
        self._stub.cookie = ""  # a dead session's cookie would be answered, not replaced
        session = self._login_outcome()
        if isinstance(session, HyperExportError):
            raise session
        if not isinstance(session, vim.UserSession):
            raise NotVSphere(f"{self.address} answers a login, but not as a vSphere server does")
        self.user = session.userName
        self.key = session.key
        self._logged_in = True
        self._generation += 1

    def _login_outcome(self) -> Any:
        """Log in, and hand out what came of it, an error too: it is raised where no frame below holds the password.

        A crash reporter that prints the variables of a traceback's frames would otherwise print it.
        """
        try:
            return self.content.sessionManager.Login(self.endpoint.username, self.endpoint.password.get_secret_value())
        except FAILURES as error:
            return self.error(error.with_traceback(None), doing="logging in")

    def _log_in_again(self, generation: int, doing: str) -> None:
        with self._lock:
            if generation != self._generation:
                return  # another thread was faster
            logger.warning("%s: the session of %s ended; logging in again", self.address, self.user)
            try:
                self._log_in()
            except ServerUnreachable:
                raise
            except HyperExportError as error:
                raise SessionLost(f"{doing} failed: the session ended, and {error.what}", fix=error.fix) from error

    def _stay_alive(self) -> None:
        instance = vim.ServiceInstance("ServiceInstance", self._stub)
        while not self._closed.wait(self._keep_alive):
            try:
                self.call(instance.CurrentTime, doing="keeping the session alive")
            except HyperExportError as error:
                logger.warning("%s", error)
