"""Loading a saved block: proved against its fields before anything uses it, with errors that people understand.

A block's document in Prefect may have been edited, or written by another version. Prefect keeps fields that the block
does not have without a word, and raises a bare RuntimeError for a value that does not fit.
"""

from typing import TypeVar, cast

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from hyperexport.errors import UsageError
from hyperexport.prefect_errors import translated

AnyBlock = TypeVar("AnyBlock", bound=Block)

_FIX = "Correct it in the Prefect UI under Blocks, or save it again"
_PREFECTS_OWN = {"block_type_slug"}


def load_block(block_class: type[AnyBlock], name: str, *, what: str, missing: UsageError) -> AnyBlock:
    """Load a saved block.

    Args:
        block_class: Its class; Block itself for a name with its type, as ``slack-webhook/NAME``.
        name: Its name.
        what: What it is called in an error: ``profile nightly``.
        missing: What to raise where there is none of this name.

    Raises:
        UsageError: There is none, or a field of it is missing, unknown or of a wrong value; the message names each.
        PrefectFailed, ServerUnreachable: Prefect does not hand it out.
    """
    if block_class is Block and "/" not in name:
        raise missing
    with translated(f"loading {what}"):
        try:
            return cast("AnyBlock", block_class.load(name))
        except ValueError as error:
            if isinstance(error.__cause__, ObjectNotFound):
                raise missing from error
            raise
        except RuntimeError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            raise UsageError(f"{what}: {wrong_fields(error.__cause__)}", fix=_FIX) from None
        except (LookupError, TypeError) as error:  # of another version, or a type that no package here has
            raise UsageError(f"{what} cannot be used here: {type(error).__name__}: {error}", fix=_FIX) from error


def wrong_fields(error: ValidationError) -> str:
    """Say which fields of a block are wrong and how. Their values stay unsaid: they may be secrets."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in found)


def refuse_unknown_fields(block: Block, what: str) -> None:
    """Refuse a block with fields that its class does not have: a value set there would be ignored.

    Args:
        block: A block of ours; those of other packages may keep what they like.
        what: What it is called in an error: ``profile nightly``.

    Raises:
        UsageError: It has some; the message names each.
    """
    unknown = sorted((block.model_extra or {}).keys() - _PREFECTS_OWN)
    if unknown:
        fields = ", ".join(type(block).model_fields)
        raise UsageError(f"{what}: there is no field {', '.join(unknown)}; its fields are {fields}", fix=_FIX)
