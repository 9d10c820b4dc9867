"""Names as vSphere keeps them and as people write them.

vSphere API: in an entity's name, ``%``, ``/`` and the backslash are kept as %25, %2f and %5c.
"""

import re
from typing import Final

_KEPT: Final = {"%25": "%", "%2f": "/", "%5c": "\\"}
_CODE: Final = re.compile("|".join(_KEPT), re.IGNORECASE)
_SIGN: Final = re.compile(r"[%/\\]")


def unescape(name: str) -> str:
    """Show a name as people write it."""
    return _CODE.sub(lambda found: _KEPT[found.group().lower()], name)


def escape(name: str) -> str:
    """Write a name as vSphere keeps it."""
    return _SIGN.sub(lambda found: f"%{ord(found.group()):02x}", name)
