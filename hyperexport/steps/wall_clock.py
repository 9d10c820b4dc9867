"""Other clocks than this machine's: the server's, the store's, and the memory of when they last agreed.

The memory is a file of this user on this machine (``$XDG_STATE_HOME/hyperexport/clock.json``), because it is about this
machine's clock. It holds the boot's id and, for each store, the time and the seconds since the boot. Nothing depends on
it: where it cannot be read or written, less is known, and less is deleted.
"""

import json
import logging
import os
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import Field, ValidationError

from hyperexport.errors import HyperExportError
from hyperexport.model.vm import Value
from hyperexport.policy.clock import ClockAgreement, ClockVerdict, OtherClock, compare_clocks
from hyperexport.store.base import Store

if TYPE_CHECKING:
    from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)

_MOST_STORES: Final = 100
_LARGEST: Final = 1024 * 1024


class ServerTime(Value):
    """What a server's clock said, and when this process asked."""

    server: str
    time: datetime
    asked: float = Field(description="time.monotonic() of this process at the answer.")

    def now(self) -> OtherClock:
        """What the server's clock must say by now."""
        passed = timedelta(seconds=max(0.0, time.monotonic() - self.asked))
        return OtherClock(name=self.server, time=self.time + passed)


class _Memory(Value):
    boot: str
    stores: dict[str, ClockAgreement]


def ask_server(session: "Session") -> ServerTime | None:
    """Ask the server for its time; None where it does not tell: no export depends on it."""
    try:
        return ServerTime(server=session.address, time=session.time(), asked=time.monotonic())
    except HyperExportError as error:
        logger.info("%s did not return its time: %s", session.address, error)
        return None


def assess_clock(store: Store, server: ServerTime | None, *, trusted: bool) -> ClockVerdict:
    """Say what this machine's clock may decide in a store.

    Args:
        store: Where something is to be deleted.
        server: What the vSphere server said in this run; None in a run that speaks to none.
        trusted: Whether ``--cleanup-trust-clock`` is given.

    Raises:
        StoreUnusable, StoreUnreachable: The store did not answer.
    """
    own = store.server_time()
    others = [*([server.now()] if server else []), *([OtherClock(name=store.url, time=own)] if own else [])]
    last_agreement = None
    boot, uptime = boot_and_uptime()
    memory = _read()
    if memory and memory.boot == boot:
        last_agreement = memory.stores.get(store.url)
    return compare_clocks(datetime.now(UTC), others, last_agreement, uptime=uptime, trusted=trusted)


def remember(store: Store, verdict: ClockVerdict) -> None:
    """Note that another clock agrees with this machine's now. Never raises."""
    boot, uptime = boot_and_uptime()
    path = _path()
    if not verdict.agreed or boot is None or uptime is None or path is None:
        return
    before = _read()
    stores = dict(before.stores) if before and before.boot == boot else {}
    stores.pop(store.url, None)
    kept = list(stores.items())[-(_MOST_STORES - 1) :]
    memory = _Memory(boot=boot, stores={**dict(kept), store.url: ClockAgreement(wall=datetime.now(UTC), uptime=uptime)})
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh.write_text(memory.model_dump_json(indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        logger.info("%s cannot be written: %s", path, error.strerror or error)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def boot_and_uptime() -> tuple[str | None, float | None]:
    """Identify the boot, and count the seconds since, suspension included; two Nones where the system does not tell.

    Both come from /proc, so that setting the time does not change them. A time namespace counts by itself.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None, None
    with suppress(OSError):
        boot += f"/{Path('/proc/self/ns/time').readlink().name}"
    return (boot, uptime) if boot else (None, None)


def _path() -> Path | None:
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # this user has no home
        return None
    return home / "hyperexport" / "clock.json" if home.is_absolute() else None


def _read() -> _Memory | None:
    path = _path()
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return _Memory.model_validate(json.loads(file.read(_LARGEST)))
    except (OSError, ValueError, ValidationError, RecursionError):
        return None
