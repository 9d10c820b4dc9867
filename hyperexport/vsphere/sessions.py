"""The logins on a server, as far as this user may see them, and which of them are this tool's."""

import logging
from datetime import datetime
from typing import Any, NamedTuple

from pyVmomi import vim

from hyperexport.errors import HyperExportError
from hyperexport.model.ownership import Owner
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.faults import is_caused_by
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)


class Login(NamedTuple):
    """A login that has this tool's mark."""

    key: str
    owner: Owner
    last_active: datetime
    """When it last asked the server for something, by the server's clock."""


def tagged_sessions(session: Session) -> list[Login] | None:
    """Each other login that has this tool's mark; None where not every login can be seen.

    vSphere API: SessionManager.sessionList asks for Sessions.TerminateSession; who lacks it sees none. A list without
    the own login is not whole.
    """
    manager = session.content.sessionManager
    try:
        found = properties(session, manager, ("sessionList",), doing="looking at the sessions").get("sessionList", ())
    except HyperExportError as error:
        logger.info("the sessions that dead runs left cannot be listed: %s", error.what)
        return None
    if session.key not in {each.key for each in found}:
        return None
    marked = ((each, Owner.from_description(_user_agent(each))) for each in found if each.key != session.key)
    return [Login(each.key, owner, each.lastActiveTime) for each, owner in marked if owner]


def end_session(session: Session, key: str) -> bool:
    """End a session, and all that it holds. Never raises: the server ends an idle one by itself, later.

    Returns:
        Whether it is gone.
    """
    try:
        session.call(session.content.sessionManager.TerminateSession, [key], doing="ending a session")
    except HyperExportError as error:
        if not is_caused_by(error, (vim.fault.NotFound,)):
            logger.warning("a session that a dead run left stays until the server ends it: %s", error.what)
            return False
    return True


def _user_agent(session: Any) -> str:
    return session.userAgent or ""
