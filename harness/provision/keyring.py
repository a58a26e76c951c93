"""Who may sign an archive: certificates accepted by the full fingerprint of their primary key."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

from pysequoia import Cert, verify
from pysequoia.packet import PacketPile

from harness.core.errors import SignatureError

# From package debian-archive-keyring; see keys/README.md.
DEBIAN_KEYS: Mapping[str, str] = {
    "debian-archive-bullseye-automatic.asc": "1f89983e0081fde018f3cc9673a4f27b8dd47936",
    "debian-archive-bullseye-stable.asc": "a4285295fc7b1a81600062a9605c66f00d6c9793",
    "debian-archive-bookworm-automatic.asc": "b8b80b5b623eab6ad8775c45b7c5d7d6350947f8",
    "debian-archive-bookworm-stable.asc": "4d64fec119c2029067d6e791f8d2585b8783d481",
    "debian-archive-trixie-automatic.asc": "04b54c3cdca79751b16bc6b5225629df75b188bd",
    "debian-archive-trixie-stable.asc": "41587f7db8c774bccf131416762f67a0b2c39de4",
}
# "Ubuntu Archive Automatic Signing Key (2018)", the one that signs noble. The older keys of
# Debian's package ubuntu-archive-keyring bind themselves with SHA-1 only and are not accepted.
UBUNTU_FINGERPRINTS = frozenset({"f6ecb3762474eda9d21b7022871920d1991bc93c"})
UBUNTU_KEYRING_FILE = "usr/share/keyrings/ubuntu-archive-keyring.gpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The certificates accepted for one archive, which ``name`` names."""

    name: str
    certificates: tuple[Cert, ...]

    @property
    def fingerprints(self) -> frozenset[str]:
        """Full fingerprints of the primary keys, in lowercase hexadecimal."""
        return frozenset(cert.fingerprint.lower() for cert in self.certificates)


def keyring(name: str, data: Iterable[bytes], fingerprints: Iterable[str]) -> Keyring:
    """Return those certificates of ``data`` (armoured or binary) whose fingerprint is expected.

    Raises SignatureError when one of the expected fingerprints is missing, or when the
    certificates cannot be read.
    """
    wanted = frozenset(fingerprints)
    found: dict[str, Cert] = {}
    for blob in data:
        try:
            certificates = Cert.split_bytes(blob)
        except Exception as error:  # the binding raises plain Exception
            raise SignatureError(f"the keys of {name} cannot be read: {_first_line(error)}") from error
        found |= {cert.fingerprint.lower(): cert for cert in certificates}
    if missing := sorted(wanted - found.keys()):
        raise SignatureError(f"the keys of {name} lack {', '.join(missing)}")
    return Keyring(name=name, certificates=tuple(found[print_] for print_ in sorted(wanted)))


def debian_keyring() -> Keyring:
    """Return the keys of Debian's own archive, which come with the harness."""
    directory = resources.files("harness.provision") / "keys"
    return keyring("debian", [(directory / name).read_bytes() for name in DEBIAN_KEYS], DEBIAN_KEYS.values())


def ubuntu_keyring(data: bytes) -> Keyring:
    """Return Ubuntu's archive keys from the content of UBUNTU_KEYRING_FILE; raises SignatureError."""
    return keyring("ubuntu", [data], UBUNTU_FINGERPRINTS)


def verify_inrelease(data: bytes, accepted: Keyring, *, what: str = "InRelease") -> bytes:
    """Return the signed text of a cleartext-signed file; bytes outside the signature are dropped.

    Raises SignatureError when no signature of a certificate of ``accepted`` is valid: another
    signer, changed text, an expired or revoked key, or no signature at all. ``what`` names the file.
    """
    issuers: list[str] = []

    def certificates(wanted: list[str]) -> list[Cert]:
        issuers.extend(one.lower() for one in wanted)
        return list(accepted.certificates)

    try:
        result = verify(bytes=data, store=certificates)
    except Exception as error:  # the binding raises plain exceptions of several kinds
        raise SignatureError(_refusal(what, accepted, issuers, error)) from error
    signers = {signature.certificate.lower() for signature in result.valid_sigs}
    if not signers & accepted.fingerprints or result.bytes is None:
        raise SignatureError(f"{what} carries no valid signature of the {accepted.name} archive")
    return bytes(result.bytes)


def _refusal(what: str, accepted: Keyring, issuers: list[str], error: Exception) -> str:
    known = {
        packet.fingerprint.lower()
        for certificate in accepted.certificates
        for packet in PacketPile.from_bytes(bytes(certificate))
        if packet.fingerprint
    }
    # An issuer is named by its fingerprint, or by the last 16 digits of it.
    if issuers and not any(key.endswith(issuer) for issuer in issuers for key in known):
        who = ", ".join(sorted(set(issuers)))
        return f"{what} is signed by {who}, not by a key of the {accepted.name} archive"
    return (
        f"{what} carries no valid signature of the {accepted.name} archive: changed on its way, "
        f"cut, or not signed ({_first_line(error)})"
    )


def _first_line(error: Exception) -> str:
    # The binding appends a stack backtrace to its messages.
    lines = [line.strip() for line in str(error).split("Stack backtrace")[0].splitlines()]
    return " ".join(line for line in lines if line) or type(error).__name__
