"""SOAP on the wire, from the server's side, by pyVmomi's own type definitions.

A request is read into the method and its typed arguments, a result or fault is written back. This module knows the
envelope and the types; it does not know what any method does.

pyVmomi is made for clients. Its deserialiser reads one element at a time, which is what is wanted here: each
parameter's element is handed to it together with the type that the method's definition gives for that parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from pyVmomi import SoapAdapter, VmomiSupport, vmodl

NAMESPACE = "urn:vim25"
API_VERSION = "8.0.3.0"
VERSION: str = VmomiSupport.versionMap[f"vim25/{API_VERSION}"]

_SEPARATOR = SoapAdapter.NS_SEP
_ENVELOPE = SoapAdapter.XMLNS_SOAPENV
_BODY = f"{_ENVELOPE}{_SEPARATOR}Body"
_NAMESPACES = {**SoapAdapter.SOAP_NSMAP, NAMESPACE: ""}


class MalformedRequest(Exception):
    """The request is not SOAP, or does not fit the method that it calls."""


class Written(str):
    """A result as the XML that carries it: 2,000 areas take pyVmomi's objects 45 ms, and this 1 ms."""

    __slots__ = ()


@dataclass
class Call:
    """One method call as it was read from the wire."""

    method: Any
    """pyVmomi's definition of the method (its ``info``): wsdlName, params, result, privId."""
    target: Any = None
    """The reference that ``_this`` is."""
    arguments: list[Any] = field(default_factory=list)


def version_of(soap_action: str) -> str:
    """Choose the API version to answer in: the client's, or this server's where that is newer or unknown.

    A client names its version in the SOAPAction header, such as ``urn:vim25/8.0.2.0``.
    """
    asked = VmomiSupport.versionMap.get(soap_action.strip('" ').removeprefix("urn:"))
    return asked if asked and asked in VmomiSupport.parentMap[VERSION] else VERSION


def read_call(body: bytes) -> Call:
    """Read a SOAP envelope.

    Raises:
        MalformedRequest: It cannot be read, or names no method of the API.
    """
    reader = _CallReader()
    try:
        return reader.read(body)
    except (expat.ExpatError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise MalformedRequest(f"the SOAP request cannot be read: {error}") from error


def write_result(call: Call, result: Any, version: str) -> bytes:
    """Write the envelope that carries a method's result."""
    name = f"{call.method.wsdlName}Response"
    if result is None or isinstance(result, Written):
        inner = result or ""
    else:
        inner = _serialise(result, call.method.result, version)
    return _envelope(f'<{name} xmlns="{NAMESPACE}">{inner}</{name}>')


def write_fault(fault: Any, version: str) -> bytes:
    """Write the envelope that carries a fault (HTTP status 500 goes with it)."""
    kind = VmomiSupport.GetWsdlName(type(fault))
    message = escape(fault.msg or kind)
    out = StringIO()
    serialiser = _serialiser(out, version)
    info = VmomiSupport.Object(name=f"{kind}Fault", type=object, version=version, flags=0)
    shown = type(fault)(**{p.name: getattr(fault, p.name) for p in fault._GetPropertyList() if p.name != "msg"})
    serialiser.SerializeFaultDetail(shown, info)
    detail = out.getvalue().replace(f"<{kind}Fault", f'<{kind}Fault xmlns="{NAMESPACE}"', 1)
    return _envelope(
        f"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{message}</faultstring>"
        f"<detail>{detail}</detail></soapenv:Fault>"
    )


def typed(declared: type, value: Any) -> Any:
    """Give a bare Python value the API type that a property declares, so that it says its type on the wire.

    A property's value travels as "any type"; an ``int`` would be sent as an xsd:int where the API says xsd:long.
    """
    if value is None:
        return value
    if issubclass(declared, list):
        return value if isinstance(value, declared) else declared(value)
    if issubclass(declared, int | float) and declared is not bool and not isinstance(value, declared):
        return declared(value)
    return value


def fingerprint(value: Any) -> str:
    """Write a value in a form that is equal only for equal values."""
    info = VmomiSupport.Object(name="val", type=object, version=VERSION, flags=VmomiSupport.F_OPTIONAL)
    return SoapAdapter.SerializeToStr(value, info, VERSION, _NAMESPACES)


def _envelope(body: str) -> bytes:
    return (
        f"{SoapAdapter.XML_HEADER}\n{SoapAdapter.SOAP_ENVELOPE_START}{SoapAdapter.SOAP_BODY_START}\n"
        f"{body}\n{SoapAdapter.SOAP_BODY_END}{SoapAdapter.SOAP_ENVELOPE_END}"
    ).encode()


def _serialiser(out: StringIO, version: str) -> Any:
    serialiser = _ServerSerialiser(out, version, _NAMESPACES)
    # Clients put a versionId attribute on the outermost element; servers don't.
    serialiser.outermostAttrs = ""
    return serialiser


def _serialise(value: Any, declared: type, version: str) -> str:
    out = StringIO()
    info = VmomiSupport.Object(name="returnval", type=declared, version=version, flags=VmomiSupport.F_OPTIONAL)
    _serialiser(out, version).Serialize(typed(declared, value) if declared is not object else value, info)
    return out.getvalue()


class _ServerSerialiser(SoapAdapter.SoapSerializer):
    """Says ``ManagedObjectReference`` where a client's serialiser says ``ManagedObject``, as the WSDL does."""

    def _QName(self, typ: Any, defNS: str) -> tuple[str, str]:
        attribute, name = super()._QName(typ, defNS)
        return attribute, f"{name}Reference" if typ is VmomiSupport.ManagedObject else name


def _fetch_info(name: str) -> Any:
    """The definition of the property accessor, which pyVmomi calls but does not list among the methods."""
    parameter = VmomiSupport.Object(name="prop", type=str, version=VERSION, flags=0)
    return VmomiSupport.Object(name=name, wsdlName=name, params=(parameter,), result=object, privId="System.Read")


class _CallReader(SoapAdapter.ExpatDeserializerNSHandlers):
    """Walks Envelope/Body/Method and hands every parameter to pyVmomi's deserialiser."""

    def __init__(self) -> None:
        super().__init__({})
        self._depth = 0
        self._in_body = False
        self._call: Call | None = None
        self._values: dict[str, Any] = {}
        self._pending: tuple[str, bool, Any] | None = None
        self._text = ""
        self._this_kind: Any = None

    def read(self, body: bytes) -> Call:
        self._parser: Any = expat.ParserCreate(namespace_separator=_SEPARATOR)
        self._parser.buffer_text = True
        SoapAdapter.SetHandlers(self._parser, SoapAdapter.GetHandlers(self))
        self._parser.Parse(body, True)
        if self._call is None or self._call.target is None:
            raise ValueError("there is no method call on an object in its body")
        self._call.arguments = [self._argument(parameter) for parameter in self._call.method.params]
        return self._call

    def StartElementHandler(self, tag: str, attr: dict[str, str]) -> None:
        self._collect()
        self._depth += 1
        self._text = ""
        if tag == _BODY:
            self._in_body = True
        elif self._in_body and self._depth == 3:
            self._call = Call(self._method(tag))
        elif self._in_body and self._depth == 4:
            self._parameter(tag, attr)

    def EndElementHandler(self, tag: str) -> None:
        self._collect()
        if self._call is not None and self._depth == 4 and _local(tag) == "_this":
            self._call.target = self._this_kind(self._text.strip())
        elif tag == _BODY:
            self._in_body = False
        self._depth -= 1

    def CharacterDataHandler(self, data: str) -> None:
        self._text += data

    def _method(self, tag: str) -> Any:
        name = _local(tag)
        return _fetch_info(name) if name == "Fetch" else VmomiSupport.GetWsdlMethod(NAMESPACE, name).info

    def _parameter(self, tag: str, attr: dict[str, str]) -> None:
        name = _local(tag)
        if name == "_this":
            self._this_kind = VmomiSupport.GetWsdlType(NAMESPACE, attr["type"].rpartition(":")[2])
            return
        assert self._call is not None
        parameter = next((each for each in self._call.method.params if each.name == name), None)
        if parameter is None:
            raise ValueError(f"{self._call.method.wsdlName} takes no parameter {name}")
        many = issubclass(parameter.type, list)
        reader = SoapAdapter.SoapDeserializer(None, VERSION)
        reader.Deserialize(self._parser, parameter.type.Item if many else parameter.type, False, self.nsMap)
        self._pending = (name, many, reader)
        # pyVmomi's deserialiser expects to see the element's start itself, and gives the handlers back at its end.
        self._depth -= 1
        self._parser.StartElementHandler(tag, attr)

    def _collect(self) -> None:
        if self._pending:
            name, many, reader = self._pending
            self._pending = None
            value = reader.GetResult()
            if many:
                self._values.setdefault(name, []).append(value)
            else:
                self._values[name] = value

    def _argument(self, parameter: Any) -> Any:
        value = self._values.get(parameter.name)
        if value is None and not parameter.flags & VmomiSupport.F_OPTIONAL:
            raise ValueError(f"the required parameter {parameter.name} is missing")
        if isinstance(value, list) or (value is None and issubclass(parameter.type, list)):
            return parameter.type(value or [])
        return value


def _local(tag: str) -> str:
    return tag.rpartition(_SEPARATOR)[2]


def references(value: Any) -> Sequence[Any]:
    """The managed objects that a property's value names: one, several or none."""
    if isinstance(value, VmomiSupport.ManagedObject):
        return (value,)
    if isinstance(value, list):
        return [each for each in value if isinstance(each, VmomiSupport.ManagedObject)]
    return ()


def make_fault(name: str, **fields: Any) -> Any:
    """Make a fault by its short name (``InvalidState``), from ``vim.fault`` or ``vmodl.fault``.

    Raises:
        ValueError: There is no such fault.
    """
    for package in ("vim.fault", "vmodl.fault", "vmodl.query"):
        try:
            kind = VmomiSupport.GetVmodlType(f"{package}.{name}")
        except KeyError:
            continue
        known = {prop.name for prop in kind._GetPropertyList()}
        return kind(**{key: value for key, value in fields.items() if key in known})
    raise ValueError(f"the vSphere API has no fault named {name}")


MethodFault = vmodl.MethodFault
