"""One SOAP call, from its object to its result: who may call, what is called, what fault comes instead."""

import logging
from collections import Counter
from typing import Any

from pyVmomi import vim, vmodl

from hyperexport.simulator import properties, soap
from hyperexport.simulator.faults import FaultKind
from hyperexport.simulator.reconfigure import privileges_for
from hyperexport.simulator.sessions import Session, current, require
from hyperexport.simulator.soap import Call
from hyperexport.simulator.vcenter import VCenter

logger = logging.getLogger(__name__)

# vSphere API: what can be called before a login. All else answers NotAuthenticated.
_BEFORE_LOGIN = frozenset({"RetrieveServiceContent", "Login"})


class HttpStatus(Exception):
    """The call is answered with an HTTP status instead of SOAP."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status)


class AnswerLost(Exception):
    """The call was carried out, perhaps a login, and its answer is lost on the way."""

    def __init__(self, session: Session | None) -> None:
        self.session = session
        super().__init__()


class Dispatcher:
    """Calls the objects of a vCenter as the wire asks for it."""

    def __init__(self, vcenter: VCenter) -> None:
        self._vcenter = vcenter
        self._world = vcenter.world
        self.requests: Counter[str] = Counter()

    def invoke(self, call: Call, session: Session | None) -> tuple[Any, Session | None]:
        """Make a call.

        Returns:
            The result, and the session that the call is in (a login makes one).

        Raises:
            vmodl.MethodFault: What the method raises.
            HttpStatus, AnswerLost: A fault on demand asks for it.
        """
        name = call.method.wsdlName
        token = current.set(session)
        try:
            with self._world.lock:
                self.requests[name] += 1
            self._delay(call)
            with self._world.lock:
                self._fail_on_demand(call)
                if session and session not in self._vcenter.sessions.live():
                    current.set(None)
                result = self._call(call)
                self._lose_on_demand(call)
                return result, current.get()
        finally:
            current.reset(token)

    def _delay(self, call: Call) -> None:
        fault = self._world.faults.take(FaultKind.LATENCY, method=call.method.wsdlName)
        if fault:
            with self._world.lock:
                self._world.sleep(fault.delay or 0.1)

    def _fail_on_demand(self, call: Call) -> None:
        faults, name = self._world.faults, call.method.wsdlName
        target = self._world.find(call.target._moId)
        vm = target.vm_name if target else None
        if fault := faults.take(FaultKind.HTTP_STATUS, vm=vm, method=name):
            raise HttpStatus(fault.status or 503)
        if faults.take(FaultKind.SESSION_EXPIRED, vm=vm, method=name):
            self._vcenter.sessions.end_all()
        if fault := faults.take(FaultKind.METHOD_FAULT, vm=vm, method=name):
            raise soap.make_fault(
                fault.fault or "",
                msg=f"{fault.fault} on demand",
                object=target.ref if target else None,
                receiver=target.ref if target else None,
                method=name,
                file="[datastore1] missing.iso",
                privilegeId=fault.privilege or call.method.privId,
            )

    def _lose_on_demand(self, call: Call) -> None:
        target = self._world.find(call.target._moId)
        vm = target.vm_name if target else None
        if self._world.faults.take(FaultKind.ANSWER_LOST, vm=vm, method=call.method.wsdlName):
            raise AnswerLost(current.get())

    def _call(self, call: Call) -> Any:
        name = call.method.wsdlName
        self._require_session(call)
        obj = self._object(call)
        if name == "Fetch":
            if current.get():  # before the login the service's content can be read, and nothing else
                require(properties.privilege_of(obj, call.arguments[0]), obj)
            return properties.read(obj, call.arguments[0])
        self._require_privileges(call, obj)
        handler = getattr(obj, name, None)
        if handler is None:
            raise vmodl.fault.NotSupported(msg=f"The simulator does not do {name}.")
        return handler(*call.arguments)

    def _require_session(self, call: Call) -> None:
        session = current.get()
        if session:
            session.calls += 1
            return
        name = call.method.wsdlName
        if name in _BEFORE_LOGIN or (name == "Fetch" and call.target._moId == self._vcenter.service.moid):
            return
        raise vim.fault.NotAuthenticated(
            msg="The session is not authenticated.",
            object=call.target,
            privilegeId=call.method.privId or "System.View",
        )

    def _object(self, call: Call) -> Any:
        session = current.get()
        if session and call.target._moId == self._vcenter.collector.moid:
            if session.collector is None:
                session.collector = properties.PropertyCollector(self._world, self._vcenter.collector.moid)
                session.closers[session.collector.moid] = session.collector.close
            return session.collector
        obj = self._world.get(call.target)
        declared = {info.wsdlName for info in obj.kind._GetMethodList()} | {"Fetch"}
        if call.method.wsdlName not in declared:
            raise vmodl.fault.MethodNotFound(
                msg=f"{type(call.target).__name__} has no method {call.method.wsdlName}.",
                receiver=obj.ref,
                method=call.method.wsdlName,
            )
        return obj

    def _require_privileges(self, call: Call, obj: Any) -> None:
        # pyVmomi's definitions name the privileges that the API asks for: on the object itself, and on arguments.
        if call.method.privId and call.method.privId != "System.Anonymous":
            require(call.method.privId, obj)
        for parameter, value in zip(call.method.params, call.arguments, strict=True):
            # Not what every role holds: a user may ask about its privileges on what it can't see.
            if parameter.privId and not parameter.privId.startswith("System.") and hasattr(value, "_moId"):
                require(parameter.privId, self._world.get(value))
        if call.method.wsdlName == "ReconfigVM_Task":
            for privilege in privileges_for(call.arguments[0]):
                require(privilege, obj)
        if call.method.wsdlName == "Destroy_Task":
            require("VirtualMachine.Inventory.Delete", obj)
