"""Saved profiles at the terminal: saved from flags, listed, shown, deleted. Whoever calls has a Prefect API ready."""

from typing import TYPE_CHECKING

from hyperexport.cli import quiet, tables
from hyperexport.cli.output import Output
from hyperexport.cli.request import Face, Mode, Request

if TYPE_CHECKING:
    from hyperexport.blocks import ExportProfile


def options_of_profile(name: str) -> dict[str, object]:
    """What a saved profile sets, by key.

    Raises:
        UsageError: There is none of this name, or it makes no sense any more.
    """
    from hyperexport.blocks.export_profile import load_profile

    return load_profile(name).get_options()


def save(request: Request, output: Output) -> None:
    """Save the options that were given; with ``--profile``, over what that one sets."""
    from hyperexport.blocks.export_profile import save_profile

    base = options_of_profile(request.profile) if request.profile else None
    profile = save_profile(request.save_profile or "", request.options, base=base)
    if request.mode is Mode.SAVE_PROFILE:
        _answer(output, profile, done="saved")


def mind(request: Request, output: Output) -> None:
    """List the profiles, or show or delete one."""
    from hyperexport.blocks.export_profile import delete_profile, load_profile, saved_profiles

    output.nothing("profiles")
    if request.mode is Mode.LIST_PROFILES:
        profiles = saved_profiles()
        if not profiles and output.face is Face.PRETTY:
            output.say("no profiles")
        for profile in profiles:
            _answer(output, profile)
        return
    profile = load_profile(request.profile or "")
    if request.mode is Mode.DELETE_PROFILE:
        delete_profile(request.profile or "")
        _answer(output, profile, done="deleted")
    else:
        _answer(output, profile)
        profile.get_options()  # what is not valid any more is shown all the same, and then said


def _answer(output: Output, profile: "ExportProfile", done: str = "") -> None:
    output.answer(
        "profiles",
        pretty=lambda console: tables.show_profile(console, profile.name, profile.options, done),
        quiet=quiet.profile_lines(profile.name, profile.options),
        document={"name": profile.name, "saved_with": profile.saved_with, "options": profile.options},
    )
