"""How an option and a group of options are declared, and the values that an option chooses from."""

from enum import StrEnum
from typing import Any, get_args

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from hyperexport.model.vm import Value
from hyperexport.options.form import omit_defaults


def option(default: Any, help_text: str, *, flag: str, unit: str | None = None, **bounds: Any) -> Any:
    """Declare one option.

    Args:
        default: The value when none is given.
        help_text: One line, without the full stop; shown by ``--help`` and in the form.
        flag: Its name on the command line, such as ``--bandwidth-limit``.
        unit: The unit of a number, shown with the help.
        bounds: pydantic's own: ``ge``, ``le``, ``pattern``, ...
    """
    shown = f"{help_text} ({unit})." if unit else f"{help_text}."
    return Field(default=default, description=shown, json_schema_extra={"flag": flag}, **bounds)


class Group(Value):
    """Options that belong together."""

    model_config = ConfigDict(json_schema_extra=omit_defaults)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true where a number or a time is meant: pydantic reads it as 1, and a limit of 1 deletes."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and not {bool, VerifyMode} & {kind, *get_args(kind)}:
            raise ValueError(f"{str(value).lower()} is no value of this option")
        return value

    def contradiction(self) -> str | None:
        """Say which options contradict each other; None if none do.

        Asked only of the merged options, by :meth:`ExportOptions.check`: what one option needs beside it may come
        from the environment or a profile. No pydantic validator may compare two options, for the same reason.
        """
        return None


class Format(StrEnum):
    """How an export is packed."""

    OVF = "ovf"
    OVA = "ova"


class TransportChoice(StrEnum):
    """How the changed blocks of a disk are read; see :class:`hyperexport.model.transport.Transport`."""

    AUTO = "auto"
    LEASE = "lease"
    DATASTORE = "datastore"
    NBDKIT = "nbdkit"


class NbdkitPlugin(StrEnum):
    """The plugins of nbdkit that read vSphere's disks."""

    NONE = "none"
    VDDK = "vddk"
    NFC = "nfc"


class VerifyMode(StrEnum):
    """How much of what was stored is read back."""

    OFF = "off"
    ON = "on"
    DEEP = "deep"


def read_verify(value: object) -> object:
    """Take yes and no for a mode, too."""
    words = {"true": VerifyMode.ON, "false": VerifyMode.OFF, "yes": VerifyMode.ON, "no": VerifyMode.OFF}
    if isinstance(value, bool):
        return VerifyMode.ON if value else VerifyMode.OFF
    return words.get(value.lower(), value) if isinstance(value, str) else value
