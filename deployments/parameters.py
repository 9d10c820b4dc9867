"""What of the options becomes the parameters of a deployment, or of a run in another process."""

from pathlib import Path
from typing import Any

from hyperexport.blocks import ExportProfile
from hyperexport.options.precedence import ExportOptions, resolve


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
