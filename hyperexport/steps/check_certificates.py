"""Which certificate a TLS server presents, whether it is trusted, and what to do if not. Nothing is sent to it."""

import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from hyperexport.model.tls import Trust, certificate_thumbprint, show_thumbprint
from hyperexport.results import Level, SetupFinding

SECONDS: Final = 10.0
_SOON: Final = timedelta(days=14)
_WRONG_NAME: Final = frozenset({62, 64})  # OpenSSL: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH


def check_certificate(
    what: str, host: str, port: int, trust: Trust, *, fix: str, seconds: float = SECONDS
) -> SetupFinding:
    """Connect, and see whether the certificate proves what it has to.

    Args:
        what: What is looked at, for the finding.
        host: The server's name or address.
        port: Its port.
        trust: What the certificate has to prove.
        fix: What to do where it doesn't; ``{thumbprint}`` stands for that of the certificate.
        seconds: How long to wait.
    """
    try:
        der = _presented(host, port, seconds)
    except OSError as error:
        words, mend = unreachable(error, host, port)
        return SetupFinding(what=what, level=Level.FAIL, words=words, fix=mend)
    thumbprint = show_thumbprint(certificate_thumbprint(der))
    shown = x509.load_der_x509_certificate(der)
    ends = f"it is valid until {shown.not_valid_after_utc:%Y-%m-%d}"
    refusal = _refusal(host, port, trust, seconds)
    if refusal is not None:
        reasons = _reasons(shown, der, host, port, seconds) or [refusal]
        words = f"it is not trusted: {'; '.join(reasons)} (SHA-256 {thumbprint})"
        return SetupFinding(what=what, level=Level.FAIL, words=words, fix=fix.format(thumbprint=thumbprint))
    if trust.insecure:
        return SetupFinding(
            what=what,
            level=Level.WARN,
            words=f"it is not verified, as requested: anyone on the network path can read the password ({thumbprint})",
            fix=fix.format(thumbprint=thumbprint),
        )
    if trust.thumbprint:
        return SetupFinding(what=what, level=Level.OK, words="it is the one whose thumbprint is known")
    if shown.not_valid_after_utc - datetime.now(UTC) < _SOON:
        return SetupFinding(what=what, level=Level.WARN, words=f"it is trusted, but {ends}", fix="Renew it before then")
    return SetupFinding(what=what, level=Level.OK, words=f"it is trusted, and {ends}")


def unreachable(error: OSError, host: str, port: int) -> tuple[str, str]:
    """Why nothing could be asked of a server, and what to do."""
    if isinstance(error, socket.gaierror):
        return f"the name {host} does not resolve here", "Add it to the DNS server that this machine uses"
    if isinstance(error, ssl.SSLError):
        return f"{host}:{port} does not speak TLS ({error.reason or error})", "Check the address and the port"
    reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return (
        f"{host}:{port} cannot be reached: {reason}",
        f"Open TCP port {port} from this machine to {host}, and check that it runs",
    )


def _presented(host: str, port: int, seconds: float) -> bytes:
    with (
        socket.create_connection((host, port), timeout=seconds) as plain,
        Trust(insecure=True).ssl_context().wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True) or b""


def _refusal(host: str, port: int, trust: Trust, seconds: float) -> str | None:
    """Why the certificate is refused, in OpenSSL's words; None where it is taken."""
    return _verified(trust.ssl_context(), host, port, seconds)[1]


def _verified(context: ssl.SSLContext, host: str, port: int, seconds: float) -> tuple[int, str | None]:
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return 0, None
    except ssl.SSLCertVerificationError as error:
        code = getattr(error, "verify_code", 0)
        return code, getattr(error, "verify_message", "") or str(error.args[-1])


def _reasons(shown: x509.Certificate, der: bytes, host: str, port: int, seconds: float) -> list[str]:
    """Everything that is wrong with it by itself, in words: OpenSSL tells only the first thing that it meets."""
    now = datetime.now(UTC)
    found: list[str] = []
    if now > shown.not_valid_after_utc:
        found.append(f"it expired on {shown.not_valid_after_utc:%Y-%m-%d}")
    if now < shown.not_valid_before_utc:
        found.append(f"it is valid only from {shown.not_valid_before_utc:%Y-%m-%d} on (is this machine's clock right?)")
    if shown.issuer == shown.subject:
        found.append("it is signed by itself, and by no trusted CA")
    # With the certificate as its own authority, only its name and its times are left to be refused.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(der))
    code, _ = _verified(context, host, port, seconds)
    if code in _WRONG_NAME:
        found.append(f"it is for {_names(shown)}, not for {host}")
    return found


def _names(shown: x509.Certificate) -> str:
    try:
        extension = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no name at all"
    names = [*extension.get_values_for_type(x509.DNSName), *map(str, extension.get_values_for_type(x509.IPAddress))]
    return ", ".join(names[:5]) or "no name at all"
