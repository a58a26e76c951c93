"""`criu-pac doctor`: whether this host, or one thing on it, is affected, and what can be done."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness.catalogue.cpus import CpuModel, cpu
from harness.cli.module import ask_module
from harness.cli.session import Verbosity, provisioned
from harness.core.errors import HarnessError, UsageError
from harness.doctor.diagnosis import Diagnosis
from harness.doctor.examine import Examined, diagnose_host, examine
from harness.doctor.restorable import diagnose_checkpoint
from harness.doctor.subjects import diagnose_files, diagnose_image, diagnose_process
from harness.key_module.build import PLUGIN_NAME, plugin_key
from harness.provision.context import Provision
from harness.reporting.facts import print_facts

_ROOT = Path("/")


def doctor(
    *,
    pid: Annotated[
        int | None, typer.Option(metavar="PID", min=1, help="A process, which is stopped for a moment.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="An image of docker or podman, or an archive of one."),
    ] = None,
    elf: Annotated[list[Path] | None, typer.Option(metavar="FILE...", help="Programs and libraries.")] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="", hidden=True)] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A directory with CRIU's images.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--for", metavar="CPU", help="Where --checkpoint is to be restored; default: here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verbose: Verbosity = 0,
) -> int:
    """Say whether a checkpoint loses processes to pointer authentication here, why, and what helps.

    Without options it is about this host; exit code 0: safe, 1: affected, 3: cannot tell.
    """
    files = [*(elf or ()), *(more or ())]
    _check(pid=pid, image=image, elf=elf, more=more, checkpoint=checkpoint, target=target)
    wanted = cpu(target) if target else None
    with provisioned(verbose) as provision:
        not_seen: list[str] = []
        examined = examine(_ROOT, _plugin_at_hand(provision), not_seen)
        if pid is not None:
            found = diagnose_process(pid, examined, not_seen)
        elif image is not None:
            found = diagnose_image(image, examined, not_seen)
        elif files:
            found = diagnose_files(files, examined, not_seen)
        elif checkpoint is not None:
            found = _checkpoint(checkpoint, wanted, examined, provision, not_seen)
        else:
            found = diagnose_host(examined, not_seen)
    _show(found, as_json=as_json)
    return found.conclusion.exit_code


def _check(
    *,
    pid: int | None,
    image: str | None,
    elf: Sequence[Path] | None,
    more: Sequence[Path] | None,
    checkpoint: Path | None,
    target: str | None,
) -> None:
    """Raise UsageError for options that do not go together."""
    subjects = {"--pid": pid, "--image": image, "--elf": elf or None, "--checkpoint": checkpoint}
    given = [name for name, value in subjects.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} ask about different things", hint="give one of them")
    if more and not elf:
        raise UsageError(f"unexpected argument {more[0]}", hint="files are named after --elf")
    if target and checkpoint is None:
        raise UsageError("--for says where a checkpoint is to be restored", hint="give --checkpoint DIR, too")


def _checkpoint(
    images: Path, wanted: CpuModel | None, examined: Examined, provision: Provision, not_seen: list[str]
) -> Diagnosis:
    return diagnose_checkpoint(images, wanted, examined, lambda path: ask_module(provision, path), not_seen)


def _plugin_at_hand(provision: Provision) -> bytes | None:
    """Return this version's key module where it has been built; it is not built for a comparison."""
    try:
        built = provision.cache.existing_artifact("key-module", plugin_key()[:32])
    except HarnessError:
        return None
    return (built / PLUGIN_NAME).read_bytes() if built else None


def _show(found: Diagnosis, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.record(), indent=2))
        return
    print_facts(
        {
            "conclusion": found.conclusion.value,
            "reasons": list(found.reasons),
            "remedies": {one.what: {"cost": one.cost, "shown by": one.cell} for one in found.remedies},
            "not seen": list(found.not_seen),
            "facts": found.facts,
        }
    )
