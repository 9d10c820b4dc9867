"""Does a store's whole work, and is killed at every step on the way.

Run as ``python -m tests.engine.crashing_writer ROOT``: for each call that changes or syncs the filesystem, a child does
the work in the store ``ROOT/<number>`` and dies by SIGKILL just before that call. Prints how many such calls there are.
"""

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from hyperexport.model.marks import PreservedMark
from hyperexport.store.local import LocalStore
from tests.engine.local_exports import FIRST, FOLDER, SECOND, write_export

_CHANGES = {"os.fsync", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.write"}


def work(store: LocalStore) -> None:
    """Export incrementally into a store with one export, mark the new one, and delete the old one."""
    (base,) = store.exports(FOLDER)
    second = write_export(store, SECOND, reuse=base)
    store.write_mark(second, PreservedMark(export_id=second.export_id, preserve=True))
    store.delete(base)


def die_before(step: int) -> None:
    """Be killed just before the step-th change to the filesystem."""
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in _CHANGES or (event == "open" and arguments[2] & os.O_CREAT):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def audited(name: str) -> Callable:
        call = getattr(os, name)

        def audit_and_call(*arguments: object) -> object:
            sys.audit(f"os.{name}", *arguments)
            return call(*arguments)

        return audit_and_call

    for name in ("fsync", "write"):  # Python itself raises no audit events for these
        setattr(os, name, audited(name))
    sys.addaudithook(watch)


def main(root: Path) -> None:
    """Be killed at step 1, 2, 3, and so on, until once the work gets done."""
    for step in count(1):
        store = LocalStore(root / str(step))
        write_export(store, FIRST)
        child = os.fork()
        if child == 0:
            die_before(step)
            work(store)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.stdout.write(f"{step - 1}\n")
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
