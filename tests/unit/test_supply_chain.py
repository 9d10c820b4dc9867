"""What is installed is what was locked: every package by its hash, from nowhere that the lock names, and audited."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ["lock.txt", "bootstrap.txt"]
PINNED = re.compile(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,_-]+\])?==[^\s;]+( ; .+)?", re.IGNORECASE)


def requirements(lock: str) -> list[list[str]]:
    """Each requirement of a lock, in its lines without comments and continuations."""
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    whole = re.sub(r"\\\n", "\n\t", re.sub(r"(?m)^\s*#.*\n?", "", text))
    found: list[list[str]] = []
    for line in whole.splitlines():
        if line[:1].isspace() and found:
            found[-1].append(line.strip())
        elif line.strip():
            found.append([line.strip()])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_to_a_version_and_to_hashes(lock: str) -> None:
    found = requirements(lock)
    assert found
    for requirement, *hashes in found:
        assert PINNED.fullmatch(requirement.rstrip()), requirement
        assert hashes, f"{requirement} has no hash"
        for one in hashes:
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one), f"{requirement}: {one}"


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_says_where_from(lock: str) -> None:
    """Where packages come from is the machine's business; an index in the lock could be somebody else's."""
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    assert not re.search(r"(?im)https?://|^\s*--?(extra-)?(index|find|trusted|i |f )|git\+| @ ", text)


def test_what_the_lock_names_is_installed_with_its_hashes_and_nothing_else() -> None:
    script = (ROOT / "tools" / "make-venv.sh").read_text(encoding="utf-8")
    assert "--require-hashes" in script


AUDITORS = {
    "sound": ("exit 0", 0, "no known vulnerability"),
    "flawed": (
        (
            'while [ "$1" != --output ]; do shift; done; echo \'{"dependencies": [{"name": "jinja2", "version": "1", '
            '"vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}\' > "$2"; exit 1'
        ),
        1,
        "jinja2 1: CVE-1, mended by 2",
    ),
    "alone": ("echo requests.exceptions.ConnectionError >&2; exit 1", 0, "could not reach the advisory service"),
    "broken": ("echo what is this >&2; exit 1", 1, "the auditor itself"),
}


@pytest.mark.parametrize(("script", "status", "words"), AUDITORS.values(), ids=AUDITORS)
def test_the_audit_fails_on_findings_and_says_when_it_could_not_ask(
    script: str, status: int, words: str, tmp_path: Path
) -> None:
    auditor = tmp_path / "auditor"
    auditor.write_text(f"#!/bin/sh\n{script}\n")
    auditor.chmod(0o755)
    done = subprocess.run(
        [ROOT / "tools" / "audit.sh"], env={**os.environ, "PIP_AUDIT": str(auditor)}, capture_output=True, text=True
    )
    assert words in done.stdout + done.stderr
    assert done.returncode == status
