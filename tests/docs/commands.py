"""The command lines that the documentation shows, page by page, as a reader would copy them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
_SHELLS = {"", "console", "bash", "sh", "shell"}
_FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_FIRST_WORD = re.compile(
    r"(?:sudo )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?"
    r"(hyperexport|govc|prefect|make|curl|python|pip|docker|kubectl|find|git|export|apt-get|systemctl|psql|npm)\b"
)


class Command(NamedTuple):
    """One command line, and where it stands."""

    page: str
    line: str


def commands() -> list[Command]:
    """Every command line of every page, in order."""
    return [Command(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in _lines(page.read_text())]


def mentioned() -> list[Command]:
    """Every ``hyperexport`` with a flag or a command behind it that stands in a sentence or a table."""
    found: list[Command] = []
    for page in PAGES:
        text = _FENCED.sub("", page.read_text())
        lines = re.findall(r"(?<!`)`(?:\.venv/bin/)?(hyperexport [^`]+)`(?!`)", text)
        found += [Command(page.relative_to(ROOT).as_posix(), " ".join(line.split())) for line in lines]
    return found


def _lines(text: str) -> Iterator[str]:
    for block in _blocks(text):
        joined = re.sub(r"\s*\\\n\s*", " ", block)
        for line in joined.splitlines():
            words = line.strip()
            if words.startswith("$ "):
                yield _bare(words[2:])
            elif _FIRST_WORD.match(words) and not words.startswith("hyperexport:"):
                yield _bare(words)


def _bare(line: str) -> str:
    """Without the environment's folder in front and the remark behind."""
    return re.sub(r"\s+# .*$", "", line).strip().removeprefix(".venv/bin/")


def _blocks(text: str) -> Iterator[str]:
    """The blocks of code that a shell would take: fenced ones, and those that are indented."""
    for match in _FENCED.finditer(text):
        if match[2] in _SHELLS:
            yield match[3]
    for match in re.finditer(r"(?:^ {4}[^\n]*\n)+", _FENCED.sub("", text), re.MULTILINE):
        yield match[0]
