"""The terminal, as rich sees it."""

import os

from rich.console import Console


class PipeSafeConsole(Console):
    """A console whose reader may stop reading, as ``grep -q`` and ``head`` do: the work continues, unseen."""

    def on_broken_pipe(self) -> None:
        """Discard all further output; rich itself would exit here."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
