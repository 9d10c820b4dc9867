"""The words of ``hyperexport check``: those of an export, of which nothing is begun."""

from pydantic import SecretStr

from hyperexport.cli.flags import Asked, EmailPassword, VSphere
from hyperexport.cli.request import Mode, Request
from hyperexport.options.selection import make_selection, selection_leaves


def check(asked: Asked, *, vsphere_block: VSphere = None, email_password: EmailPassword = None) -> Request:
    """Try what an export with these options needs, and say what would fail tonight; nothing is changed."""
    given = asked.given
    selection = make_selection({leaf.key: given.pop(leaf.key) for leaf in selection_leaves() if leaf.key in given})
    return asked.request(
        Mode.CHECK,
        selection=selection,
        vsphere=vsphere_block,
        email_password=SecretStr(email_password) if email_password else None,
    )
