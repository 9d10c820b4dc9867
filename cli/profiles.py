"""Saved profiles: saved from flags, listed, shown, deleted.

They are Prefect blocks where a Prefect API is in use, and files of this user where none is.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from hyperexport.cli.command import Command
from hyperexport.cli.execution import load_profile, options_of_profile, profile_store, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import Output, OutputFormat, as_flag, key_value, say
from hyperexport.errors import UsageError
from hyperexport.options.precedence import resolve

if TYPE_CHECKING:
    from rich.console import Console

    from hyperexport.blocks import ExportProfile
    from hyperexport.profiles import Profile


@dataclass(frozen=True, kw_only=True)
class SaveProfile(Command):
    """Save the options under a name, and do nothing else."""

    name: str

    def run(self, output: Output) -> list[Failure]:
        """Save the options that were given; with ``--profile``, over what that one sets."""
        _answer(output, _save(self, self.name), done="saved")
        return []


class ListProfiles(Command):
    """List the profiles."""

    def run(self, output: Output) -> list[Failure]:
        """Show every profile; those that cannot be read are said after the others."""
        output.nothing("profiles")
        _list(profile_store(self), output)
        return []


@dataclass(frozen=True, kw_only=True)
class _OneProfile(Command):
    name: str

    @abstractmethod
    def run(self, output: Output) -> list[Failure]: ...


class ShowProfile(_OneProfile):
    """Show what a profile sets."""

    def run(self, output: Output) -> list[Failure]:
        """Show it; what is not valid any more is shown as well, and then said."""
        output.nothing("profiles")
        profile = load_profile(self, self.name)
        _answer(output, profile)
        profile.get_options()
        return []


class DeleteProfile(_OneProfile):
    """Delete a profile."""

    def run(self, output: Output) -> list[Failure]:
        """Delete it, also a damaged one."""
        output.nothing("profiles")
        profile = self._before_it_goes()
        profile_store(self).delete_profile(self.name)
        _answer(output, profile, done="deleted")
        return []

    def _before_it_goes(self) -> "Profile | ExportProfile":
        """The profile that is about to be deleted; of a damaged one only the name."""
        from hyperexport import profiles

        try:
            return load_profile(self, self.name)
        except UsageError:
            name = profiles.profile_name(self.name)
            if name not in profile_store(self).saved_names():
                raise
            return profiles.Profile(name=name, options={})


def save_given(command: Command, name: str | None, output: Output) -> None:
    """Save the options of another command under a name, if one is given, and say so to people."""
    if name is not None:
        saved = _save(command, name)
        if output.output_format is OutputFormat.PRETTY:
            output.draw(lambda console: show_profile(console, name, saved.options, "saved"))


def _save(command: Command, name: str) -> "Profile | ExportProfile":
    base = options_of_profile(command) if command.profile else None
    _check_mails(command, {**(base or {}), **command.options.given_keys()})
    return profile_store(command).save_profile(name, command.options, base=base)


def _check_mails(command: Command, keys: Mapping[str, object]) -> None:
    """Refuse a profile that asks for mails that could not be sent, with what this environment adds to it.

    One that has ``email_notify`` and nothing else of mails leaves the rest to the environment of the run.

    Raises:
        UsageError: They could not; the message names the option.
    """
    describes = any(key.startswith(("email_to", "email_from", "email_smtp", "email_credentials")) for key in keys)
    if not (keys.get("email_notify") and describes) and not keys.get("notify_webhook"):
        return
    email = resolve(profile=keys).options.email
    if uses_prefect(command):
        from hyperexport.tasks.notifiers import open_notifiers

        open_notifiers(email, password_follows=True)
    elif email.notify and not email.credentials:  # a block is looked up where a Prefect server is
        from hyperexport.notify import open_mailbox

        open_mailbox(email, password_follows=True)


def _list(kept: ModuleType, output: Output) -> None:
    names = kept.saved_names()
    if not names and output.output_format is OutputFormat.PRETTY:
        output.say("no profiles")
    damaged: list[UsageError] = []
    for name in names:
        try:
            _answer(output, kept.load_profile(name))
        except UsageError as error:
            damaged.append(error)
    if damaged:
        raise UsageError("; ".join(error.what for error in damaged), fix=damaged[0].fix)


def _answer(output: Output, profile: "Profile | ExportProfile", done: str = "") -> None:
    output.answer(
        "profiles",
        pretty=lambda console: show_profile(console, profile.name, profile.options, done),
        quiet=profile_lines(profile.name, profile.options),
        document={"name": profile.name, "saved_with": profile.saved_with, "options": profile.options},
    )


def show_profile(console: "Console", name: str, options: Mapping[str, object], done: str = "") -> None:
    """Show what a profile sets, as it would be typed."""
    flags = " ".join(f"--{key.replace('_', '-')}={as_flag(value)}" for key, value in options.items())
    say(console, f"{done} {name}: {flags}".strip())


def profile_lines(name: str, options: Mapping[str, object]) -> list[str]:
    """A saved profile, and what it sets."""
    return [key_value("profile", name), *(key_value(key, as_flag(value)) for key, value in options.items())]
