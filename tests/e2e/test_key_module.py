"""The key module in a real CRIU: what it refuses, and that nothing is restored then."""

from pathlib import Path

import pytest

from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, Container
from harness.machines.protocol import check
from harness.pytest_plugin import RunScenario
from harness.scenario.run import ScenarioRun

KEY_FILE = f"{IMAGES}/pac-keys.img"


def in_guest(container: Container, script: str) -> None:
    check(container.machine, ["bash", "-c", script], Deadline.after(20, "sabotage of the images"))


class WithoutKeyFile(ScenarioRun):
    def between(self, container: Container, cycle: int) -> None:
        in_guest(container, f"rm {KEY_FILE}")


class WithUnfinishedKeyFile(ScenarioRun):
    def between(self, container: Container, cycle: int) -> None:
        in_guest(container, f"mv {KEY_FILE} {KEY_FILE}.tmp")


class WithTruncatedKeyFile(ScenarioRun):
    def between(self, container: Container, cycle: int) -> None:
        in_guest(container, f"truncate -s -16 {KEY_FILE}")


class WithFlippedBit(ScenarioRun):
    def between(self, container: Container, cycle: int) -> None:
        in_guest(container, f"printf x | dd of={KEY_FILE} bs=1 seek=200 conv=notrunc status=none")


class WithFutureVersion(ScenarioRun):
    def between(self, container: Container, cycle: int) -> None:
        in_guest(container, rf"printf '\003' | dd of={KEY_FILE} bs=1 seek=8 conv=notrunc status=none")


class WithForeignKeyFile(ScenarioRun):
    """The key file of the first dump beside the images of the second."""

    def between(self, container: Container, cycle: int) -> None:
        kept = f"{IMAGES}/../kept-keys"
        in_guest(container, f"cp {KEY_FILE} {kept}" if cycle == 1 else f"cp {kept} {KEY_FILE}; rm {kept}")


def test_images_without_a_key_file_are_restored_as_before_with_a_warning(
    run_scenario: RunScenario, tmp_path: Path
) -> None:
    result = run_scenario(KeyModule.PLUGIN, runner=WithoutKeyFile)

    assert result.outcome is Outcome.SIGNED_PC_FAULT, "no key came from anywhere"
    log = (tmp_path / str(result.evidence) / "restore-1.log").read_text()
    assert log.count("pac-key-module: warning: no pac-keys.img in the images directory") == 1


@pytest.mark.parametrize(
    ("runner", "cycles", "words"),
    [
        (WithUnfinishedKeyFile, 1, "pac-keys.img.tmp is the unfinished key file"),
        (WithTruncatedKeyFile, 1, "truncated"),
        (WithFlippedBit, 1, "damaged"),
        (WithFutureVersion, 1, "has a format version this module does not know"),
        (WithForeignKeyFile, 2, "belongs to another dump"),
    ],
)
def test_a_bad_key_file_is_refused_with_a_clear_message(
    run_scenario: RunScenario, runner: type[ScenarioRun], cycles: int, words: str
) -> None:
    result = run_scenario(KeyModule.PLUGIN, runner=runner, cycles=cycles)

    assert result.outcome is Outcome.RESTORE_REFUSED, result.reason
    assert "pac-key-module: error: " in result.reason
    assert words in result.reason
    assert result.signal is None, "nothing was restored"
    assert result.ticks_after == result.ticks_before


def test_the_key_file_is_for_root_alone(run_scenario: RunScenario) -> None:
    seen: list[str] = []

    class Looks(ScenarioRun):
        def between(self, container: Container, cycle: int) -> None:
            look = ["stat", "-c", "%a %u", KEY_FILE]
            seen.append(check(container.machine, look, Deadline.after(20, "mode of the key file")).text)

    run_scenario(KeyModule.PLUGIN, runner=Looks)
    assert seen == ["600 0\n"]


@pytest.mark.machine(kernel="6.12", criu=["4.1.1-nopac", "4.2.1", "4.2.1-nopac"])
@pytest.mark.parametrize("criu", ["4.1.1-nopac", "4.2.1"])
def test_a_foreign_key_file_is_refused_by_later_versions_too(run_scenario: RunScenario, criu: str) -> None:
    result = run_scenario(KeyModule.PLUGIN, criu=criu, runner=WithForeignKeyFile, cycles=2)
    assert result.outcome is Outcome.RESTORE_REFUSED, result.reason
    assert "belongs to another dump" in result.reason
