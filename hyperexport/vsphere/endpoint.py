"""Where a vSphere server is and who we are to it, from arguments, a block, or govc's environment.

A plain value: it opens nothing and imports no pyVmomi. The password never shows in its text.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

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
_FILES: Final = frozenset({"GOVC_USERNAME", "GOVC_PASSWORD"})
"""Variables that may hold the path of a file with the value."""
_HOST: Final = re.compile(r"[\w-][\w.-]*")
_SCHEME: Final = re.compile(r"(\w+)://", re.ASCII)
_SDK: Final = re.compile(r"([^/?#]*@)?(\[[^]/]*\]|[\w.-]+)(:\d+)?/sdk(?=[/?#@]|$)")
_KNOWN_HOSTS: Final = "GOVC_TLS_KNOWN_HOSTS"


class VSphereEndpoint(Value):
    """A vCenter or ESXi server, the user, and what its certificate has to prove."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    url: str = Field(description="A host, host:port, or the whole https://host/sdk; user:password@ is split out.")
    username: str = Field(min_length=1)
    password: SecretStr
    ca_file: str | Path | None = Field(
        default=None,
        description="PEM file of the CAs that may sign its certificate; several joined by the path separator.",
    )
    ca_pem: str | None = Field(default=None, description="The same as text.")
    thumbprint: str | None = Field(default=None, description="SHA-256 of the server's certificate, in place of a CA.")
    known_host: str | None = Field(default=None, description="The thumbprint that govc noted for this very host.")
    insecure: bool = Field(default=False, description="Accept any certificate. For test environments only.")
    timeout: float = Field(default=60.0, gt=0, le=3600, description="Seconds to connect, and to wait for an answer.")

    @model_validator(mode="before")
    @classmethod
    def _split_url(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("url"), str):  # pyright: ignore[reportUnknownMemberType]
            return data  # pyright: ignore[reportUnknownVariableType]
        fields: dict[str, Any] = dict(data)  # pyright: ignore[reportUnknownArgumentType]
        parts = read_address(fields["url"])
        if parts.username is not None and not fields.get("username"):
            fields["username"] = parts.username
        if parts.password is not None and not fields.get("password"):
            fields["password"] = parts.password
        host = f"[{parts.host}]" if ":" in parts.host else parts.host
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
                if name in _FILES:
                    fields[field] = _read_as_govc(name, variables[name])
        if "url" not in fields:
            raise UsageError(
                "no vSphere server is named",
                fix="Set GOVC_URL (or HYPEREXPORT_VSPHERE_URL) to its address, or name a block with --vsphere-block",
            )
        try:
            if variables.get(_KNOWN_HOSTS) and "thumbprint" not in fields:
                fields["known_host"] = _known_host(variables[_KNOWN_HOSTS], read_address(fields["url"]))
            return cls(**fields)
        except ValidationError as error:
            raise _usage_error(error, named) from None
        except ValueError as error:
            raise UsageError(f"{named['url']}: {error}") from None


class Address(NamedTuple):
    """An address taken apart. Its text shows no password."""

    host: str
    port: int | None
    path: str
    """As it was written, often empty."""
    username: str | None
    password: SecretStr | None


def read_address(url: str) -> Address:
    """Read an address as govc does: https and nothing else unless a scheme is there.

    What stands before the last ``@`` is the user and, after its first colon, the password, whatever signs they hold:
    govc refuses an unescaped ``#``, ``?`` or ``/`` there. An ``@`` belongs to the path only where there could be no
    user: after ``/sdk``, or where the user's name would hold a slash. Nothing of the address is in an error.

    Raises:
        ValueError: It names no host, another scheme, or an invalid port.
    """
    text = url.strip()
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() != "https":
        raise ValueError("the address must begin with https:// (a password would travel in the clear)")
    text = text[scheme.end() :] if scheme else text
    end = len(text)
    if _SDK.match(text) or "/" in text.rpartition("@")[0].partition(":")[0]:
        end = text.index("/")
    at = text.rfind("@", 0, end)
    user, colon, password = text[: max(at, 0)].partition(":")
    place, slash, path = re.split("[?#]", text[at + 1 :], maxsplit=1)[0].partition("/")
    host, port = _host_and_port(place)
    return Address(
        host=host,
        port=port,
        path=slash + path,
        username=_unescaped(user) if at >= 0 else None,
        password=SecretStr(_unescaped(password)) if colon else None,
    )


def _host_and_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        colon, port = (rest[:1], rest[1:]) if closed else ("[", "")
    elif not _is_address(text):  # an IPv6 address without brackets has no port
        host, colon, port = text.rpartition(":") if ":" in text else (text, "", "")
    if not host or not _is_host(host) or colon not in {"", ":"}:
        raise ValueError("the address names no host")
    if not port:
        return host.lower(), None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError("the port is not a number from 1 to 65535")
    return host.lower(), int(port)


def _unescaped(text: str) -> str:
    """The text with its escapes read, where each ``%`` begins one; else the ``%`` are meant as they stand."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return text


def _is_host(name: str) -> bool:
    """Whether it could be a host's name, in any script, or an address."""
    return _is_address(name) if ":" in name else _HOST.fullmatch(name) is not None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    _, zoned, zone = name.partition("%")  # ipaddress takes any text for an IPv6 zone; RFC 6874: unreserved characters
    return not zoned or re.fullmatch(r"[A-Za-z0-9._~-]+", zone) is not None


def _read_as_govc(name: str, value: str) -> str:
    """What a variable of govc's for a user or a password holds: a file's text where it is the path of a file.

    Raises:
        UsageError: There is such a file, and it must not or cannot be read.
    """
    try:
        if not Path(value).is_file():
            return value
        return Path(value).read_text(encoding="utf-8").strip()
    except PermissionError:
        raise UsageError(f"{name} is the path of a file that must not be read", fix="Check its permissions") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is the path of a file that is not text", fix="Save it as UTF-8 text") from None
    except (OSError, ValueError):
        return value  # too long for a path, or a NUL in it


def _known_host(files: str, url: Address) -> str | None:
    """Find the thumbprint that govc wrote for this host and port; each line is ``host:port thumbprint``."""
    wanted = f"{url.host}:{url.port or 443}"
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
