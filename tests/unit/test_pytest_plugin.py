"""The pytest plugin without machines: which cells a test gets from options and pins, and what is refused."""

import re
import sys
from pathlib import Path

import pytest

from harness.machines.capacity import machines_at_once
from harness.pytest_plugin import pytest_xdist_auto_num_workers

pytest_plugins = ["pytester"]

STOCK = "3.17.1-k6.1-neoverse-v1-debian-13-python-sleeper-criu-none"
CURE = STOCK.replace("none", "plugin")
PLAIN = "def test_it(scenario): pass"
OWN = """
name = "own"
argv = ["./own"]
language = "c"
ready = 'READY'
progress = 'tick'
tick_seconds = 0.2
watch_ticks = 3
"""


@pytest.fixture(autouse=True)
def _places(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRIU_PAC_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    # After pytester took the options away. Imported anew for each run, hypothesis costs two seconds of it.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:cacheprovider")


def collect(pytester: pytest.Pytester, source: str, *options: str) -> tuple[list[str], str]:
    """Return the ids of the cells, of all tests in turn, and all that was said."""
    pytester.makepyfile(source)
    result = pytester.runpytest_inprocess("--collect-only", "-q", *options)
    said = result.stdout.str() + result.stderr.str()
    return re.findall(r"::\w+\[(.+)\]$", said, re.MULTILINE), said


def refused(pytester: pytest.Pytester, source: str, *options: str) -> str:
    """Return what is said of a test that gets no cells but an error."""
    ids, said = collect(pytester, source, *options)
    assert ids == []
    assert "Traceback" not in said
    assert "no tests collected, 1 error" in said
    return said


@pytest.mark.parametrize(
    "source",
    [
        PLAIN,
        "def test_it(cell_result): pass",
        "def test_it(cell_cpu, cell_cycles): pass",
        "import pytest\n@pytest.fixture\ndef mine(scenario): pass\ndef test_it(mine): pass",
        "class TestIt:\n    def test_it(self, scenario): pass",
    ],
)
def test_without_options_there_is_the_report_and_its_cure(pytester: pytest.Pytester, source: str) -> None:
    assert collect(pytester, source)[0] == [STOCK, CURE]


def test_a_selection(pytester: pytest.Pytester) -> None:
    ids, _ = collect(pytester, PLAIN, "--selection", "smoke")
    assert len(ids) == len(set(ids)) == 13
    assert ids[0] == STOCK


def test_options_are_spelled_as_for_the_command_and_repeated(pytester: pytest.Pytester) -> None:
    words = [
        "--criu",
        "3.17.1:4.2.1",
        "--cpu",
        "neoverse-n2",
        "--cpu=neoverse-v1:neoverse-n1",
        "--cycles",
        "1",
    ]
    words += ["--kernel", "6.12", "--module", "none", "--driver", "criu", "--base", "debian-12"]
    ids, _ = collect(pytester, PLAIN, *words, "--workload", "c-tree")
    assert ids == [
        "3.17.1:4.2.1-k6.12-neoverse-n2-debian-12-c-tree-criu-none",
        "3.17.1:4.2.1-k6.12-neoverse-v1:neoverse-n1-debian-12-c-tree-criu-none",
    ]


def test_pins_hold_a_dimension_and_options_choose_among_several_values(pytester: pytest.Pytester) -> None:
    source = """
        import pytest
        pytestmark = pytest.mark.pin_module("none")
        @pytest.mark.pin_cpu("neoverse-n2", "neoverse-v1")
        @pytest.mark.pin_cycles(1, 5)
        def test_it(scenario): pass
    """
    tail = "debian-13-python-sleeper-criu-none"
    both = [f"3.17.1-k6.1-{cpu}-{tail}{x}" for cpu in ("neoverse-n2", "neoverse-v1") for x in ("", "-x5")]
    assert collect(pytester, source)[0] == both
    narrowed = collect(pytester, source, "--cpu", "neoverse-v1", "--cpu", "max", "--cycles", "5")[0]
    assert narrowed == [both[-1]]


@pytest.mark.parametrize(
    ("pins", "options", "told"),
    [
        (
            ['pin_cpu("neoverse-v1")'],
            ["--cpu", "neoverse-n2"],
            "pin_cpu('neoverse-v1') and --cpu neoverse-n2 contradict each other: no cpu is in both",
        ),
        (
            ['pin_kernel("6.12")', 'pin_kernel("6.1")'],
            [],
            "pin_kernel('6.1') and pin_kernel('6.12') contradict each other: no kernel is in both",
        ),
        (
            ['pin_criu("3.17.1", "4.2.1")', 'pin_criu("4.2.1")'],
            ["--criu", "3.17.1"],
            "pin_criu('4.2.1') and pin_criu('3.17.1', '4.2.1') and --criu 3.17.1 contradict each other",
        ),
        (
            ['pin_workload("c-enabled-mask")', 'pin_kernel("5.10")'],
            ["--cpu", "neoverse-n2"],
            "pin_kernel('5.10') and pin_workload('c-enabled-mask') leave nothing to run: this kernel cannot",
        ),
        (['pin_cpu("neoverse-v2")'], [], "unknown CPU 'neoverse-v2'; did you mean neoverse-v1"),
        (['pin_workload("own")'], [], "unknown workload 'own'"),
        (["pin_modul('none')"], [], "unknown pin pin_modul('none'); did you mean pin_module"),
        (["pin_driver()"], [], "pin_driver(): write it like pin_driver('criu|runc|...')"),
        (["pin_base(name='debian-13')"], [], "pin_base(name=...): write it like"),
    ],
)
def test_pins_that_contradict_are_the_error_of_their_test(
    pytester: pytest.Pytester, pins: list[str], options: list[str], told: str
) -> None:
    marks = "\n".join(f"@pytest.mark.{pin}" for pin in pins)
    said = refused(pytester, f"import pytest\n{marks}\n{PLAIN}", *options)
    assert told in said.replace("\n", " ")
    assert "test_pins_that_contradict_are_the_error_of_their_test.py::test_it: " in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cpu", "neoverse-v2"], "ERROR: unknown CPU 'neoverse-v2'; did you mean neoverse-v1"),
        (["--selection", "smok"], "ERROR: unknown selection 'smok'; did you mean smoke?"),
        (["--shard", "3/2"], "ERROR: --shard 3/2: write it like 1/4"),
        (["--workload", "./nowhere"], "ERROR: cannot read nowhere/workload.toml: No such file"),
        (["--criu", "./nowhere"], "ERROR: nowhere is no directory of `criu-pac build criu`"),
        (["-o", "criu_pac_workloads=nowhere"], "nowhere is no directory"),
    ],
)
def test_wrong_options_end_the_run_before_it_begins(
    pytester: pytest.Pytester, options: list[str], told: str
) -> None:
    pytester.makepyfile(PLAIN)
    result = pytester.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_what_options_leave_out_is_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.pin_workload('c-enabled-mask')\n{PLAIN}")
    result = pytester.runpytest_inprocess("-rs", "--kernel", "5.10")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*this kernel cannot disable a key*")


def own(parent: Path, text: str = OWN) -> Path:
    directory = parent / "own"
    directory.mkdir(parents=True)
    (directory / "workload.toml").write_text(text)
    return directory


def test_a_workload_of_the_project(pytester: pytest.Pytester) -> None:
    own(pytester.path / "workloads")
    pytester.makeini("[pytest]\ncriu_pac_workloads = workloads")
    source = f"import pytest\n@pytest.mark.pin_workload('own')\n{PLAIN}"
    expected = [STOCK.replace("python-sleeper", "own"), CURE.replace("python-sleeper", "own")]
    assert collect(pytester, source)[0] == expected
    assert collect(pytester, PLAIN, "--workload", "own")[0] == expected
    assert collect(pytester, PLAIN)[0] == [STOCK, CURE], "it is run where it is asked for"


def test_a_broken_workload_names_file_key_and_reason(pytester: pytest.Pytester) -> None:
    directory = own(pytester.path / "workloads", OWN.replace("watch_ticks = 3", "watch_ticks = 0"))
    told = f"{directory}/workload.toml: watch_ticks: must be a number of at least 1, not 0"
    pytester.makeini("[pytest]\ncriu_pac_workloads = workloads")
    said = refused(pytester, f"import pytest\n@pytest.mark.pin_workload('own')\n{PLAIN}")
    assert told in said.replace("\n", " ")
    result = pytester.runpytest_inprocess("--workload", str(directory))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in result.stderr.str()


def test_a_fixture_of_the_same_name_in_a_project_is_left_alone(pytester: pytest.Pytester) -> None:
    source = """
        import pytest
        @pytest.fixture
        def scenario(): return "mine"
        def test_it(scenario): assert scenario == "mine"
        @pytest.mark.parametrize("scenario", ["also mine"])
        def test_other(scenario): assert scenario == "also mine"
    """
    pytester.makepyfile(source)
    pytester.runpytest_inprocess("--selection", "smoke").assert_outcomes(passed=2)


def test_scenarios_of_the_tests_own_go_before_options(pytester: pytest.Pytester) -> None:
    source = """
        import pytest
        from harness.scenario.matrix import DEFAULT_BASE, Dimensions, matrix
        CELLS = matrix("smoke", Dimensions(), DEFAULT_BASE)[0][:3]
        @pytest.mark.parametrize("scenario", CELLS, ids=lambda cell: cell.id)
        def test_it(scenario, cell_cpu): assert cell_cpu == (scenario.source.cpu, scenario.target.cpu)
    """
    pytester.makepyfile(source)
    pytester.runpytest_inprocess("--cpu", "max").assert_outcomes(passed=3)


def test_shards_are_the_whole_and_the_order_is_stable(pytester: pytest.Pytester) -> None:
    source = f"{PLAIN}\ndef test_other(scenario): pass\ndef test_without(): pass"
    whole = collect(pytester, source, "--selection", "standard")[0]
    assert whole == collect(pytester, source, "--selection", "standard")[0]
    parts = [
        collect(pytester, source, "--selection", "standard", "--shard", f"{at}/4")[0] for at in (1, 2, 3, 4)
    ]
    assert sorted(one for part in parts for one in part) == sorted(whole)
    assert {len(part) for part in parts} <= {len(whole) // 4, len(whole) // 4 + 1}


def test_workers_collect_the_same(pytester: pytest.Pytester) -> None:
    """xdist refuses to run otherwise; the tests themselves see what they are run for."""
    pytester.makepyfile("""
        def test_it(scenario, cell_criu, cell_kernel, cell_cpu, cell_module, cell_driver, cell_base,
                    cell_workload, cell_cycles, request):
            assert request.node.callspec.id == scenario.id
            assert (cell_criu[0].name, cell_kernel[0].name, cell_base.name) == ("3.17.1", "6.1", "debian-13")
            assert (cell_cpu[0], cell_cpu[1]) == (scenario.source.cpu, scenario.target.cpu)
            assert [cell_module, cell_driver] == [scenario.module, scenario.driver]
            assert (cell_workload.name, cell_cycles) == ("python-sleeper", scenario.cycles)
    """)
    words = ["-n", "2", "--cpu", "neoverse-n1:neoverse-v1", "--cpu", "max", "--cycles", "1", "--cycles", "2"]
    pytester.runpytest_subprocess(*words).assert_outcomes(passed=6)


def test_cells_know_what_all_of_them_need_and_how_to_run_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from harness.pytest_plugin.dimensions import command
        def test_plain(): pass
        def test_it(scenario, cell_options, request):
            assert {one.name for one in cell_options.builds} == {"3.17.1", "4.2.1"}
            assert {one.name for one in cell_options.workloads} == {"python-sleeper", "c-frames"}
            words = ["pytest", "a::b", "--selection", "smoke", "--cpu", "neoverse-n1", "--cycles", "1"]
            assert command(request.config, "a::b") == words
    """)
    result = pytester.runpytest_inprocess("--selection", "smoke", "--cpu", "neoverse-n1", "--cycles", "1")
    result.assert_outcomes(passed=9)


def test_what_cannot_be_provided_is_an_error_and_no_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRIU_PAC_OFFLINE", "1")
    pytester.makepyfile("def test_it(cell_result): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines("*the harness is offline*")


def test_workers_of_auto_are_as_many_as_machines_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pytest_xdist_auto_num_workers() == machines_at_once()
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "7")
    assert pytest_xdist_auto_num_workers() is None, "xdist's own variable goes first"


def test_auto_asks_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import harness.pytest_plugin
        harness.pytest_plugin.machines_at_once = lambda: 3
    """)
    pytester.makepyfile("def test_it(worker_id): assert worker_id in {'gw0', 'gw1', 'gw2'}")
    result = pytester.runpytest_subprocess("-n", "auto")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("*3 workers*")


def test_without_xdist_there_is_no_hook_and_no_complaint(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1)


def test_collecting_needs_no_network_no_programs_and_no_cache(
    tmp_path: Path, pytester: pytest.Pytester
) -> None:
    """The end-to-end tests of this project, where nothing but Python is there."""
    pytester.makepyfile(
        nothing="""
        import socket, subprocess
        def refused(*_args, **_keys): raise AssertionError("not while tests are collected")
        socket.socket.connect = subprocess.Popen.__init__ = refused
    """
    )
    tests = Path(__file__).parents[1] / "e2e"
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "nothing",
        "-c",
        str(tests.parents[1] / "tox.ini"),
        str(tests),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        patch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
        result = pytester.run(
            *words, "--collect-only", "-q", "-p", "no:cacheprovider", "--selection", "smoke"
        )
    assert result.ret == 0, result.stdout.str()
    assert f"[{CURE}]" in result.stdout.str()
    assert list(tmp_path.iterdir()) == []
