"""Whether the login of a run on a vSphere server is silent: a second witness, beside the orchestrator's record.

A run at work gives its login a sign of life every 20 s, from a thread of its own (``vsphere/session.py``), wherever it
runs and whatever it waits for. So where no login of a run shows one for more than four times as long, watched by this
process's monotonic clock, the run reaches the server no more. That alone does not prove its end (its process may be
stopped, or cut off), so it decides nothing by itself.
"""

import logging
import time
from datetime import datetime
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.model.ownership import Owner
from hyperexport.vsphere.session import KEEP_ALIVE, Session
from hyperexport.vsphere.sessions import tagged_sessions

logger = logging.getLogger(__name__)

SECONDS_OF_SILENCE: Final = 4.5 * KEEP_ALIVE
_SECONDS_BETWEEN_LOOKS: Final = 5.0


class Logins:
    """Watches the logins on one server.

    Args:
        session: The login to look with.
        stop: Ends the watching.
        seconds: How long no sign of life may be seen.
    """

    def __init__(self, session: Session, stop: StopSignal, *, seconds: float = SECONDS_OF_SILENCE) -> None:
        self._session = session
        self._stop = stop
        self._seconds = seconds
        self._silent: dict[str, bool | None] = {}

    def silent(self, owner: Owner) -> bool | None:
        """Watch whether any login of the owner's run shows a sign of life. Takes a minute and a half for each run.

        Returns:
            True where none did, False where one did; None where that cannot be seen from here: another server, or no
            privilege to see the logins.

        Raises:
            Interrupted: The run was asked to stop.
        """
        if owner.run not in self._silent:
            if not self._is_of_this_server(owner):
                return None
            self._silent[owner.run] = self._watch(owner)
        return self._silent[owner.run]

    def _is_of_this_server(self, owner: Owner) -> bool:
        if owner.vcenter_uuid and self._session.instance_uuid:
            return owner.vcenter_uuid.lower() == self._session.instance_uuid.strip().lower()
        return bool(owner.vcenter) and owner.vcenter.lower() == self._session.address.strip().lower()

    def _watch(self, owner: Owner) -> bool | None:
        first = self._seen(owner.run)
        if first is None:
            return None
        logger.warning(
            "watching for %.0f s whether run %s, which Prefect says has ended, is still logged in to %s",
            *(self._seconds, owner.run, self._session.address),
        )
        end = time.monotonic() + self._seconds
        while (left := end - time.monotonic()) > 0:
            self._stop.wait(min(_SECONDS_BETWEEN_LOOKS, left))
            self._stop.check()
            now = self._seen(owner.run)
            if now is None:
                return None
            if now - first:  # a login that went is no sign of life
                return False
        return True

    def _seen(self, run: str) -> set[tuple[str, datetime]] | None:
        found = tagged_sessions(self._session)
        return None if found is None else {(each.key, each.last_active) for each in found if each.owner.run == run}
