"""Where a bundle of CRIU has its parts, below its root, as a Debian package does; and what starts it."""

from pathlib import Path

PROGRAM = Path("usr/sbin/criu")
LIBRARIES = Path("usr/lib/aarch64-linux-gnu")
LOADER = "ld-linux-aarch64.so.1"  # among the libraries
