"""Saved profiles at the terminal: saved from flags, listed, shown, deleted.

They are Prefect blocks where a Prefect API is in use, and files of this user where none is.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from hyperexport.cli import quiet, tables
from hyperexport.cli.output import Output
from hyperexport.cli.request import Face, Mode, Request
from hyperexport.deployments.orchestrator import find_place, prefect_has_profile, use
from hyperexport.errors import UsageError

if TYPE_CHECKING:
    from hyperexport.blocks import ExportProfile
    from hyperexport.profiles import Profile


def _kept_in(request: Request) -> ModuleType:
    """The module that keeps profiles: both have the same functions."""
    place = find_place(no_prefect=request.no_prefect)
    if place.url is None:
        from hyperexport import profiles

        return profiles
    use(place)
    from hyperexport.blocks import export_profile

    return export_profile


def options_of_profile(request: Request) -> dict[str, object]:
    """What the profile that the request names sets, by key.

    Raises:
        UsageError: There is none of this name, or it makes no sense any more.
    """
    return _load(request).get_options()


def _load(request: Request) -> "Profile | ExportProfile":
    from hyperexport import profiles

    name = request.profile or ""
    kept = _kept_in(request)
    if kept is profiles and not profiles.has_file(name) and prefect_has_profile(profiles.profile_name(name)):
        raise UsageError(
            f"there is no profile {name} in {profiles.folder()}, but Prefect has one of this name",
            fix="Leave --no-prefect out or start hyperexport serve to use it, or save it here with --save-profile",
        )
    return kept.load_profile(name)


def save(request: Request, output: Output) -> None:
    """Save the options that were given; with ``--profile``, over what that one sets."""
    base = options_of_profile(request) if request.profile else None
    profile = _kept_in(request).save_profile(request.save_profile or "", request.options, base=base)
    if request.mode is Mode.SAVE_PROFILE:
        _answer(output, profile, done="saved")


def mind(request: Request, output: Output) -> None:
    """List the profiles, or show or delete one."""
    output.nothing("profiles")
    if request.mode is Mode.LIST_PROFILES:
        _list(_kept_in(request), output)
    elif request.mode is Mode.DELETE_PROFILE:
        profile = _before_it_goes(request)
        _kept_in(request).delete_profile(request.profile or "")
        _answer(output, profile, done="deleted")
    else:
        profile = _load(request)
        _answer(output, profile)
        profile.get_options()  # what is not valid any more is shown all the same, and then said


def _list(kept: ModuleType, output: Output) -> None:
    """Show every profile; those that cannot be read are said after the others."""
    names = kept.saved_names()
    if not names and output.face is Face.PRETTY:
        output.say("no profiles")
    damaged: list[UsageError] = []
    for name in names:
        try:
            _answer(output, kept.load_profile(name))
        except UsageError as error:
            damaged.append(error)
    if damaged:
        raise UsageError("; ".join(error.what for error in damaged), fix=damaged[0].fix)


def _before_it_goes(request: Request) -> "Profile | ExportProfile":
    """The profile that is about to be deleted; of a damaged one only the name."""
    from hyperexport import profiles

    try:
        return _load(request)
    except UsageError:
        name = profiles.profile_name(request.profile or "")
        if name not in _kept_in(request).saved_names():
            raise
        return profiles.Profile(name=name, options={})


def _answer(output: Output, profile: "Profile | ExportProfile", done: str = "") -> None:
    output.answer(
        "profiles",
        pretty=lambda console: tables.show_profile(console, profile.name, profile.options, done),
        quiet=quiet.profile_lines(profile.name, profile.options),
        document={"name": profile.name, "saved_with": profile.saved_with, "options": profile.options},
    )
