"""CRIU's command line in both arms, and what becomes of its log and its hangs."""

from pathlib import Path

import pytest

from harness.catalogue.criu_builds import CRIU_BUILDS, DEFAULT_CRIU
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.core.errors import MachineDiedError
from harness.guest.container import IMAGES, Container
from harness.guest.criu import KEY_MODULE, NO_PLUGINS, Criu, CriuRun, criu_command
from harness.machines.fake import Answer, Call, FakeMachine
from harness.parsing.criu_log import CriuLog

DATA = Path(__file__).parents[1] / "data"
DUMPED = (DATA / "criu-dump-3.17.1.log").read_text("utf-8")
RESTORED = (DATA / "criu-restore-3.17.1.log").read_text("utf-8")
NSENTER = ("nsenter", "-t", "412", "-a", "--")


def _soon() -> Deadline:
    return Deadline.after(10, "CRIU")


class LogReads(FakeMachine):
    """Keeps with which deadline each file was read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: dict[str, Deadline] = {}

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        self.reads[path] = deadline
        return super().read_file(path, deadline)


def _machine(answer: Answer | str | MachineDiedError = "", log: str | None = DUMPED) -> LogReads:
    machine = LogReads()
    machine.answer(NSENTER, answer)
    if log is not None:
        machine.files = {f"{IMAGES}/{action}-1.log": log.encode() for action in ("dump", "restore")}
    return machine


def _criu(machine: FakeMachine, module: KeyModule = KeyModule.NONE) -> Criu:
    return Criu(Container(machine, "412"), DEFAULT_CRIU, module)


def _commands(module: KeyModule) -> list[tuple[str, ...]]:
    """Return the command lines of one whole cycle of an arm."""
    machine = _machine()
    criu = _criu(machine, module)
    criu.warm_up(_soon())
    criu.dump(35, _soon(), cycle=1)
    criu.restore(_soon(), cycle=1)
    return [call.argv for call in machine.calls]


def test_the_arms_differ_in_the_plugin_directory_and_in_nothing_else() -> None:
    stock, module = _commands(KeyModule.NONE), _commands(KeyModule.PLUGIN)
    assert len(stock) == len(module) == 3  # check, dump, restore
    differences = []
    for one, other in zip(stock, module, strict=True):
        assert len(one) == len(other)
        differences += [
            (one[at - 1], a, b) for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b
        ]
    assert differences == [("--libdir", NO_PLUGINS, KEY_MODULE)] * 2


def test_a_policy_is_put_into_the_environment_of_criu() -> None:
    plain, policy = _commands(KeyModule.PLUGIN), _commands(KeyModule.PLUGIN_DISABLE_AUTH)
    for one, other in zip(plain[1:], policy[1:], strict=True):
        words = ("env", "CRIU_PAC_POLICY=disable-auth")
        assert other == (*NSENTER, *words, *one[len(NSENTER) :])


def test_a_stand_in_is_its_original_with_the_mask_preloaded() -> None:
    original, stand_in = (criu_command(CRIU_BUILDS[name]) for name in ("4.2.1", "4.2.1-nopac"))
    assert [word for word in stand_in if word not in original] == [
        "--preload",
        "/opt/criu-pac/lib/mask_pac.so",
    ]
    assert [word for word in stand_in if word in original] == list(original)


def test_a_dump_of_one_process_with_the_bundles_own_loader() -> None:
    machine = _machine()
    run = _criu(machine).dump(35, _soon(), cycle=2)
    (call,) = machine.called(*NSENTER)
    words = call.argv[len(NSENTER) :]
    root = "/opt/criu-pac/criu/criu-3.17.1"
    assert words[0] == f"{root}/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"
    assert words[3:5] == (f"{root}/usr/sbin/criu", "dump")
    assert words[words.index("-t") + 1] == "35"
    assert words[words.index("-D") + 1] == IMAGES
    assert words[words.index("-o") + 1] == run.log_name == "dump-2.log"
    assert list(machine.reads) == [f"{IMAGES}/dump-2.log"]
    assert run.argv == words


@pytest.mark.parametrize("module", KeyModule)
def test_a_command_line_can_be_told_without_running_it(module: KeyModule) -> None:
    """What a report prints is what was run, and it is for use inside of the container."""
    _, dump, restore = _commands(module)
    machine = LogReads()
    criu = _criu(machine, module)
    assert (*NSENTER, *criu.command_line("dump", pid=35, cycle=1)) == dump
    assert (*NSENTER, *criu.command_line("restore", cycle=1)) == restore
    assert machine.calls == []


def test_a_process_id_is_for_a_dump_and_detaching_for_a_restore() -> None:
    criu = _criu(_machine())
    dump, restore = criu.command_line("dump", pid=35, cycle=3), criu.command_line("restore", cycle=3)
    assert dump[-2:] == ("-t", "35")
    assert "-t" not in restore
    assert "--restore-detached" not in dump
    assert [line[line.index("-o") + 1] for line in (dump, restore)] == ["dump-3.log", "restore-3.log"]


def test_a_dump_never_leaves_the_task_running_and_a_restore_is_detached() -> None:
    _, dump, restore = _commands(KeyModule.NONE)
    assert "--leave-running" not in dump
    assert "--restore-detached" in restore


def test_a_run_that_ended() -> None:
    run = _criu(_machine(log=RESTORED)).restore(_soon(), cycle=1)
    assert (run.returncode, run.hung, run.log_name) == (0, False, "restore-1.log")
    assert run.log.version == "3.17.1"
    assert run.log.finished
    assert run.seconds >= 0


def test_a_hang_has_no_exit_code_and_its_log_is_read_all_the_same() -> None:
    hung = "(00.198765)    452: Restoring PAC keys\n"
    machine = _machine(Answer(hangs=True), hung)
    for run in (
        _criu(machine).restore(_soon(), cycle=1),
        _criu(machine).dump(35, Deadline.after(0, "dump"), cycle=1),
    ):
        assert run.returncode is None
        assert run.hung
        assert run.log.last_line.endswith("Restoring PAC keys")


def test_the_log_of_a_hang_is_read_with_time_of_its_own() -> None:
    machine = _machine(Answer(hangs=True))
    over = Deadline.after(0, "dump")
    _criu(machine).dump(35, over, cycle=1)
    assert machine.reads[f"{IMAGES}/dump-1.log"].at > over.at + 1


def test_a_machine_that_died_is_no_hang_of_criu() -> None:
    with pytest.raises(MachineDiedError):
        _criu(_machine(MachineDiedError("QEMU ended"))).dump(35, _soon(), cycle=1)


def test_a_missing_log_is_an_empty_one() -> None:
    machine = _machine(Answer(returncode=1, stderr=b"criu: cannot open"), log=None)
    run = _criu(machine).dump(35, _soon(), cycle=1)
    assert run.log == CriuLog(version=None, errors=(), last_line="", finished=False)
    assert (run.returncode, run.reason) == (1, "criu: cannot open")


def test_a_log_of_another_cycle_is_not_read() -> None:
    run = _criu(_machine()).dump(35, _soon(), cycle=2)
    assert (run.log_name, run.log.version) == ("dump-2.log", None)


def test_a_log_with_damaged_text_is_read_all_the_same() -> None:
    machine = _machine()
    machine.files[f"{IMAGES}/dump-1.log"] = b"(00.1) Error (criu/x.c:1): \xff\xfe here\n(00.2) half"
    run = _criu(machine).dump(35, _soon(), cycle=1)
    assert run.log.errors == ("Error (criu/x.c:1): \ufffd\ufffd here",)
    assert run.log.last_line == "(00.2) half"


def _failed(log: str) -> CriuRun:
    return _criu(_machine(Answer(returncode=1), log)).dump(35, _soon(), cycle=1)


def test_the_reason_is_what_made_it_fail() -> None:
    log = (DATA / "criu-restore-failed.log").read_text("utf-8")
    assert "File usr/bin/python3.13 has bad size" in _failed(log).reason


def test_the_reason_is_no_error_that_a_success_has_too() -> None:
    """CRIU probes the kernel first, and what it finds missing is an "Error" in every log."""
    cause = "Error (criu/seize.c:900): Can't seize 35: task is dead"
    log = (
        DUMPED.split("(00.545063)")[0]
        + f"(00.55) {cause}\n(00.56) Error (criu/cr-dump.c:1781): Dumping FAILED.\n"
    )
    assert "Can't seize 35" in _failed(log).reason


def test_of_several_causes_the_last_one_counts() -> None:
    log = (
        "(00.1) Error (criu/a.c:1): first\n"
        "(00.2) Error (criu/b.c:2): second\n"
        "(00.3) Error (criu/cr-dump.c:1781): Dumping FAILED.\n"
    )
    assert _failed(log).reason == "Error (criu/b.c:2): second"


def test_the_key_modules_words_come_before_criu_s() -> None:
    """CRIU only says that a plugin failed, and says more while it cleans up."""
    log = (
        "(00.1) Error (criu/util.c:642): exited, status=1\n"
        "(00.2) pac-key-module: error: pac-keys.img: belongs to other images\n"
        "(00.3) Error (criu/cr-restore.c:1480): Plugin failed\n"
        "(00.4) Error (criu/cr-restore.c:2447): Restoring FAILED.\n"
    )
    assert _failed(log).reason == "pac-key-module: error: pac-keys.img: belongs to other images"


def test_a_warning_of_the_key_module_is_no_reason() -> None:
    log = "(00.1) pac-key-module: warning: odd\n(00.2) Error (criu/x.c:1): real\n(00.3) going on\n"
    assert _failed(log).reason == "Error (criu/x.c:1): real"


def test_nothing_but_the_final_word_gives_what_else_there_is() -> None:
    log = "(00.3) Error (criu/cr-dump.c:1781): Dumping FAILED.\n"
    run = _criu(_machine(Answer(returncode=1, stderr=b"out of memory"), log)).dump(35, _soon(), cycle=1)
    assert run.reason == "out of memory"
    assert _failed(log).reason == log.strip()


def test_a_log_without_errors_gives_its_last_line() -> None:
    assert _failed("(00.1) Version: 3.17.1\n(00.2) Dumping task\n").reason == "(00.2) Dumping task"
    assert _failed("").reason == "no message"


def test_warming_up_accepts_a_kernel_that_lacks_something() -> None:
    def check(call: Call) -> Answer:
        assert call.argv[-1] == "check"
        return Answer(returncode=1)

    machine = FakeMachine()
    machine.answer(NSENTER, check)
    _criu(machine).warm_up(_soon())
    assert len(machine.calls) == 1
