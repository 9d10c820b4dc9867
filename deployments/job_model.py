"""What the jobs API takes and answers. A job's fields are made from the options model: none is written down here."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model

from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.parameters import checked_parameters
from hyperexport.errors import UsageError
from hyperexport.options.precedence import leaves

_OTHER_NAMES: Final = {"output": "output_path", "bandwidth_limit": "bandwidth_limit_mbps"}
"""As the jobs endpoint of the Go tool, which people come from, calls them."""


class JobBase(BaseModel):
    """One VM to export. Every option of the command line is a field; what is not given comes from the server."""

    model_config = ConfigDict(extra="forbid")

    vm_path: str = Field(
        min_length=1,
        validation_alias=AliasChoices("vm_path", "vm"),
        description="The VM's name or its whole inventory path, exactly.",
        examples=["/Datacenter/vm/MyVM"],
    )
    vsphere_block: str | None = Field(
        default=None, description="The saved block with the server and the login; else the server's environment."
    )
    profile: str | None = Field(
        default=None, description="The saved profile whose options hold where the job and the environment say nothing."
    )

    def parameters(self, allowed: AllowedRoots) -> dict[str, Any]:
        """Make them the parameters of the flow export-vm. Asks Prefect for the profile.

        Args:
            allowed: Where the job may write.

        Raises:
            UsageError: Options contradict each other, the destination is not allowed, there is no such profile, or the
                mails that are asked for could not be sent.
        """
        keys = {leaf.key for leaf in leaves()}
        # Programs write null for what they leave out, and nothing else is meant by it.
        given = {name: value for name in self.model_fields_set & keys if (value := getattr(self, name)) is not None}
        options = checked_parameters(given, allowed, profile=self.profile, vsphere_block=self.vsphere_block)
        return {"vm": self.vm_path, **options}


def _job_model() -> type[JobBase]:
    fields: dict[str, Any] = {}
    for leaf in leaves():
        other = _OTHER_NAMES.get(leaf.key)
        described = Field(
            default=leaf.field.default,
            description=leaf.field.description,
            examples=leaf.field.examples,
            validation_alias=AliasChoices(other, leaf.key) if other else leaf.key,
        )
        fields[leaf.key] = (leaf.field.rebuild_annotation(), described)
    return create_model("Job", __base__=JobBase, __doc__=JobBase.__doc__, **fields)


if TYPE_CHECKING:
    Job = JobBase
else:
    Job = _job_model()


class Jobs(BaseModel):
    """Several jobs at once."""

    model_config = ConfigDict(extra="forbid")

    jobs: list[Job]


class Accepted(BaseModel):
    """What became of the jobs that were submitted."""

    job_ids: list[UUID] = Field(description="The ids of those accepted, in the order given.")
    accepted: int
    rejected: int
    errors: list[str] = Field(description="Why the others were not, each with its position.")
    timestamp: datetime


class JobProgress(BaseModel):
    """How far one file is."""

    percent: float
    description: str


class JobStatus(BaseModel):
    """The state of a job."""

    id: UUID
    vm: str
    state: str = Field(description="As Prefect calls it: Scheduled, Pending, Running, Completed, Failed, Cancelled...")
    finished: bool
    submitted: datetime | None
    started: datetime | None
    ended: datetime | None
    error: str | None = Field(description="Why it failed, in words.")


class JobDetails(JobStatus):
    """How a job stands, and what it has come to."""

    progress: list[JobProgress]
    summary: str | None = Field(description="The run's closing page, as Markdown.")


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobStatus]


class JobIds(BaseModel):
    """Jobs, by their ids."""

    job_ids: list[UUID]


class Cancelled(BaseModel):
    """What became of the jobs that were to be cancelled."""

    cancelling: list[UUID]
    errors: list[str]


def read_jobs(document: Any, allowed: AllowedRoots) -> tuple[list[dict[str, Any]], list[str]]:
    """Read one job, an array of them, or ``{"jobs": [...]}``.

    Args:
        document: The JSON that was sent.
        allowed: Where jobs may write.

    Returns:
        The flow's parameters for each job that makes sense, and why the others do not.
    """
    holder = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    several: Any = holder.get("jobs", document)
    items: list[Any] = cast("list[Any]", several) if isinstance(several, list) else [several]
    jobs: list[dict[str, Any]] = []
    errors: list[str] = []
    for position, item in enumerate(items):
        try:
            jobs.append(Job.model_validate(item).parameters(allowed))
        except ValidationError as error:
            errors.append(f"job {position}: {_explain(error)}")
        except UsageError as error:
            errors.append(f"job {position}: {error}")
    return jobs, errors


def _explain(error: ValidationError) -> str:
    """Say what is wrong, naming the field, and never repeating the value: it may be a password in the wrong place."""
    parts: list[str] = []
    for detail in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            parts.append(f"there is no option {name}")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            parts.append(f"{name}: {message}" if name else message)
    return "; ".join(parts)
