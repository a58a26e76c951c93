"""Allure's result files: written from records, read back; and what a test tells allure-pytest."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.bases import BASES
from harness.catalogue.cpus import CPUS
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import KERNELS
from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.core.errors import StorageError
from harness.reporting import page
from harness.reporting.allure import write_allure
from harness.scenario.arms import Arm
from harness.scenario.fake_results import SLEEPER, arms, result

pytest_plugins = ["pytester"]

STARTED = 1767323045679  # of the fake results, in milliseconds
# A module of a test that runs a fake scenario: no machine, but the steps and evidence of one.
FAKE_RUN = """
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.catalogue.outcome import Outcome
from harness.core import steps
from harness.core.errors import MachineError
from harness.reporting.allure import reported
from harness.scenario.fake_results import arms, result


class Run:
    def __init__(self, place, fails):
        self.arm, self.fails = arms()[0], fails
        self.scenario, self.options = self.arm.scenario, SimpleNamespace(results=place)

    def run(self):
        with steps.step(self.scenario.slug):
            with steps.step("dump"), steps.step("inner"):
                pass
            with steps.step("restore"):
                if self.fails:
                    raise MachineError("it stopped")
        (self.options.results / "stock").mkdir()
        (self.options.results / "stock" / "registers.json").write_text("{}")
        (self.options.results / "stock" / "dump-1.log").write_text("a log")
        return result(self.arm)


@pytest.mark.parametrize("fails", [False, True])
def test_it(tmp_path, fails):
    assert reported(Run(tmp_path, fails)).outcome is Outcome.SIGNED_PC_FAULT
"""


def read_back(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*-result.json"))]


def one(tmp_path: Path, arm: Arm, outcome: Outcome | None = None, **changes: Any) -> dict[str, Any]:
    write_allure(tmp_path, [result(arm, outcome, **changes).record()])
    [found] = read_back(tmp_path / "allure")
    return found


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        *((Verdict.AS_PREDICTED, "passed"), (Verdict.KNOWN_ISSUE, "passed")),
        *((Verdict.REGRESSION, "failed"), (Verdict.FIXED, "failed")),
        *((Verdict.INVALID, "broken"), (Verdict.ERROR, "broken")),
    ],
)
def test_every_verdict_has_a_status(tmp_path: Path, verdict: Verdict, status: str) -> None:
    found = one(tmp_path, arms()[0], verdict=verdict)
    assert found["status"] == status
    assert found["statusDetails"]["known"] is (verdict is Verdict.KNOWN_ISSUE)
    assert {"name": "tag", "value": verdict.value} in found["labels"]


def test_phases_are_steps_one_after_the_other(tmp_path: Path) -> None:
    found = one(tmp_path, arms()[0], phases={"clone": 0.25, "dump": 0.5}, seconds=1.0)
    assert (found["start"], found["stop"]) == (STARTED, STARTED + 1000)
    assert [(step["name"], step["start"] - STARTED, step["stop"] - STARTED) for step in found["steps"]] == [
        ("clone", 0, 250),
        ("dump", 250, 750),
    ]


def test_dimensions_are_parameters(tmp_path: Path) -> None:
    found = one(tmp_path, arms()[0])
    assert {one["name"]: one["value"] for one in found["parameters"]} == {
        "criu_dump": "3.17.1",
        "criu_restore": "3.17.1",
        "kernel": "6.1",
        "target_kernel": "6.1",
        "cpu": "neoverse-v1",
        "target_cpu": "neoverse-v1",
        "base": "debian-13",
        "workload": "python-sleeper",
        "driver": "criu",
        "module": "none",
    }


def test_a_known_issue_is_marked_and_links_to_its_report(tmp_path: Path) -> None:
    machine = MachineSpec(cpu=CPUS["neoverse-v1"], kernel=KERNELS["6.12"])
    build = CRIU_BUILDS["4.1.1"]
    scenario = Scenario(
        source=machine,
        target=machine,
        criu_dump=build,
        criu_restore=build,
        module=KeyModule.NONE,
        workload=SLEEPER,
        base=BASES["debian-13"],
        driver=Driver.CRIU,
    )
    found = one(tmp_path, Arm(name="hangs", scenario=scenario))
    assert found["links"] == [
        {
            "type": "issue",
            "url": "https://github.com/checkpoint-restore/criu/issues/2709",
            "name": "criu-2709: the restorer was compiled with branch protection and dies when its own keys "
            "are replaced",
        }
    ]
    assert found["status"] == "passed"
    assert found["statusDetails"]["message"] == "known issue criu-2709: hung: the reason of hangs."


def test_what_was_expected_is_told_with_an_unexpected_outcome(tmp_path: Path) -> None:
    found = one(tmp_path, arms()[0], Outcome.SURVIVED)
    assert found["status"] == "failed"
    message = "survived: the reason of stock. (expected: signed_pc_fault)"
    assert found["statusDetails"]["message"] == message


def test_registers_and_logs_are_attached_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "stock"
    (place / "source").mkdir(parents=True)
    contents = {
        "registers.json": "{}",
        "restore-1.log": "restored",
        "kernel.log": "<6> fault",
        "stacks.txt": "s",
        "source/dump-1.log": "dumped",
        "output": "READY",
    }
    for name, text in contents.items():
        (place / name).write_text(text)
    for name in ("core.12", "console.log", "observations.json"):
        (place / name).write_text("not attached")
    (place / "dump-1.log").write_text("")  # an empty one is none

    found = one(tmp_path, arms()[0])["attachments"]
    read = {one["name"]: (tmp_path / "allure" / one["source"]).read_text() for one in found}
    assert read == contents
    types = {one["name"]: one["type"] for one in found}
    assert types.pop("registers.json") == "application/json"
    assert set(types.values()) == {"text/plain"}


@pytest.mark.parametrize("evidence", ["../elsewhere", "/", None])
def test_nothing_outside_of_the_results_is_attached(tmp_path: Path, evidence: str | None) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kernel.log").write_text("private")
    results = tmp_path / "results"
    results.mkdir()
    record = result(arms()[0], evidence=evidence).record()
    page.write_reports(results, [record])
    [found] = read_back(results / "allure")
    assert "attachments" not in found
    assert "private" not in (results / "report.html").read_text()


def test_a_second_report_replaces_the_first_and_leaves_other_files(tmp_path: Path) -> None:
    records = [result(arm).record() for arm in arms(control=True)]
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "kernel.log").write_text("x")
    write_allure(tmp_path, records)
    (tmp_path / "allure" / "environment.properties").write_text("mine")
    write_allure(tmp_path, records)
    names = [path.name for path in (tmp_path / "allure").iterdir()]
    assert len([name for name in names if name.endswith("-result.json")]) == len(records)
    assert len([name for name in names if "-attachment." in name]) == 1
    assert "environment.properties" in names
    assert len(names) == len(records) + 2


def test_the_history_of_a_cell_goes_on_in_the_next_run(tmp_path: Path) -> None:
    ids = {one(tmp_path / str(number), arms()[0])["historyId"] for number in range(2)}
    assert len(ids) == 1
    assert one(tmp_path / "other", arms()[1])["historyId"] not in ids


def test_a_line_without_a_start_is_reported(tmp_path: Path) -> None:
    record = result(arms()[0]).record()
    del record["started"]
    write_allure(tmp_path, [record])
    assert read_back(tmp_path / "allure")[0]["stop"] == 3142


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "allure").write_text("")
    with pytest.raises(StorageError, match=f"cannot write a report in {tmp_path}"):
        page.write_reports(tmp_path, [result(arms()[0]).record()])


def test_a_test_tells_allure_pytest_the_same(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAKE_RUN)
    told = pytester.path / "told"
    pytester.runpytest_subprocess("--alluredir", str(told)).assert_outcomes(passed=1, failed=1)
    died, broken = sorted(read_back(told), key=lambda found: str(found["status"] != "passed"))

    assert {"name": "criu_dump", "value": "'3.17.1'"} in died["parameters"]
    [cell] = died["steps"]
    assert cell["name"] == arms()[0].scenario.id
    assert [(step["name"], step["status"]) for step in cell["steps"]] == [
        ("dump", "passed"),
        ("restore", "passed"),
    ]
    assert [step["name"] for step in cell["steps"][0]["steps"]] == ["inner"]
    attached = {one["name"]: (told / one["source"]).read_text() for one in cell["attachments"]}
    text = "signed_pc_fault: the reason of stock."
    assert attached == {"as_predicted": text, "registers.json": "{}", "dump-1.log": "a log"}

    statuses = [(step["name"], step["status"]) for step in broken["steps"][0]["steps"]]
    assert statuses == [("dump", "passed"), ("restore", "broken")]


def test_without_alluredir_a_test_runs_the_same(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAKE_RUN)
    pytester.runpytest_subprocess().assert_outcomes(passed=1, failed=1)
