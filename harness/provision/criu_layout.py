"""Where a bundle of CRIU has its parts, below its root: as a Debian package does."""

from pathlib import Path

PROGRAM = Path("usr/sbin/criu")
LIBRARIES = Path("usr/lib/aarch64-linux-gnu")
