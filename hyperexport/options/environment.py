"""Which ``HYPEREXPORT_`` variables there are, and which only look so: a misspelt one must not go unnoticed.

The options' own variables derive from the options model; the others are named here, with what they are for. What a
variable's value means is decided where it is read.
"""

import logging
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from hyperexport.base.json_logs import VARIABLE as JSON_LOGS
from hyperexport.base.secrets import EMAIL_PASSWORD_VARIABLE
from hyperexport.options.precedence import ENV_PREFIX, leaves

logger = logging.getLogger(__name__)

OTHER_VARIABLES: Final[Mapping[str, str]] = {
    "HYPEREXPORT_VSPHERE_URL": "The vCenter's or ESXi host's address, in place of GOVC_URL.",
    "HYPEREXPORT_VSPHERE_USERNAME": "The user to log in as, in place of GOVC_USERNAME.",
    "HYPEREXPORT_VSPHERE_PASSWORD": "The password, in place of GOVC_PASSWORD.",
    "HYPEREXPORT_VSPHERE_CA_FILE": "PEM file of the trusted CAs, in place of GOVC_TLS_CA_CERTS.",
    "HYPEREXPORT_VSPHERE_THUMBPRINT": "The server's certificate, pinned by its SHA-256 thumbprint.",
    "HYPEREXPORT_VSPHERE_INSECURE": "Take any certificate, in place of GOVC_INSECURE. Only for laboratories.",
    "HYPEREXPORT_VSPHERE_TIMEOUT": "Seconds to wait for each of the server's answers.",
    EMAIL_PASSWORD_VARIABLE: "The mail server's password, for --email-username.",
    "HYPEREXPORT_API_TOKEN": "The token that callers of the jobs API have to send.",
    "HYPEREXPORT_NO_PREFECT": "1 has a command run in its own process, as --no-prefect does.",
    "HYPEREXPORT_VDDK_LIBDIR": "Where VMware's VDDK is unpacked, for --nbdkit-plugin vddk.",
    JSON_LOGS: "json has standard error say one JSON object a line; text if not set.",
}
"""Variables that set no option, and what they are for."""

SECRETS: Final = ("HYPEREXPORT_VSPHERE_PASSWORD", "GOVC_PASSWORD", EMAIL_PASSWORD_VARIABLE, "HYPEREXPORT_API_TOKEN")
"""Variables whose values are never shown, only whether they are set."""


def unknown_variables(environ: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """Find variables that look like ours and are not.

    Args:
        environ: The variables; those of this process if None.

    Returns:
        Each with the known name that is nearest to it, or None where none is near.
    """
    known = {*OTHER_VARIABLES, *(name for leaf in leaves() for name in leaf.environment)}
    strangers = sorted(
        name
        for name in (os.environ if environ is None else environ)
        if name.startswith(ENV_PREFIX) and name not in known
    )
    return {name: next(iter(get_close_matches(name, known, n=1, cutoff=0.85)), None) for name in strangers}


def warn_of_unknown_variables() -> None:
    """Say in one log line which variables have no effect; nothing where there are none."""
    found = unknown_variables()
    if found:
        words = (f"{name} (did you mean {nearest}?)" if nearest else name for name, nearest in found.items())
        logger.warning("no such option, so it has no effect: %s", ", ".join(words))


def variables_table() -> str:
    """Every variable with the flag that it stands for and what it means, as the Markdown table of the documentation."""
    rows = [
        (" or ".join(f"`{name}`" for name in leaf.environment), f"`{leaf.flag}`", str(leaf.field.description))
        for leaf in leaves()
    ]
    rows += [(f"`{name}`", "", words) for name, words in OTHER_VARIABLES.items()]
    lines = ["| variable | flag | meaning |", "|---|---|---|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
