"""Options kept under a name: what a profile is, and the files that keep profiles where no Prefect API is configured.

A profile keeps only what was explicitly set, by key: what it leaves open, the environment and the defaults fill in at
each run. Which VMs are exported is no part of it, and neither is a secret. Where a Prefect API is configured, profiles
are blocks there (``blocks/export_profile.py``), of the same content and under the same rules.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import Field, JsonValue, ValidationError

import hyperexport
from hyperexport.errors import UsageError
from hyperexport.model.manifest import is_sealed, sealed
from hyperexport.model.vm import Value
from hyperexport.options.form import YES_NO
from hyperexport.options.precedence import ExportOptions, Leaf, leaves, leaves_by_key


class Profile(Value):
    """Options that are saved under a name, in a file of this user."""

    name: str
    options: dict[str, JsonValue] = Field(description="What is set, by key: a flag without its dashes.")
    saved_with: str = Field(default="", description="The version of HyperExport that saved it.")
    seal: str | None = Field(default=None, description="Last in a file: the SHA-256 of every byte before this key.")

    def get_options(self) -> dict[str, object]:
        """What it sets, by key, held against the options that there are now.

        Raises:
            UsageError: An option of it is not known any more, or its value is out of today's bounds; each is named.
        """
        return valid_options(self.name, self.options, self.saved_with)


def flat(options: object) -> object:
    """Read what a profile sets, by key; the form in the Prefect UI has it in groups, as a flow's form has."""
    if not isinstance(options, Mapping):
        return options
    known = {(leaf.group, leaf.name): leaf for leaf in leaves()}
    found: dict[str, object] = {}
    for name, value in cast("Mapping[str, object]", options).items():
        if isinstance(value, Mapping):
            for field, one in cast("Mapping[str, object]", value).items():
                leaf = known.get((name, field))
                found[leaf.key if leaf else f"{name}.{field}"] = _read(leaf, one)
        else:
            found[name] = value
    return found


def _read(leaf: Leaf | None, value: object) -> object:
    """A value of the form, where yes and no stand for true and false."""
    switch = leaf is not None and bool in {leaf.field.annotation, *get_args(leaf.field.annotation)}
    return {words: truth for truth, words in YES_NO.items()}.get(str(value), value) if switch else value


def in_groups(options: Mapping[str, object]) -> dict[str, object]:
    """Write what a profile sets in the groups of the form; :func:`flat` reads it again."""
    known = leaves_by_key()
    found: dict[str, Any] = {}
    for key, value in options.items():
        group, dot, field = key.partition(".")
        if key in known:
            group, dot, field = known[key].group, ".", known[key].name
        if dot:
            found.setdefault(group, {})[field] = YES_NO[value] if isinstance(value, bool) else value
        else:
            found[key] = value
    return found


def set_explicitly(options: ExportOptions) -> dict[str, Any]:
    """What was explicitly set in these options, by key, as JSON values."""
    document = options.model_dump(mode="json")
    given = options.given_keys()
    return {leaf.key: document[leaf.group][leaf.name] for leaf in leaves() if leaf.key in given}


def valid_options(name: str, options: Mapping[str, object], saved_with: str) -> dict[str, object]:
    """What a profile sets, held against the options that there are now.

    Raises:
        UsageError: An option of it is not known any more, or its value is out of today's bounds; each is named.
    """
    try:
        return ExportOptions.from_keys(options).given_keys()
    except UsageError as error:
        raise UsageError(
            f"profile {name}, saved by HyperExport {saved_with}: {error.what}",
            fix="Save it again with --save-profile, or correct it where it is kept",
        ) from error


def profile_name(name: str) -> str:
    """Turn the name that a person gives into one that Prefect takes for a block, and that is a safe file name.

    Raises:
        UsageError: It cannot be turned into one.
    """
    # Prefect: a block document's name has lower-case letters, digits and dashes only.
    found = re.sub(r"[\s_]+", "-", name.strip()).lower()
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", found):
        raise UsageError(
            f"{name!r} cannot name a profile",
            fix="Use letters from a to z, digits and dashes; spaces and underscores become dashes",
        )
    return found


def folder() -> Path:
    """Where the files are: ``hyperexport/profiles`` in the user's configuration (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "hyperexport" / "profiles"


def has_file(name: str) -> bool:
    """Whether a file keeps a profile of this name."""
    return _path(name).is_file()


def load_profile(name: str) -> Profile:
    """Load a profile from its file.

    Raises:
        UsageError: There is none of this name, its file cannot be read as one, or its seal does not fit.
    """
    path = _path(name)
    try:
        data = path.read_bytes()
        profile = Profile.model_validate_json(data)
    except FileNotFoundError as error:
        raise _missing(name) from error
    except (OSError, ValidationError) as error:
        raise UsageError(f"profile {name}: {path} cannot be read as a profile", fix="Save it again") from error
    if profile.seal is not None and not is_sealed(data):
        raise UsageError(
            f"profile {name}: {path} was changed after it was saved, or is damaged",
            fix='Save it again with --save-profile. If you edited it, delete its line "seal"',
        )
    return profile.model_copy(update={"seal": None})


def save_profile(name: str, options: ExportOptions, *, base: Mapping[str, object] | None = None) -> Profile:
    """Save what was explicitly set, in place of a profile of the same name. The file is readable by its user alone.

    Args:
        name: As a person writes it.
        options: What was set.
        base: What else it sets, by key; the options win.

    Raises:
        UsageError: The name is none, or the file cannot be written.
    """
    kept = set_explicitly(ExportOptions.from_keys({**(base or {}), **options.given_keys()}))
    profile = Profile(name=profile_name(name), options=kept, saved_with=hyperexport.__version__)
    path = _path(name)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            document = profile.model_dump_json(indent=2, exclude={"seal"}).encode()
            file.write(sealed(document.removesuffix(b"\n}") + b",\n  "))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise UsageError(f"profile {name}: {path} cannot be written: {error.strerror or error}") from error
    return profile


def saved_names() -> list[str]:
    """The names of all profiles that a file keeps, in order, damaged ones too."""
    return sorted(path.stem for path in folder().glob("*.json"))


def delete_profile(name: str) -> None:
    """Delete the file of a profile, a damaged one too.

    Raises:
        UsageError: There is none of this name, or the file cannot be deleted.
    """
    path = _path(name)
    try:
        path.unlink()
    except FileNotFoundError as error:
        raise _missing(name) from error
    except OSError as error:
        raise UsageError(f"profile {name}: {path} cannot be deleted: {error.strerror or error}") from error


def _missing(name: str) -> UsageError:
    return UsageError(f"there is no profile {name}", fix="hyperexport --list-profiles lists them")


def _path(name: str) -> Path:
    return folder() / f"{profile_name(name)}.json"
