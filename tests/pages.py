"""Reads the pages that runs leave in Prefect: Markdown, with tables where they are narrow and lists elsewhere."""


def row(page: str, first: str) -> list[str]:
    """The cells of the row of a table that begins so, or the name and the value of a fact in a list.

    Raises:
        LookupError: There is none.
    """
    for line in page.splitlines():
        if line.startswith(f"| {first} |"):
            return line.strip("| ").split(" | ")
        if line.startswith(f"- **{first}:** "):
            return [first, line.partition(":** ")[2]]
    raise LookupError(first)


def joined(page: str) -> str:
    """The page with each command in one line."""
    return page.replace(" \\\n  ", " ")
