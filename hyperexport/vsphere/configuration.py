"""A VM's whole configuration as JSON, kept beside the OVF, which loses settings.

What a guest or an administrator may have put a secret into (guestinfo variables, console passwords, vApp password
properties) is left out by name, and said to be.
"""

import json
import re
from typing import Any, Final

from pyVmomi import vim
from pyVmomi.VmomiJSONEncoder import VmomiJSONEncoder

from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.session import Session

OMITTED: Final = "(left out by hyperexport)"
_SECRET: Final = re.compile(r"(?i)^guestinfo\.|pass(word|wd|phrase)|secret|token|credential|private|\.key$|apikey")


def vm_config_json(session: Session, ref: VmRef, snapshot: str | None = None) -> bytes:
    """Read the VM's configuration (as a snapshot froze it, if one is given) as indented JSON.

    Args:
        session: The login.
        ref: The VM.
        snapshot: The snapshot's managed object id.
    """
    kind, moref = (vim.vm.Snapshot, snapshot) if snapshot else (vim.VirtualMachine, ref.moref)
    doing = f"reading the configuration of {ref.name}"
    config = properties(session, session.reference(kind, moref), ("config",), doing=doing).get("config")
    document = json.loads(json.dumps(config, cls=VmomiJSONEncoder, strip_dynamic=True))
    _omit_secrets(document)
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _omit_secrets(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _omit_secrets(item)
    elif isinstance(node, dict):
        if _is_secret(node):
            node.update({name: OMITTED for name in ("value", "defaultValue") if node.get(name)})
        for item in node.values():
            _omit_secrets(item)


def _is_secret(node: dict[str, Any]) -> bool:
    # extraConfig entries are key and value; vApp properties have an id and a type such as "password(8..20)".
    named = _SECRET.search(str(node.get("key", ""))) or _SECRET.search(str(node.get("id", "")))
    return bool(named) or str(node.get("type", "")).startswith("password")
