"""The keys and certificates of the simulated machines: a CA that signs the vCenter's certificate, and not the hosts'.

A vCenter's certificate can be checked against a CA; those of its ESXi hosts are often in no trust store, and
clients learn their thumbprints over the session that they already trust (vSphere API: HttpNfcLeaseDeviceUrl).
"""

import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Identity:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def thumbprint(self, algorithm: str) -> str:
        """The digest of the certificate's DER in colon-separated upper-case hex, as vSphere writes thumbprints."""
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        return hashlib.new(algorithm, der).digest().hex(":").upper()

    def server_context(self, directory: Path, name: str) -> ssl.SSLContext:
        """Make a TLS context that serves with this identity; the key passes through ``directory`` for a moment."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = directory / f"{name}.pem"
        file.touch(mode=0o600)
        file.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + self.pem
        )
        try:
            context.load_cert_chain(file)
        finally:
            file.unlink()
        return context


def make_authority() -> Identity:
    """Make a CA that exists for one simulator only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Simulated vCenter CA")
    builder = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Identity(key, builder.sign(key, hashes.SHA256()))


def make_server(address: str, *, authority: Identity | None = None, name: str = "simulated vCenter") -> Identity:
    """Make the certificate of a server at ``address``; self-signed where no authority is given."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    issuer = authority.certificate.subject if authority else subject
    signer = authority.key if authority else key
    builder = (
        _builder(subject, issuer, key)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(address)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return Identity(key, builder.sign(signer, hashes.SHA256()))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(address: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    try:
        listening = x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        listening = x509.DNSName(address)
    if listening not in names:
        names.append(listening)
    return names
