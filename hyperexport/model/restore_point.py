"""How a person names the one export that is read back: by its id, or by its VM and a time."""

from datetime import datetime

from pydantic import Field, field_validator, model_validator

from hyperexport.errors import UsageError
from hyperexport.model.vm import Value


class RestorePoint(Value):
    """The name of one export. Exactly one of ``export`` and ``vm`` is given."""

    export: str | None = Field(default=None, description="Its short id, id or path, as hyperexport list prints them.")
    vm: str | None = Field(default=None, description="The VM's name, path or instance uuid: its newest good export.")
    at: datetime | None = Field(default=None, description="With vm: the newest good one begun by then.")

    @field_validator("at")
    @classmethod
    def _with_time_zone(cls, value: datetime | None) -> datetime | None:
        return value if value is None or value.tzinfo else value.astimezone()

    @model_validator(mode="after")
    def _one_name(self) -> "RestorePoint":
        if bool(self.export) == bool(self.vm):
            raise UsageError(
                "one export must be named: by its id, or by --vm",
                fix="See hyperexport list for both",
            )
        if self.export and self.at:
            raise UsageError("an export id already names a time", fix="Leave out --at, or name the VM with --vm")
        return self


def parse_time(text: str) -> datetime:
    """Read a date with a time of day, such as ``2026-11-23T18:00`` (this machine's time zone) or ``...T18:00Z``.

    Raises:
        UsageError: It is not one. A date alone is refused: it does not say which end of the day it means.
    """
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        time = None
    if time is None or ":" not in text:
        raise UsageError(
            f"--at: {text!r} is not a date and time", fix="Write it as 2026-11-23T18:00, or 2026-11-23T18:00Z for UTC"
        )
    return time if time.tzinfo else time.astimezone()
