"""workloads/ and containers/: inside the package when installed, beside it in a checkout."""

from importlib import resources
from pathlib import Path

from harness.core.errors import HostError


def data_directory(name: str) -> Path:
    """Return the directory ``name`` ("workloads" or "containers").

    Raises HostError when neither the installed package nor a checkout has it.
    """
    package = Path(str(resources.files("harness")))
    for candidate in (package / "_data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise HostError(f"{name}/ is neither in the installed package nor beside {package}", hint="reinstall")
