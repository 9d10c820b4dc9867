"""The password of the mail server, which is no option: it stays in this process.

An option becomes a flow's parameter, and parameters are stored and shown; a password must not be. So
``--email-password`` is kept here, and ``HYPEREXPORT_EMAIL_PASSWORD`` is read where it is needed. A run elsewhere takes
its password from a block.
"""

import os
from typing import Final

from pydantic import SecretStr

EMAIL_PASSWORD_VARIABLE: Final = "HYPEREXPORT_EMAIL_PASSWORD"  # noqa: S105 - the variable's name

# Of the process, because a flow that is called in it takes nothing but parameters, and these are stored.
_kept: dict[str, SecretStr] = {}


def keep_email_password(password: SecretStr) -> None:
    """Keep the password that the caller gave, for as long as this process runs; it beats the environment's."""
    _kept[EMAIL_PASSWORD_VARIABLE] = password


def is_email_password_given() -> bool:
    """Whether the caller of this process gave the password, rather than its environment."""
    return EMAIL_PASSWORD_VARIABLE in _kept


def email_password() -> SecretStr | None:
    """The password for ``--email-username``; None where neither the caller nor the environment has one."""
    found = os.environ.get(EMAIL_PASSWORD_VARIABLE)
    return _kept.get(EMAIL_PASSWORD_VARIABLE) or (SecretStr(found) if found else None)


LOGIN_IN_ADDRESS: Final = "the address must hold no user name or password"


def refuse_login(url: str | None) -> str | None:
    """Return an address that holds no login. A secret in it would be shown wherever the address is.

    Raises:
        ValueError: It does, or may: it is not repeated.
    """
    if url is not None and "@" in url:
        raise ValueError(LOGIN_IN_ADDRESS)
    return url
