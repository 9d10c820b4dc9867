"""``hyperexport completion``: a script that lets a shell complete commands and flags."""

from typing import Annotated, Literal

from cyclopts import Parameter

from hyperexport.cli.flags import CommandLine


def arguments(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL", help="The shell to write for.")],
) -> None:
    """Print a script that lets a shell complete commands and flags; see docs/completion.md."""
    from hyperexport.cli.arguments import build_app

    app = build_app()
    print(app.generate_completion(prog_name=app.name[0], shell=shell))


LINE = CommandLine(arguments)
