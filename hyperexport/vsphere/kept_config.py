"""The configuration that an export keeps of its VM, read back: JSON into objects of the API.

``configuration.py`` writes ConfigInfo with pyVmomi's encoder, which has no decoder. The file may have been touched by
others, so the type of every value is checked.
"""

import json
from typing import Any, Final, cast

from pyVmomi import VmomiSupport, vim

from hyperexport.errors import VerificationFailed
from hyperexport.vsphere.configuration import OMITTED

_TYPE: Final = "_vimtype"
_DEEPEST: Final = 20


class KeptConfig:
    """A VM's configuration as it was at its export.

    Args:
        document: The JSON document; empty where the export keeps none.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        hardware = document.get("hardware")
        listed = hardware.get("device") if isinstance(hardware, dict) else None
        devices = listed if isinstance(listed, list) else []
        self.devices: Final = [cast("dict[str, Any]", each) for each in devices if isinstance(each, dict)]

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> "KeptConfig":
        """Read the file.

        Raises:
            VerificationFailed: It is not such a file.
        """
        try:
            document: object = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise VerificationFailed(f"{where} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise VerificationFailed(f"{where} is not a VM's configuration")
        return cls(cast("dict[str, Any]", document))

    def __bool__(self) -> bool:
        return bool(self._document)

    def names(self) -> list[str]:
        """The settings that have a value."""
        return [name for name, value in self._document.items() if name != _TYPE and value not in (None, [], "")]

    def raw(self, name: str) -> Any:
        """A setting as JSON; None where it has no value."""
        return self._document.get(name)

    def text(self, name: str) -> str | None:
        """A setting that is text; None where it has no value or another type."""
        value = self._document.get(name)
        return value if isinstance(value, str) and value else None

    def value(self, name: str) -> Any:
        """A setting as an object of the API; None where it has no value, or one that this API does not know."""
        return decode(self._document.get(name))

    def of_type(self, *ends: str) -> list[dict[str, Any]]:
        """The devices of which the type ends so, by their keys."""
        found = [device for device in self.devices if type_of(device).endswith(ends)]
        return sorted(found, key=lambda device: _number(device.get("key")))

    def extra(self) -> dict[str, str]:
        """The lines of ``extraConfig`` that are text or numbers."""
        lines = self._document.get("extraConfig")
        found: dict[str, str] = {}
        for line in lines if isinstance(lines, list) else []:
            if isinstance(line, dict) and isinstance(line.get("key"), str) and line.get("value") is not None:
                found[line["key"]] = str(line["value"])
        return found

    def omitted(self) -> list[str]:
        """The names of the values that the export left out because they may be secrets."""
        return sorted(_omitted(self._document, 0))


def _omitted(node: Any, depth: int) -> set[str]:
    found: set[str] = set()
    if depth > _DEEPEST:
        return found
    if isinstance(node, list):
        for each in node:
            found |= _omitted(each, depth + 1)
    elif isinstance(node, dict):
        if OMITTED in (node.get("value"), node.get("defaultValue")):
            found.add(str(node.get("key") or node.get("id") or "a vApp property"))
        for each in node.values():
            found |= _omitted(each, depth + 1)
    return found


def type_of(node: dict[str, Any]) -> str:
    """The name of an object's type, such as ``vim.vm.device.VirtualDisk``."""
    found = node.get(_TYPE)
    return found if isinstance(found, str) else ""


def label_of(device: dict[str, Any]) -> str:
    """A device as vSphere's client shows it."""
    info = device.get("deviceInfo")
    label = info.get("label") if isinstance(info, dict) else None
    return label if isinstance(label, str) and label else type_of(device).rpartition(".")[2] or "a device"


def decode(node: Any, depth: int = 0) -> Any:
    """An object of the API out of its JSON; plain values as they are.

    Returns:
        None for what this version of the API does not know, or what has a field of a wrong type.
    """
    if isinstance(node, list):
        made = [decode(each, depth + 1) for each in node]
        return [each for each in made if each is not None]
    if not isinstance(node, dict):
        return node
    known = _known_type(type_of(node))
    if known is None or depth > _DEEPEST:
        return None
    made = known()
    fields = {each.name: each for each in made._GetPropertyList()}
    for name, value in node.items():
        if name in fields and value not in (None, []) and not _is_reference(fields[name].type):
            _set(made, name, decode(value, depth + 1))
    return made


def _set(made: Any, name: str, value: Any) -> None:
    if value is None:
        return
    try:
        setattr(made, name, value)
    except (TypeError, ValueError, AttributeError):
        return  # a time as text, or a value of a type that was changed by hand


def _known_type(name: str) -> Any:
    if not name.startswith("vim."):
        return None
    try:
        found = VmomiSupport.GetVmodlType(name)
    except (KeyError, AttributeError, TypeError):
        return None
    return found if isinstance(found, type) and issubclass(found, VmomiSupport.DataObject) else None


def _is_reference(kind: Any) -> bool:
    """Whether a field names an object of the server that the VM was exported from."""
    item = getattr(kind, "Item", kind)
    return isinstance(item, type) and issubclass(item, vim.ManagedEntity | VmomiSupport.ManagedObject)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
