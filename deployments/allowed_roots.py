"""Where a job of the jobs API may write: what its sender may name as a destination, and which S3 server it may name.

The service often runs as a user who may write almost anywhere, and holds credentials; a caller of its API must not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from hyperexport.base.secrets import email_password
from hyperexport.errors import UsageError
from hyperexport.options.precedence import ExportOptions, resolve

_MAIL_SERVER: Final = ("email_smtp_host", "email_smtp_port", "email_tls", "email_username")


@dataclass(frozen=True)
class AllowedRoots:
    """The folders and S3 prefixes below which jobs may write.

    Args:
        roots: Folders, and prefixes as ``s3://bucket/prefix``.
        s3_endpoint: The one S3 server that a job may name: the service's own. Its credentials go nowhere else.
        holds_mail_password: Whether the service's environment has a mail password.
        names_mail_server: Whether it says for which mail server; then the password goes to no other.
    """

    roots: tuple[str, ...]
    s3_endpoint: str | None = None
    holds_mail_password: bool = False
    names_mail_server: bool = False

    @classmethod
    def of_service(cls, roots: tuple[str, ...] = ()) -> Self:
        """Allow what was given, or else the stores of the service's own environment.

        Raises:
            UsageError: The environment's options are wrong.
        """
        options = resolve().options
        destination = options.destination
        own = (str(destination.output), *([destination.upload] if destination.upload else []))
        return cls(
            roots or own,
            destination.s3_endpoint,
            holds_mail_password=email_password() is not None,
            names_mail_server=options.email.smtp_host is not None,
        )

    def check(self, options: ExportOptions) -> None:
        """Check the destination that a job gives itself. One from the service's environment or a profile needs none.

        Raises:
            UsageError: The job must not write there.
        """
        given = options.given_keys()
        output, upload, endpoint = given.get("output"), given.get("upload"), given.get("s3_endpoint")
        if output is not None and not self._allows_folder(Path(str(output))):
            raise self._refused(f"output_path {output}")
        if upload is not None and not self._allows_prefix(str(upload)):
            raise self._refused(f"upload {upload}")
        named = [key for key in _MAIL_SERVER if key in given]
        if named and self.holds_mail_password and not self.names_mail_server:
            raise UsageError(
                f"{', '.join(named)}: this service holds a mail password and does not say for which server",
                fix="Set HYPEREXPORT_SMTP_HOST where hyperexport serve runs, or name a block with email_credentials",
            )
        if endpoint is not None and endpoint != self.s3_endpoint:
            raise UsageError(
                f"s3_endpoint {endpoint} is not the S3 server of this service, whose credentials go nowhere else",
                fix="Leave s3_endpoint out, or set HYPEREXPORT_S3_ENDPOINT where hyperexport serve runs",
            )

    def _allows_folder(self, folder: Path) -> bool:
        """Whether it lies below a root once links and ``..`` are resolved."""
        try:
            real = folder.expanduser().resolve()
            folders = [Path(root).expanduser().resolve() for root in self.roots if not root.startswith("s3://")]
        except (OSError, RuntimeError, ValueError):
            return False
        return any(real.is_relative_to(root) for root in folders)

    def _allows_prefix(self, prefix: str) -> bool:
        wanted = prefix.rstrip("/") + "/"
        return any(wanted.startswith(root.rstrip("/") + "/") for root in self.roots if root.startswith("s3://"))

    def _refused(self, what: str) -> UsageError:
        return UsageError(
            f"{what} is outside of where this service lets jobs write: {', '.join(self.roots)}",
            fix="Choose a destination there, or start hyperexport serve with --api-output-root",
        )
