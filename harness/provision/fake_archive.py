"""A small package archive with the layout of the real ones, signed by a key of its own, for tests."""

import hashlib
import io
import lzma
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

from pysequoia import Cert, SignatureMode, Tsk, sign

from harness.provision.keyring import Keyring, keyring

_DEFAULT_DATE = datetime(2026, 1, 1, tzinfo=UTC)


class FakeArchive:
    """Packages and suites in memory: ``files`` maps a path below the mirror to its bytes."""

    def __init__(self, name: str = "debian") -> None:
        self.name = name
        self.files: dict[str, bytes] = {}
        self._key = Tsk.generate(user_id=f"{name} archive of a test")
        self._stanzas: dict[tuple[str, str, str], dict[str, str]] = {}

    @property
    def certificate(self) -> Cert:
        """The public key that signs the suites."""
        return self._key.extract_certificate()

    def keyring(self) -> Keyring:
        """Return the keyring that accepts exactly this archive."""
        certificate = self.certificate
        return keyring(self.name, [str(certificate).encode()], [certificate.fingerprint])

    def add_package(
        self,
        name: str,
        version: str = "1",
        *,
        suite: str = "trixie",
        architecture: str = "arm64",
        files: Mapping[str, bytes] | None = None,
        **fields: str,
    ) -> str:
        """Add a package, replacing the suite's other version; return its path below the mirror.

        ``fields`` are control fields with ``_`` for ``-``, such as ``Pre_Depends``.
        """
        control = {"Package": name, "Version": version, "Architecture": architecture}
        control |= {key.replace("_", "-"): value for key, value in fields.items()}
        deb = make_deb(control, files or {f"usr/share/{name}": f"{name} {version}\n".encode()})
        path = f"pool/main/{name[0]}/{name}/{name}_{version.replace(':', '%3a')}_{architecture}.deb"
        self.files[path] = deb
        extra = {"Filename": path, "Size": str(len(deb)), "SHA256": hashlib.sha256(deb).hexdigest()}
        self._stanzas[suite, architecture, name] = control | extra
        return path

    def publish(
        self,
        suite: str = "trixie",
        *,
        architecture: str = "arm64",
        date: datetime = _DEFAULT_DATE,
        valid_until: datetime | None = None,
        by_hash: bool = True,
    ) -> None:
        """Write the suite's index and signed InRelease for the packages added so far."""
        stanzas = [
            "".join(f"{key}: {value}\n" for key, value in stanza.items())
            for (of, machine, _), stanza in sorted(self._stanzas.items())
            if (of, machine) == (suite, architecture)
        ]
        packed = lzma.compress("\n".join(stanzas).encode())
        sha256 = hashlib.sha256(packed).hexdigest()
        directory = f"main/binary-{architecture}"
        self.files[f"dists/{suite}/{directory}/Packages.xz"] = packed
        if by_hash:
            self.files[f"dists/{suite}/{directory}/by-hash/SHA256/{sha256}"] = packed
        lines = [f"Origin: {self.name}", f"Codename: {suite}", f"Date: {format_datetime(date)}"]
        if valid_until:
            lines.append(f"Valid-Until: {format_datetime(valid_until)}")
        lines += [f"Acquire-By-Hash: {'yes' if by_hash else 'no'}", "SHA256:"]
        lines.append(f" {sha256} {len(packed)} {directory}/Packages.xz")
        self.files[f"dists/{suite}/InRelease"] = self.sign("\n".join(lines).encode() + b"\n")

    def sign(self, text: bytes) -> bytes:
        """Return ``text`` cleartext-signed by this archive's key."""
        return bytes(sign(self._key.signer(), text, mode=SignatureMode.CLEAR))


def make_deb(
    control: Mapping[str, str], files: Mapping[str, bytes], links: Mapping[str, str] | None = None
) -> bytes:
    """Return a Debian package; ``links`` maps symbolic links to their targets."""
    paragraph = "".join(f"{key}: {value}\n" for key, value in control.items()).encode()
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(_tar({"./control": paragraph}, {})),
        "data.tar.xz": lzma.compress(_tar(files, links or {})),
    }
    archive = b"!<arch>\n"
    for name, data in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        archive += header.encode() + data + b"\n" * (len(data) % 2)
    return archive


def _tar(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
