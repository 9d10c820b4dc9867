"""What a guest shows on its serial console and its screen, and what of that proves that it lives, or that it does not.

A boot loader's text proves nothing, and a kernel's first lines neither: a system without its disk prints both. What
counts comes after the root filesystem is there: the first process, a login prompt.
"""

import re
from typing import Final, NamedTuple

from hyperexport.model.drill import Sign

TAIL: Final = 16 << 10
"""Characters of the console that are kept."""

_LIVES: Final = re.compile(
    r"(?m)(?:\blogin: ?$|^Welcome to .+!|\bsystemd\[1\]: (?:Startup finished|Reached target)"
    r"|\[ +OK +\] Reached target|^INIT: Entering runlevel|^SAC>)"
)
"""Text that only a started system writes: login prompts, systemd, sysvinit, Windows' special administration console."""
_DEAD: Final = {
    "No bootable device": "the firmware finds nothing to boot from",
    "Boot failed: not a bootable disk": "the firmware finds nothing to boot from",
    "UEFI Interactive Shell": "the EFI firmware finds nothing to boot from",
    "Missing operating system": "the disk has no boot loader",
    "grub rescue>": "the boot loader does not find its files",
    "Kernel panic": "the guest's kernel panicked",
    "(initramfs)": "the guest does not find its root filesystem",
    "dracut-emergency": "the guest does not find its root filesystem",
    "You are in emergency mode": "the guest started in emergency mode",
    "An operating system wasn't found": "the disk has no boot loader",
    "BOOTMGR is missing": "the boot loader does not find its files",
}


class Expectation(NamedTuple):
    """The text, or any sign of life, that a drill waits for on the serial console."""

    text: str | None
    """Nothing else counts; any sign of life if None."""
    seconds: float
    """For how long."""


class Console:
    """Collects what the guest writes on its serial console, bounded, and remembers what it proved.

    Args:
        expected: Text to look for; any sign of life if None.
    """

    def __init__(self, expected: str | None = None) -> None:
        self._expected = expected
        self._bytes = b""
        self.sign = Sign.NONE
        """What has proved that the guest lives."""
        self.end: str | None = None
        """Why nothing more is to come, in words; None while something may."""

    @property
    def tail(self) -> str:
        """The end of the console, as plain text."""
        return _plain(self._bytes.decode("utf-8", "replace"))[-TAIL:]

    def add(self, data: bytes) -> None:
        """Take what came on the console."""
        for start in range(0, len(data), TAIL):
            self._bytes = (self._bytes + data[start : start + TAIL])[-4 * TAIL :]
            self.look(_plain(self._bytes.decode("utf-8", "replace")))

    def look(self, text: str) -> None:
        """Look for signs in text of the console, or of the screen."""
        if self.sign is Sign.NONE:
            self.sign = self._sign_in(text)
        if self.end is None:
            self.end = next((reason for words, reason in _DEAD.items() if words in text), None)

    def _sign_in(self, text: str) -> Sign:
        if self._expected is not None:
            return Sign.EXPECTED_TEXT if self._expected in text else Sign.NONE
        return Sign.CONSOLE if _LIVES.search(text) else Sign.NONE


def screen_text(memory: bytes) -> str:
    """The text of a screen in VGA's text mode.

    Args:
        memory: 4,000 bytes from 0xB8000: 80 x 25 pairs of a character and its colours.
    """
    text = memory[:4000:2].decode("cp437")
    rows = (text[start : start + 80].rstrip("\0 ") for start in range(0, len(text), 80))
    return "\n".join(rows).strip("\n")


_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")


def _plain(text: str) -> str:
    """Without the sequences that colour text and move a cursor, and without other controls."""
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(sign for sign in text if sign in "\n\t" or sign.isprintable())
