"""Programs that we did not write and the tests need: how they are built or found, and what is said without them.

On a developer's machine a missing peer skips its tests, in one plain sentence that the summary repeats; in CI it is a
failure. `python -m tests.peers` builds the Go peers beforehand.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tests" / "conformance" / "peers"
CACHE = ROOT / ".cache" / "peers"
MISSING = "missing peer: "


class PeerMissing(Exception):
    """A peer is not there; the text says what is missing and which proof is lost without it."""


def missing(sentence: str) -> NoReturn:
    """Skip the test for want of a peer, or fail it in CI, where every proof is owed."""
    if os.environ.get("CI"):
        pytest.fail(MISSING + sentence, pytrace=False)
    pytest.skip(MISSING + sentence)


def require_program(name: str, why: str) -> Path:
    """Find a program on the PATH, or say what is not proved without it."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed, so {why}")
    return Path(found)


def build_go_peers() -> Path:
    """Build vcsim and govc once for each state of their sources; return the folder that holds the two programs.

    Raises:
        PeerMissing: Go is not installed, or its build failed (offline, too old).
    """
    folder = CACHE / _state_of_sources()
    if folder.is_dir():
        return folder
    go = shutil.which("go")
    if go is None:
        raise PeerMissing("Go is not installed, so nothing is proved against VMware's own vcsim and govc")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test workers may come here at once
        if not folder.is_dir():
            _build(go, folder)
    return folder


def _state_of_sources() -> str:
    digest = hashlib.sha256()
    for source in sorted((*SOURCES.glob("go.*"), *SOURCES.rglob("*.go"))):
        digest.update(source.relative_to(SOURCES).as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _build(go: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as staging:
        done = subprocess.run(
            [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", f"{staging}/bin/", "./..."],
            cwd=SOURCES,
            env=os.environ | {"CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PeerMissing(f"vcsim and govc could not be built, so nothing is proved against them: {last}")
        (Path(staging) / "bin").rename(folder)


def main() -> int:
    """Build the Go peers and say in one line how that went."""
    try:
        folder = build_go_peers()
    except PeerMissing as reason:
        sys.stderr.write(f"peers: {reason}\n")
        return 1 if os.environ.get("CI") else 0
    sys.stdout.write(f"peers: vcsim and govc are in {folder.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
