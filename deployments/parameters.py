"""What of the options becomes the parameters of a deployment, or of a run in another process."""

from pathlib import Path
from typing import Any

from hyperexport.blocks import ExportProfile
from hyperexport.blocks.export_profile import load_profile
from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.tasks.notifiers import open_notifiers


def kept_parameters(options: ExportOptions, profile: ExportProfile | None = None) -> dict[str, Any]:
    """Keep what was given, as JSON, the profile by its name, and the local store's folder as an absolute path.

    The rest is left to the environment and the profile as the process finds them that executes it. So is the folder,
    where one of these names it. Any other is made absolute: that process may have another
    working folder than this one, and a plain Prefect worker deletes its own after each run.

    Raises:
        UsageError: The options contradict each other, the environment or the profile; or the profile is invalid.
    """
    resolved = resolve(options, profile=profile.get_options() if profile else None)
    given = options.given_keys()
    if resolved.sources["output"] in ("given", "default"):
        given["output"] = Path.cwd() / resolved.options.destination.output
    kept = ExportOptions.from_keys(given).model_dump(mode="json", exclude_unset=True)
    return {"options": kept, **({"profile": profile.name} if profile else {})}


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
