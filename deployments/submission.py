"""What every job of the jobs API shares: how its options are checked, and what names an export of a store."""

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from hyperexport.blocks.export_profile import load_profile
from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.parameters import kept_parameters
from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.tasks.notifiers import open_notifiers


def checked_parameters(
    given: dict[str, Any], allowed: AllowedRoots, *, profile: str | None, vsphere_block: str | None
) -> dict[str, Any]:
    """Check a job's options as its run would, and make them parameters of its flow. Asks Prefect for the profile.

    Args:
        given: Options by their keys.
        allowed: Where the job may read and write.
        profile: The name of a saved profile.
        vsphere_block: The name of a saved block.

    Raises:
        UsageError: Options contradict each other, a place is not allowed, there is no such profile, or the mails that
            are asked for could not be sent.
    """
    options = ExportOptions.from_keys(given)
    allowed.check(options)
    saved = load_profile(profile) if profile is not None else None
    open_notifiers(resolve(options, profile=saved.get_options() if saved else None).options.email)
    return {**kept_parameters(options, saved), **({"vsphere": vsphere_block} if vsphere_block else {})}


class StoredExportJob(BaseModel, ABC):
    """A job about exports that are in a store."""

    model_config = ConfigDict(extra="forbid")

    export: str | None = Field(default=None, description="The export's id, as hyperexport list shows it.")
    vm_path: str | None = Field(
        default=None,
        validation_alias=AliasChoices("vm_path", "vm"),
        description="In place of the id: the VM's name or inventory path; its newest good export.",
    )
    at: datetime | None = Field(default=None, description="With vm_path: the newest good export begun by then.")
    options: dict[str, Any] = Field(default={}, description="Where the exports are, and mails; options by their names.")
    vsphere_block: str | None = Field(
        default=None, description="The saved block with the server and the login; else the server's environment."
    )
    profile: str | None = Field(default=None, description="The saved profile whose options hold where this does not.")

    @abstractmethod
    def parameters(self, allowed: AllowedRoots) -> dict[str, Any]:
        """Make it the parameters of its flow.

        Raises:
            UsageError: The flow would refuse them, or :func:`checked_parameters` does.
        """

    def _checked_options(self, allowed: AllowedRoots) -> dict[str, Any]:
        return checked_parameters(self.options, allowed, profile=self.profile, vsphere_block=self.vsphere_block)


def read_stored_job(job: StoredExportJob, allowed: AllowedRoots) -> tuple[dict[str, Any] | None, list[str]]:
    """The parameters of the job's flow, or why the request is invalid."""
    try:
        return job.parameters(allowed), []
    except UsageError as error:
        return None, [str(error)]
