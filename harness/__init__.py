"""End-to-end reproducer and regression harness for CRIU under ARM64 pointer authentication."""

__version__ = "0.1.0"
