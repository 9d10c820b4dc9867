"""How a server's certificate is checked: against CAs, against a pinned thumbprint, or not at all.

The SOAP session and the transfers from and to hosts use the same value, :class:`Trust`.
"""

import hashlib
import hmac
import re
import socket
import ssl
from datetime import UTC, datetime
from typing import Final, cast

from pydantic import Field, field_validator

from hyperexport.model.vm import Value

_ALGORITHMS: Final = {40: "sha1", 64: "sha256"}
_DATES: Final = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (x509_vfy.h)."""
_NOT_HEX: Final = re.compile(r"[^0-9a-f]")


def normalise_thumbprint(text: str) -> str:
    """Bring a thumbprint (with or without colons, spaces or an algorithm's name in front) to bare lower-case hex.

    Raises:
        ValueError: It is neither SHA-1 (40 digits) nor SHA-256 (64 digits).
    """
    digits = re.sub(r"[\s:]", "", re.sub(r"(?i)^\s*sha-?(1|256)\s*[:= ]", "", text)).lower()
    if len(digits) not in _ALGORITHMS or _NOT_HEX.search(digits):
        raise ValueError("a thumbprint is 64 hex digits (SHA-256), with or without colons")
    return digits


def show_thumbprint(digits: str) -> str:
    """Write a thumbprint as vSphere's client and openssl do: ``AB:CD:...``."""
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


def certificate_thumbprint(certificate: bytes | str, algorithm: str = "sha256") -> str:
    """The thumbprint of a certificate, given as DER bytes or PEM text, as bare lower-case hex."""
    der = ssl.PEM_cert_to_DER_cert(certificate) if isinstance(certificate, str) else certificate
    return hashlib.new(algorithm, der).hexdigest()


def certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Find the refusal of a certificate in an error, or in what an HTTP library has put around it.

    urllib3 keeps it in ``args`` or ``reason``, botocore in ``kwargs["error"]``; both raise from it.
    """
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, ssl.SSLCertVerificationError):
            return found
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            kwargs: object = getattr(found, "kwargs", None)
            inside = cast("dict[str, object]", kwargs).get("error") if isinstance(kwargs, dict) else None
            waiting += [*found.args, getattr(found, "reason", None), inside, found.__cause__, found.__context__]
    return None


def refusal_words(error: Exception) -> str:
    """Why OpenSSL refuses a certificate; where its dates are the reason, with this machine's time.

    Args:
        error: What the handshake raised, or an error of a library that has it inside.
    """
    found = certificate_error(error) or error
    words = str(getattr(found, "verify_message", "") or (found.args[-1] if found.args else found))
    if not clock_is_in_question(error):
        return words
    return f"{words}, according to this machine's clock, which says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def clock_is_in_question(error: Exception) -> bool:
    """Whether a certificate is refused for its dates, which a wrong clock of this machine explains as well."""
    found = certificate_error(error)
    return found is not None and getattr(found, "verify_code", None) in _DATES


class Trust(Value):
    """What a TLS peer has to prove. A thumbprint takes the place of the CAs; ``insecure`` asks for nothing."""

    thumbprint: str | None = Field(
        default=None, description="SHA-256, or SHA-1 as vSphere's sslThumbprint is, in hex, with or without colons."
    )
    ca_pem: str | None = Field(default=None, repr=False)
    insecure: bool = False

    @field_validator("thumbprint")
    @classmethod
    def _bare_hex(cls, value: str | None) -> str | None:
        return None if value is None else normalise_thumbprint(value)

    def ssl_context(self) -> ssl.SSLContext:
        """Make a client context that keeps to this; for http.client, urllib3 and whatever calls ``wrap_socket``.

        Raises:
            ssl.SSLError: The CAs' text holds no certificate.
        """
        if self.thumbprint:
            return _PinnedContext.for_thumbprint(self.thumbprint)
        context = _strict_about_ends(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        # Python 3.13 asks for extensions that the certificates of older vCenters do not have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            return _unverified(context)
        if self.ca_pem:
            context.load_verify_locations(cadata=self.ca_pem)
        else:
            context.load_default_certs()
        return context


class _PinnedObject(ssl.SSLObject):
    """TLS in memory, of a :class:`_PinnedContext`."""

    def do_handshake(self) -> None:
        super().do_handshake()
        cast("_PinnedContext", self.context).check(self.getpeercert(binary_form=True))


class _PinnedContext(ssl.SSLContext):
    """Checks the certificate's thumbprint right after the handshake, before a byte of ours is sent."""

    thumbprint: str
    sslobject_class = _PinnedObject

    @classmethod
    def for_thumbprint(cls, thumbprint: str) -> "_PinnedContext":
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        _unverified(_strict_about_ends(context))
        context.thumbprint = thumbprint
        return context

    def wrap_socket(self, *args: object, **kwargs: object) -> ssl.SSLSocket:
        # pyVmomi checks its own `thumbprint` only after the CA check has failed (SoapAdapter._Connect), which a
        # context without a CA check never does; so the pin lives here, where no caller can forget it.
        wrapped = super().wrap_socket(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        try:
            self.check(wrapped.getpeercert(binary_form=True))
        except ssl.SSLCertVerificationError:
            wrapped.close()
            raise
        return wrapped

    def check(self, certificate: bytes | None) -> None:
        """Raise unless the certificate is the pinned one."""
        shown = certificate_thumbprint(certificate or b"", _ALGORITHMS[len(self.thumbprint)])
        if not hmac.compare_digest(shown, self.thumbprint):
            raise ssl.SSLCertVerificationError(1, "the certificate's thumbprint is not the pinned one")


def _strict_about_ends(context: ssl.SSLContext) -> ssl.SSLContext:
    # Debian's Python 3.11.2 takes a connection that is cut without TLS's goodbye for one that ended.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def _unverified(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def presented_thumbprint(host: str, port: int, *, timeout: float) -> str | None:
    """The SHA-256 thumbprint of the certificate that a server shows, for an error message; None if it shows none.

    Nothing is sent, and the certificate is not checked.
    """
    context = _unverified(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    try:
        with (
            socket.create_connection((host, port), timeout=timeout) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            certificate = wrapped.getpeercert(binary_form=True)
    except OSError:
        return None
    return certificate_thumbprint(certificate) if certificate else None
