"""A certificate authority in the place of Intel's, for the simulated TDX machines of one testnet.

Same shape as the real one, so that the production verification runs unchanged under another root:
root CA, PCK platform CA, one PCK certificate per machine with Intel's SGX extension, a signer for
TCB info and QE identity, two revocation lists (formats: Intel's "PCK Certificate and CRL Profile
Specification"; the values of a genuine machine served as the model). Every key comes from one seed,
which comes from the testnet's own KMS root: nothing here is ever a public constant, and two
processes that are given the same secret file agree without talking to each other.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

SEED_BYTES = 32
PPID_BYTES = 16
FMSPC_BYTES = 6
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

# Certificates do not run out in the time of any test; what is tried out is stale collateral.
NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2099, 1, 1, tzinfo=UTC)
CRL_LIFETIME = timedelta(days=30)
REVOKED_SERIAL = 0xDEAD  # the one PCK certificate that every CRL of the platform CA names

CPU_SVN = bytes.fromhex("04040202040100050000000000000000")
PCE_SVN = 13
PCE_ID = bytes(2)

_SGX_EXTENSION = "1.2.840.113741.1.13.1"


@dataclass(frozen=True, slots=True)
class Platform:
    """A simulated machine's hardware: PPID 16 bytes, FMSPC 6 bytes, whether Intel revoked it."""

    ppid: bytes
    fmspc: bytes
    is_revoked: bool = False

    def __post_init__(self) -> None:
        if len(self.ppid) != PPID_BYTES or len(self.fmspc) != FMSPC_BYTES:
            raise ValueError(f"a PPID has {PPID_BYTES} bytes and an FMSPC {FMSPC_BYTES}")


@dataclass(frozen=True, slots=True)
class PckCertificate:
    """A machine's PCK key and its chain: leaf, platform CA, root, as PEM."""

    key: ec.EllipticCurvePrivateKey
    chain_pem: bytes

    def __repr__(self) -> str:
        return f"PckCertificate({len(self.chain_pem)} bytes)"


class TdxPki:
    """The authority that grows from one 32-byte seed; signatures are deterministic (RFC 6979)."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"the seed of a PKI has {SEED_BYTES} bytes, got {len(seed)}")
        self._seed = seed
        self._root_key = self._key("root")
        self._pck_ca_key = self._key("pck-ca")
        self._signer_key = self._key("tcb-signing")
        self._root = self._certificate(
            "Mock SGX Root CA", self._root_key, issuer=None, is_ca=True, path_length=1
        )
        self._pck_ca = self._certificate(
            "Mock SGX PCK Platform CA", self._pck_ca_key, issuer=self._root, is_ca=True
        )

    def __repr__(self) -> str:
        return f"TdxPki(root {hashlib.sha256(self.root_der).hexdigest()[:16]})"

    @classmethod
    def of_kms_root(cls, kms_root: bytes) -> TdxPki:
        """The authority of the testnet whose KMS root secret (32 bytes) this is."""
        return cls(hmac.digest(kms_root, b"dstack-cluster simulator: TDX PKI", "sha256"))

    @property
    def root_der(self) -> bytes:
        """The root certificate, DER: what a verifier must be told to trust, in tests only."""
        return self._root.public_bytes(serialization.Encoding.DER)

    @cached_property
    def signer_chain_pem(self) -> str:
        """Chain of the key that signs TCB info and QE identity: leaf, root."""
        leaf = self._certificate("Mock SGX TCB Signing", self._signer_key, issuer=self._root)
        return (_pem(leaf) + _pem(self._root)).decode()

    @property
    def pck_ca_chain_pem(self) -> str:
        """Chain of the key that signs the PCK CRL: platform CA, root."""
        return (_pem(self._pck_ca) + _pem(self._root)).decode()

    def sign_statement(self, text: bytes) -> bytes:
        """The TCB signing key's signature over a JSON text: r and s, 64 bytes."""
        return sign_raw(self._signer_key, text)

    def root_crl(self, issued: datetime) -> bytes:
        """The root's revocation list, DER: empty, valid for 30 days."""
        return self._crl(self._root, self._root_key, issued, None)

    def pck_crl(self, issued: datetime) -> bytes:
        """The platform CA's revocation list, DER, valid for 30 days."""
        return self._crl(self._pck_ca, self._pck_ca_key, issued, REVOKED_SERIAL)

    def pck(self, platform: Platform) -> PckCertificate:
        """Certify a machine's PCK key, as Intel does when a machine is registered."""
        key = self._key("pck:" + platform.ppid.hex())
        extension = x509.UnrecognizedExtension(
            x509.ObjectIdentifier(_SGX_EXTENSION), sgx_extension(platform)
        )
        leaf = self._certificate(
            "Mock SGX PCK Certificate",
            key,
            issuer=self._pck_ca,
            issuer_key=self._pck_ca_key,
            serial=REVOKED_SERIAL if platform.is_revoked else None,
            extension=extension,
        )
        return PckCertificate(key, _pem(leaf) + _pem(self._pck_ca) + _pem(self._root))

    def attestation_key(self, platform: Platform) -> ec.EllipticCurvePrivateKey:
        """The key that the machine's quoting enclave made for itself."""
        return self._key("attestation-key:" + platform.ppid.hex())

    def _key(self, label: str) -> ec.EllipticCurvePrivateKey:
        return p256_key(self._seed, label)

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        issuer: x509.Certificate | None,
        issuer_key: ec.EllipticCurvePrivateKey | None = None,
        is_ca: bool = False,
        path_length: int | None = None,
        serial: int | None = None,
        extension: x509.UnrecognizedExtension | None = None,
    ) -> x509.Certificate:
        signing_key = issuer_key or self._root_key
        public_key = key.public_key()
        subject = _name(name)
        if serial is None:
            raw = hashlib.sha256(name.encode() + _public_bytes(key)).digest()
            serial = int.from_bytes(raw[:19], "big") | 1
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer is not None else subject)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(NOT_BEFORE)
            .not_valid_after(NOT_AFTER)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_key_usage(is_ca), critical=True)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        )
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signing_key, hashes.SHA256(), ecdsa_deterministic=True)

    def _crl(
        self,
        issuer: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        issued: datetime,
        revoked_serial: int | None,
    ) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(issued)
            .next_update(issued + CRL_LIFETIME)
            .add_extension(x509.CRLNumber(1), critical=False)
            # Not optional: the verifier finds the issuer by it.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
                critical=False,
            )
        )
        if revoked_serial is not None:
            revoked = (
                x509.RevokedCertificateBuilder()
                .serial_number(revoked_serial)
                .revocation_date(NOT_BEFORE)
                .build()
            )
            builder = builder.add_revoked_certificate(revoked)
        crl = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
        return crl.public_bytes(serialization.Encoding.DER)


def p256_key(seed: bytes, label: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key that this label has under this seed."""
    # 64 bytes reduced modulo the order: no bias worth a name, and never zero.
    wide = hmac.digest(seed, label.encode(), "sha512")
    scalar = int.from_bytes(wide, "big") % (P256_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def sign_raw(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """ECDSA over SHA-256 as quotes and collateral carry it: r and s, 32 bytes each."""
    der = key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half as quotes carry it: x and y, 32 bytes each."""
    return _public_bytes(key)[1:]


def sgx_extension(platform: Platform) -> bytes:
    """Intel's SGX extension of a PCK certificate, DER: what of the machine is certified."""
    tcb = [_entry(2, index, _integer(svn)) for index, svn in enumerate(CPU_SVN, start=1)]
    tcb.append(_entry(2, 17, _integer(PCE_SVN)))
    tcb.append(_entry(2, 18, _tlv(0x04, CPU_SVN)))
    # As on the servers that run dstack: dynamic platform, cached keys, SMT.
    configuration = [_entry(7, index, b"\x01\x01\xff") for index in (1, 2, 3)]
    return _sequence(
        _entry(1, None, _tlv(0x04, platform.ppid)),
        _entry(2, None, _sequence(*tcb)),
        _entry(3, None, _tlv(0x04, PCE_ID)),
        _entry(4, None, _tlv(0x04, platform.fmspc)),
        _entry(5, None, b"\x0a\x01\x01"),  # SGX type: scalable
        _entry(6, None, _tlv(0x04, hashlib.sha256(platform.ppid).digest()[:16])),
        _entry(7, None, _sequence(*configuration)),
    )


def _entry(arc: int, index: int | None, value: bytes) -> bytes:
    """One pair of identifier and value; every arc here fits a byte."""
    # 1.2.840.113741.1.13.1, of which the first seven bytes are the base-128 forms.
    oid = bytes.fromhex("2a864886f84d010d01") + bytes([arc] if index is None else [arc, index])
    return _sequence(_tlv(0x06, oid), value)


def _integer(value: int) -> bytes:
    assert 0 <= value < 128
    return bytes([0x02, 0x01, value])


def _sequence(*items: bytes) -> bytes:
    return _tlv(0x30, b"".join(items))


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    width = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + length.to_bytes(width, "big") + content


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "dstack-cluster testnet"),
        ]
    )


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
