"""The words of ``hyperexport check``: those of an export, of which nothing is begun."""

from pydantic import SecretStr

from cli.flags import Debug, EmailPassword, Json, Profile, Quiet, VSphere
from cli.request import Mode, Request, face_of
from hyperexport.options import ExportOptions, resolve
from hyperexport.selection import make_selection, selection_leaves


def check(
    given: dict[str, object],
    *,
    vsphere_block: VSphere = None,
    email_password: EmailPassword = None,
    profile: Profile = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> Request:
    """Try what an export with these options needs, and say what would fail tonight; nothing is changed."""
    selection = make_selection({leaf.key: given.pop(leaf.key) for leaf in selection_leaves() if leaf.key in given})
    options = ExportOptions.from_keys(given)
    if profile is None:
        resolve(options)  # only the environment can add to it
    return Request(
        mode=Mode.CHECK,
        selection=selection,
        options=options,
        profile=profile,
        face=face_of(quiet=quiet, json=json),
        debug=debug,
        vsphere=vsphere_block,
        email_password=SecretStr(email_password) if email_password else None,
    )
