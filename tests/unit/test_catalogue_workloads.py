"""workload.toml: what is accepted, and errors that name file, key and reason."""

import pytest

from harness.catalogue.workloads import parse_workload
from harness.core.errors import WorkloadError

SLEEPER = """
name = "python-sleeper"
argv = ["python3", "-u", "sleeper.py"]
ready = '^tick 0$'
progress = '^tick \\d+$'
tick_seconds = 0.3
watch_ticks = 5
language = "python"
"""
VERIFY = """
[verify]
signal = "SIGUSR1"
passed = '^PASS'
failed = '^FAIL (.*)'
"""
WHERE = "workloads/x/workload.toml"


def test_a_sleeper_is_protected_and_unverified_unless_it_says_otherwise() -> None:
    workload = parse_workload(SLEEPER, WHERE)
    assert workload.name == "python-sleeper"
    assert workload.argv == ("python3", "-u", "sleeper.py")
    assert workload.ready.search("tick 0")
    assert workload.progress.search("tick 17")
    assert not workload.progress.search("tick 17 and more")
    assert (workload.tick_seconds, workload.watch_ticks, workload.min_frames) == (0.3, 5, 1)
    assert workload.verify is None
    assert workload.protected
    assert workload.flags == ()
    assert workload.packages is None


def test_everything_said() -> None:
    more = 'min_frames = 200\nbranch_protection = "none"\nflags = ["thread-masks", "thread-keys"]\n'
    text = SLEEPER.replace('"python"', '"c"') + more + 'packages = "redis"\n'
    workload = parse_workload(text + VERIFY, WHERE)
    assert workload.packages == "redis"
    assert (workload.min_frames, workload.protected, workload.flags) == (
        200,
        False,
        ("thread-keys", "thread-masks"),
    )
    assert workload.verify is not None
    assert workload.verify.signal == "SIGUSR1"
    assert workload.verify.passed.search("PASS 200 frames")
    found = workload.verify.failed.search("FAIL frame 3")
    assert found is not None
    assert found[1] == "frame 3"


def test_equal_texts_give_equal_values() -> None:
    assert parse_workload(SLEEPER + VERIFY, WHERE) == parse_workload(SLEEPER + VERIFY, WHERE)
    assert hash(parse_workload(SLEEPER, WHERE)) == hash(parse_workload(SLEEPER, WHERE))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('name = "python-sleeper"', "", "name: missing"),
        ('name = "python-sleeper"', "name = 3", "name: must be a non-empty string, not 3"),
        ('name = "python-sleeper"', 'name = "../up"', "name: '../up' must be lower-case words"),
        ('argv = ["python3", "-u", "sleeper.py"]', "argv = []", "argv: must name a program"),
        ('argv = ["python3", "-u", "sleeper.py"]', 'argv = "python3"', "argv: must be a list"),
        ('argv = ["python3", "-u", "sleeper.py"]', "argv = [1]", "argv: must be a list"),
        ("ready = '^tick 0$'", "ready = '(tick'", "ready: .* is no regular expression"),
        ("ready = ", "redy = ", "redy: unknown key; did you mean ready"),
        ("tick_seconds = 0.3", "tick_seconds = 0", "tick_seconds: must be a number of at least 0.001"),
        ("tick_seconds = 0.3", "tick_seconds = inf", "tick_seconds: must be a number"),
        ("tick_seconds = 0.3", "tick_seconds = nan", "tick_seconds: must be a number"),
        ("tick_seconds = 0.3", "tick_seconds = true", "tick_seconds: must be a number"),
        ("watch_ticks = 5", "watch_ticks = 0", "watch_ticks: must be a number of at least 1"),
        ("watch_ticks = 5", "watch_ticks = 2.5", "watch_ticks: must be a whole number"),
        ('language = "python"', 'language = "perl"', "language: 'perl' is none of c, "),
        (
            'language = "python"',
            'language = "c"\nbranch_protection = "yes"',
            "branch_protection: 'yes' is none of standard, pac-ret\\+b-key, none",
        ),
        (
            'language = "python"',
            'language = "python"\nbranch_protection = "none"',
            "branch_protection: a Python program has that of its interpreter",
        ),
        ('language = "python"', 'language = "python"\nflags = ["signed-data"]', "ready: a group"),
        ("ready = '^tick 0$'", "ready = '^tick (?P<signed>0)$'", "ready: a group"),
        ('language = "python"', 'language = "python"\nverify = 1', "verify: must be a table"),
        ('language = "python"', 'language = "python"\nmin_frames = 0', "min_frames: must be a number"),
        ('language = "python"', 'language = "python"\npackages = ["redis"]', "packages: must be a non-empty"),
        ('language = "python"', 'language = "python"\npackages = "reddis"', ".*'reddis'; did you mean redis"),
        ('language = "python"', 'language = "python', "not valid TOML"),
    ],
)
def test_a_broken_file_is_named_with_key_and_reason(old: str, new: str, reason: str) -> None:
    assert old in SLEEPER
    with pytest.raises(WorkloadError, match=f"^{WHERE}: {reason}"):
        parse_workload(SLEEPER.replace(old, new), WHERE)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('signal = "SIGUSR1"', "", "verify.signal: missing"),
        ('signal = "SIGUSR1"', 'signal = "10"', "verify.signal: '10' is no signal name"),
        ("passed = '^PASS'", "passed = '['", "verify.passed: "),
        ("passed = ", "pass = ", "verify.pass: unknown key; did you mean passed"),
    ],
)
def test_a_broken_verify_table_is_named_too(old: str, new: str, reason: str) -> None:
    assert old in VERIFY
    with pytest.raises(WorkloadError, match=f"^{WHERE}: {reason}"):
        parse_workload(SLEEPER + VERIFY.replace(old, new), WHERE)
