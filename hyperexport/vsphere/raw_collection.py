"""Answers as XML, for lists of thousands of objects: the property collector's, mostly.

pyVmomi makes a Python object of each XML element: half a millisecond for the dozen properties of a VM in a list, two
for its devices. expat alone, behind the standard library's ElementTree, reads the same in a tenth of that.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any, Final

from pyVmomi import vmodl

from hyperexport.errors import ServerFault
from hyperexport.vsphere.collector import MOST_PAGES
from hyperexport.vsphere.session import Session

VIM: Final = "{urn:vim25}"
"""The namespace of the API's elements, as ElementTree writes it."""
_TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"


class RawObject:
    """An object and what was read of it, by path; what is unset or could not be read is empty.

    Args:
        element: The server's ``ObjectContent``.
        failed: What begins the message of an error in it.
    """

    def __init__(self, element: ET.Element, failed: str) -> None:
        self._failed = failed
        obj = element.find(f"{VIM}obj")
        self.moref: str = (obj.text or "") if obj is not None else ""
        self.kind: str = obj.get("type", "") if obj is not None else ""
        self._values = {
            found.findtext(f"{VIM}name", ""): value
            for found in element.iterfind(f"{VIM}propSet")
            if (value := found.find(f"{VIM}val")) is not None
        }
        self._missing = element.findall(f"{VIM}missingSet")

    def __contains__(self, path: str) -> bool:
        return path in self._values

    def is_unread(self, path: str) -> bool:
        """Whether the server could not read it, which does not mean that it is unset."""
        return any(
            missing.findtext(f"{VIM}path") == path
            # A server of a version that does not know the property has it unset.
            and type_of(missing.find(f"{VIM}fault/{VIM}fault")) != "InvalidProperty"
            for missing in self._missing
        )

    def text(self, path: str) -> str:
        """A string, an enumeration's value, or the id of a managed object."""
        value = self._values.get(path)
        return "" if value is None else value.text or ""

    def flag(self, path: str) -> bool:
        """A boolean."""
        return self.text(path) in {"true", "1"}

    def number(self, path: str) -> int:
        """An integer; 0 where it is unset.

        Raises:
            ServerFault: It is none.
        """
        return self.parsed(self.text(path), path)

    def parsed(self, text: str, what: str) -> int:
        """The integer that a text is; 0 where it is empty.

        Raises:
            ServerFault: It is none; the message names ``what``.
        """
        try:
            return int(text or 0)
        except ValueError:
            raise ServerFault(f"{self._failed}: {what} of {self.moref} is not a number") from None

    def members(self, path: str) -> list[ET.Element]:
        """The elements of an array."""
        value = self._values.get(path)
        return [] if value is None else list(value)


def collect_raw(session: Session, wanted: Any, *, page: int, doing: str) -> Iterator[RawObject]:
    """Retrieve properties, as many objects in a request as a page holds.

    Args:
        session: The login.
        wanted: The ``FilterSpec``.
        page: The most objects in one answer.
        doing: For error messages.

    Raises:
        ServerFault: Among others where an object is gone; the API's ManagedObjectNotFound is its cause.
    """
    failed = f"{doing} failed on {session.address}"
    collector = session.content.propertyCollector
    options = vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=page)
    answer = session.read_raw(collector, "RetrievePropertiesEx", [wanted], options, doing=doing)
    for _ in range(MOST_PAGES):
        result = parse_answer(answer, failed)
        for found in result.iter(f"{VIM}objects"):
            yield RawObject(found, failed)
        token = result.findtext(f".//{VIM}token")
        if not token:
            return
        answer = session.read_raw(collector, "ContinueRetrievePropertiesEx", token, doing=doing)
    raise ServerFault(f"{failed}: its answer does not end after {MOST_PAGES} pages")


def parse_answer(answer: bytes, failed: str) -> ET.Element:
    """Read a SOAP answer.

    Args:
        answer: As it came.
        failed: What begins the message of an error in it.

    Raises:
        ServerFault: It is not XML.
    """
    try:
        return ET.fromstring(answer)  # noqa: S314 - expat refuses entities that grow; the server is one we trust
    except ET.ParseError as error:
        raise ServerFault(f"{failed}: its answer is not XML ({error})") from error


def type_of(element: ET.Element | None) -> str:
    """The API's type of a value, such as ``VirtualDisk``."""
    return "" if element is None else element.get(_TYPE, "").rpartition(":")[2]


def field_of(element: ET.Element, name: str) -> str:
    """A field of a data object; empty where it is unset."""
    return element.findtext(f"{VIM}{name}") or ""
