"""Feed the parsers by coverage, with atheris: ``python -m tests.fuzz [--seconds N] [NAME ...]``.

Each parser gets a child process of its own, since a finding ends it. What it finds is written to ``.cache/fuzz/``; mend
it, and keep the bytes in ``tests/fuzz/findings/``.
"""

# ruff: noqa: T201

import argparse
import importlib.util
import os
import re
import sys
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

CACHE = Path(".cache/fuzz")
MEMORY = 1024
"""MB for one parser; atheris and pyVmomi alone take three hundred."""
SLOWEST = 20
"""Seconds for one input, which is at most some KB: far more than any takes on a machine that is busy."""


def main() -> int:
    """Fuzz the parsers that were named, or all; 1 if anything was found."""
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz")
    arguments.add_argument("names", nargs="*", metavar="NAME")
    arguments.add_argument("--seconds", type=int, default=5, help="for each parser")
    given = arguments.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: skipped, since atheris has no wheel for this Python and machine")
        return 0
    atheris: Any = importlib.import_module("atheris")

    # It tells of each module that it instruments.
    with redirect_stderr(StringIO()), atheris.instrument_imports(include=["hyperexport"]):
        from tests.fuzz.targets import parsers
    names = given.names or list(parsers())
    failed = [name for name in names if not run(name, given.seconds)]
    told = "".join(f"; {name} is NOT" for name in failed)
    print(f"fuzz: {len(names) - len(failed)} of {len(names)} parsers sound{told}")
    return 1 if failed else 0


def run(name: str, seconds: int) -> bool:
    """Fuzz one parser in a child process; tell whether nothing was found."""
    from tests.fuzz.targets import parsers

    corpus, findings, log = CACHE / "corpus" / name, CACHE / "findings", CACHE / f"{name}.log"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(parsers()[name].seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [
        str(corpus), f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", f"-timeout={SLOWEST}",
        f"-artifact_prefix={findings}/{name}-",
    ]  # fmt: skip
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        fuzz(name, flags, log)
    _, status = os.waitpid(child, 0)
    told = log.read_text(errors="replace")
    runs = re.findall(r"^#(\d+)", told, re.MULTILINE) or ["0"]
    print(f"fuzz: {name}: {'FAILED' if status else 'sound'}, {runs[-1]} inputs in {time.monotonic() - began:.0f} s")
    if status:
        print(told[-4000:])
    sys.stdout.flush()
    return status == 0


def fuzz(name: str, flags: list[str], log: Path) -> NoReturn:
    """Hand one parser to atheris, which ends the process."""
    atheris: Any = importlib.import_module("atheris")

    from tests.fuzz.targets import parsers

    with log.open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    atheris.Setup([f"fuzz-{name}", *flags], parsers()[name].check)
    atheris.Fuzz()
    raise AssertionError("it does not return")


if __name__ == "__main__":
    sys.exit(main())
