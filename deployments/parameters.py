"""What of the options becomes the parameters of a deployment, or of a run in another process."""

from pathlib import Path
from typing import Any

from hyperexport.options import ExportOptions, resolve


def kept_options(options: ExportOptions) -> dict[str, Any]:
    """Keep what was given, as JSON, and the local store's folder, as an absolute path.

    The rest is left to the environment of the process that executes it. Not the folder: that process may have another
    working folder than whoever asked, and a plain Prefect worker deletes its own after each run.
    """
    folder = Path.cwd() / resolve(options).options.destination.output
    fixed = ExportOptions.from_keys({**options.given_keys(), "output": folder})
    return fixed.model_dump(mode="json", exclude_unset=True)
