"""`python -m harness` is the command `criu-pac`."""

import sys

from harness.cli import main

if __name__ == "__main__":
    sys.exit(main())
