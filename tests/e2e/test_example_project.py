"""The example of a project with workloads of its own, run as its owner would, by two workers at once."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.machines.template import TEMPLATE_KIND
from harness.provision.context import Provision
from harness.scenario.lab import MachineKind

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_workload"
# A plugin of the run that writes down each template that is begun.
SPY = """
import os
from pathlib import Path
from harness.core import steps

def write(event):
    if event.kind == "start" and event.path[-1].startswith("template "):
        with Path(os.environ["SPY_FILE"]).open("a") as file:
            file.write(f"{os.environ['PYTEST_XDIST_WORKER']} {event.path[-1]}\\n")

watching = steps.subscribed(write)
watching.__enter__()
"""


@pytest.fixture
def cache(provision: Provision, machine_kind: MachineKind) -> Iterator[Path]:
    """A cache with everything but templates; its files are links."""
    root = provision.cache.root
    with tempfile.TemporaryDirectory(dir=root, prefix=".test-") as directory:
        for part in ("artifacts", "blobs"):
            shutil.copytree(
                root / part,
                Path(directory, part),
                copy_function=os.link,
                symlinks=True,
                ignore=shutil.ignore_patterns(".*.building-*", TEMPLATE_KIND),
            )
        yield Path(directory)


def test_it_passes_and_its_workers_share_a_template_made_once(cache: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project)
    (tmp_path / "spy.py").write_text(SPY)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "CRIU_PAC_CACHE": str(cache),
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "SPY_FILE": str(tmp_path / "templates"),
    }
    words = [sys.executable, "-m", "pytest", "-v", "-n", "2", "-p", "spy", "-p", "no:cacheprovider"]
    done = subprocess.run(
        words, env=environment, cwd=project, capture_output=True, text=True, timeout=900, check=False
    )

    assert "3 passed in" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert set(re.findall(r"^\[(gw\d)\] .* PASSED", done.stdout, re.MULTILINE)) == {"gw0", "gw1"}
    assert "[3.17.1-k6.1-neoverse-v1-debian-13-ledger-criu-plugin]" in done.stdout
    begun = (tmp_path / "templates").read_text().splitlines()
    assert len(begun) == 1, begun
    assert len(list((cache / "artifacts" / TEMPLATE_KIND).glob("[!.]*"))) == 1
