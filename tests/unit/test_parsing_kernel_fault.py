"""Kernel logs of dying user programs."""

from pathlib import Path

from harness.parsing.kernel_fault import parse_faults

DATA = Path(__file__).parents[1] / "data"


def _sample(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


# Where the second record of the same death starts.
SIGNAL_RECORD = "[   53.824975] potentially unexpected fatal signal 11."


def test_both_records_of_one_death_are_one_fault_with_its_signal() -> None:
    (fault,) = parse_faults(_sample("dmesg-segv-neoverse-v1.txt"))
    assert (fault.process, fault.pid, fault.signal) == ("python3", 495, 11)
    assert fault.pc == fault.lr == fault.fault_address == 0x0069FFFFB754E4DC
    assert (fault.sp, fault.pstate, fault.esr) == (0x0000FFFFD6B78230, 0x80001000, 0x82000004)
    assert fault.description == "IABT (lower EL), level 0 translation fault"
    assert not fault.is_fpac
    assert sorted(fault.registers) == sorted(f"x{number}" for number in range(30))
    assert fault.registers["x8"] == 0x73
    assert fault.registers["x27"] == 0x0000FFFFB77B8068
    assert fault.registers["x0"] == 0


def test_a_failed_authentication_is_known_by_its_exception_class() -> None:
    (fault,) = parse_faults(_sample("dmesg-fpac-neoverse-n2.txt"))
    assert (fault.process, fault.pid, fault.signal) == ("python3", 877, 4)
    assert fault.is_fpac
    assert fault.esr == 0x72000000
    assert fault.pc == 0x0000FFFF9D780F60
    assert fault.lr == 0x0049FFFF9D7E2A10
    assert fault.fault_address is None


def test_a_fault_without_the_signal_record_has_no_signal() -> None:
    log = _sample("dmesg-segv-neoverse-v1.txt").split(SIGNAL_RECORD)[0]
    (fault,) = parse_faults(log)
    assert fault.signal is None
    assert fault.pc == 0x0069FFFFB754E4DC


def test_a_signal_record_alone_is_a_fault_without_esr() -> None:
    log = SIGNAL_RECORD + _sample("dmesg-segv-neoverse-v1.txt").split(SIGNAL_RECORD)[1]
    (fault,) = parse_faults(log)
    assert (fault.process, fault.pid, fault.signal, fault.esr) == ("python3", 495, 11, None)
    assert fault.pc == 0x0069FFFFB754E4DC


def test_faults_of_two_processes_stay_apart() -> None:
    both = _sample("dmesg-segv-neoverse-v1.txt") + _sample("dmesg-fpac-neoverse-n2.txt")
    assert [(fault.pid, fault.signal) for fault in parse_faults(both)] == [(495, 11), (877, 4)]


def test_a_second_death_with_the_same_pid_stays_apart() -> None:
    log = _sample("dmesg-segv-neoverse-v1.txt")
    faults = parse_faults(log + log.replace("b754e4dc", "b754e500"))
    assert [fault.pc for fault in faults] == [0x0069FFFFB754E4DC, 0x0069FFFFB754E500]
    assert [fault.signal for fault in faults] == [11, 11]


def test_a_serial_console_ends_lines_with_carriage_returns() -> None:
    (fault,) = parse_faults(_sample("dmesg-fpac-neoverse-n2.txt").replace("\n", "\r\n"))
    assert fault.lr == 0x0049FFFF9D7E2A10


def test_a_name_with_brackets_and_an_exception_without_esr() -> None:
    (fault,) = parse_faults("[    1.0] my [x] app[7]: unhandled exception: SP/PC alignment exception")
    assert (fault.process, fault.pid, fault.esr) == ("my [x] app", 7, None)
    assert fault.description == "SP/PC alignment exception"
    assert fault.exception_class is None
    assert fault.pc is None


def test_other_lines_are_no_faults() -> None:
    assert parse_faults("") == ()
    assert parse_faults("[ 1.000000] pc : 0069ffffb754e4dc\n[ 1.1] random: crng init done\n") == ()
    assert parse_faults("potentially unexpected fatal signal 11.\n(and the log is cut here)") == ()
