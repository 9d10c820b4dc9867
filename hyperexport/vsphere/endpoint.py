"""Where a vSphere server is and who we are to it, from arguments, a block, or govc's environment.

A plain value: it opens nothing and imports no pyVmomi. The password never shows in its text.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from hyperexport.errors import UsageError
from hyperexport.model.tls import Trust, normalise_thumbprint
from hyperexport.model.vm import Value

_VARIABLES: Final = {
    "url": ("HYPEREXPORT_VSPHERE_URL", "GOVC_URL"),
    "username": ("HYPEREXPORT_VSPHERE_USERNAME", "GOVC_USERNAME"),
    "password": ("HYPEREXPORT_VSPHERE_PASSWORD", "GOVC_PASSWORD"),
    "insecure": ("HYPEREXPORT_VSPHERE_INSECURE", "GOVC_INSECURE"),
    "ca_file": ("HYPEREXPORT_VSPHERE_CA_FILE", "GOVC_TLS_CA_CERTS"),
    "thumbprint": ("HYPEREXPORT_VSPHERE_THUMBPRINT",),
    "timeout": ("HYPEREXPORT_VSPHERE_TIMEOUT",),
}
_HOST: Final = re.compile(r"[\w-][\w.-]*")
_KNOWN_HOSTS: Final = "GOVC_TLS_KNOWN_HOSTS"


class VSphereEndpoint(Value):
    """A vCenter or ESXi server, the user, and what its certificate has to prove."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(description="A host, host:port, or the whole https://host/sdk; user:password@ is split out.")
    username: str = Field(min_length=1)
    password: SecretStr
    ca_file: str | Path | None = Field(
        default=None,
        description="PEM file of the CAs that vouch for it; several joined by the path separator.",
    )
    ca_pem: str | None = Field(default=None, description="The same as text.")
    thumbprint: str | None = Field(default=None, description="SHA-256 of the server's certificate, in place of a CA.")
    known_host: str | None = Field(default=None, description="The thumbprint that govc noted for this very host.")
    insecure: bool = Field(default=False, description="Take any certificate. For laboratories only.")
    timeout: float = Field(default=60.0, gt=0, le=3600, description="Seconds to connect, and to wait for an answer.")

    @model_validator(mode="before")
    @classmethod
    def _split_url(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("url"), str):  # pyright: ignore[reportUnknownMemberType]
            return data  # pyright: ignore[reportUnknownVariableType]
        fields: dict[str, Any] = dict(data)  # pyright: ignore[reportUnknownArgumentType]
        parts = _parse(fields["url"])
        if parts.username is not None and not fields.get("username"):
            fields["username"] = unquote(parts.username)
        if parts.password is not None and not fields.get("password"):
            fields["password"] = unquote(parts.password)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = f":{parts.port}" if parts.port not in (None, 443) else ""
        path = parts.path if parts.path.strip("/") else "/sdk"
        fields["url"] = f"https://{host}{port}{path.rstrip('/')}"
        return fields

    @field_validator("thumbprint")
    @classmethod
    def _only_sha256(cls, value: str | None) -> str | None:
        if value is None:
            return None
        digits = normalise_thumbprint(value)
        if len(digits) == 40:
            raise ValueError("this is a SHA-1 thumbprint, which can be forged; give the SHA-256 one (64 hex digits)")
        return digits

    @field_validator("known_host")
    @classmethod
    def _any_known(cls, value: str | None) -> str | None:
        return None if value is None else normalise_thumbprint(value)

    @property
    def host(self) -> str:
        """The host's name or address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The TCP port."""
        return urlsplit(self.url).port or 443

    @property
    def path(self) -> str:
        """The path of the SOAP service, usually ``/sdk``."""
        return urlsplit(self.url).path

    @property
    def address(self) -> str:
        """How people name the server: its host, with the port where it is not 443."""
        return urlsplit(self.url).netloc

    @property
    def trust(self) -> Trust:
        """What the server's certificate has to prove.

        Raises:
            UsageError: A CA file cannot be read.
        """
        if self.insecure:
            return Trust(insecure=True)
        if self.thumbprint or self.known_host:
            return Trust(thumbprint=self.thumbprint or self.known_host)
        return self.authorities

    @property
    def authorities(self) -> Trust:
        """The CAs alone, for the hosts behind the server, whose certificates a pin on the server says nothing of.

        Raises:
            UsageError: A CA file cannot be read.
        """
        texts = [_read_text(name, "the CA file") for name in str(self.ca_file or "").split(os.pathsep) if name]
        return Trust(ca_pem="\n".join([*texts, *([self.ca_pem] if self.ca_pem else [])]) or None)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "VSphereEndpoint":
        """Read ``HYPEREXPORT_VSPHERE_*`` and, variable by variable where one is not set, govc's ``GOVC_*``.

        Args:
            environ: The variables; those of this process when None.

        Raises:
            UsageError: A variable is missing or makes no sense; the message names it.
        """
        variables = os.environ if environ is None else environ
        fields: dict[str, Any] = {}
        named: dict[str, str] = {field: names[0] for field, names in _VARIABLES.items()}
        for field, names in _VARIABLES.items():
            name = next((name for name in names if variables.get(name)), None)
            if name:
                fields[field], named[field] = variables[name], name
        if "url" not in fields:
            raise UsageError(
                "no vSphere server is named",
                fix="Set GOVC_URL (or HYPEREXPORT_VSPHERE_URL) to its address, or name a block with --vsphere-block",
            )
        try:
            if variables.get(_KNOWN_HOSTS) and "thumbprint" not in fields:
                fields["known_host"] = _known_host(variables[_KNOWN_HOSTS], _parse(fields["url"]))
            return cls(**fields)
        except ValidationError as error:
            raise _usage_error(error, named) from None
        except ValueError as error:
            raise UsageError(f"{named['url']}: {error}") from None


def _parse(url: str) -> SplitResult:
    """Read an address as govc does: https and nothing else unless a scheme is there.

    Raises:
        ValueError: It names no host, another scheme, or a port that is none.
    """
    text = url.strip()
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if parts.scheme != "https":
        raise ValueError("the address must begin with https:// (a password would travel in the clear)")
    if not parts.hostname or not _is_host(parts.hostname):
        raise ValueError("the address names no host")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("the port is not a number from 1 to 65535") from None
    return parts


def _is_host(name: str) -> bool:
    """Whether it could be a host's name, in any script, or an address."""
    if ":" not in name:
        return _HOST.fullmatch(name) is not None
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _known_host(files: str, url: SplitResult) -> str | None:
    """Find the thumbprint that govc wrote for this host and port; each line is ``host:port thumbprint``."""
    wanted = f"{(url.hostname or '').lower()}:{url.port or 443}"
    for name in files.split(os.pathsep):
        if not Path(name).expanduser().exists():
            continue  # as govc: the file comes into being with the first host that is noted
        lines = _read_text(name, _KNOWN_HOSTS).splitlines()
        for line in lines:
            words = line.split()
            if len(words) == 2 and words[0].lower().replace("[", "").replace("]", "") == wanted:
                return words[1]
    return None


def _read_text(name: str, what: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{what} {name} cannot be read: {error}", fix="Check its path and permissions") from None


def _usage_error(error: ValidationError, named: Mapping[str, str]) -> UsageError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "url"
    name = named.get(field, _KNOWN_HOSTS if field == "known_host" else field)
    if first["type"] == "missing":
        return UsageError(f"{name} is not set", fix=f"Set it, or {' or '.join(_VARIABLES[field][1:])}")
    return UsageError(f"{name}: {first['msg'].removeprefix('Value error, ')}")
