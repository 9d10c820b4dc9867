"""``hyperexport``: the way in and the way out.

Understands the words, has them done, and turns every failure into one line on standard error and an exit code. Imports
nothing of weight before the signals are in hand: an interruption during the imports ends in a line, too.
"""

import sys
from collections.abc import Sequence

from hyperexport.base.garbage import spare_imports
from hyperexport.cli.interrupts import ignore_interruptions, interrupt_only_once


def main() -> None:
    """Run the command line of this process, and exit."""
    interrupt_only_once()
    spare_imports()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the first modules were imported
        print("hyperexport: interrupted [interrupted]", file=sys.stderr)
        code = 130
    ignore_interruptions()
    if outage := sys.modules.get("hyperexport.workarounds.server_outage"):  # only where Prefect was imported
        outage.exit_if_unreachable(code)
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Run one command line.

    Args:
        words: Without the program's name.

    Returns:
        The exit code.
    """
    if list(words) == ["--version"]:  # what a package manager asks, and a shell's prompt
        import hyperexport

        print(hyperexport.__version__)
        return 0
    from hyperexport.base.json_logs import json_logs_wanted
    from hyperexport.cli.arguments import parse
    from hyperexport.cli.command import perform
    from hyperexport.cli.failures import Failure
    from hyperexport.cli.output import Output, OutputFormat, showing_logs

    output = None
    try:
        command = parse(words)
        if command is None:
            return 0
        output = Output(command.output_format, json_logs=json_logs_wanted())
        with showing_logs(output, debug=command.debug):
            return perform(command, output)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last place: a person gets a line, not a trace
        failure, output = (
            Failure(error),
            output or Output(OutputFormat.JSON if "--json" in words else OutputFormat.PRETTY),
        )
        failure.report(debug="--debug" in words)
        output.finish([{"vm": None, "code": failure.code, "message": failure.message}])
        return failure.exit_code


if __name__ == "__main__":
    main()
