"""Answers of pacprobe, captured in guests (Linux 6.1), and what becomes of damaged ones."""

import json
from typing import Any

import pytest

from harness.core.errors import MachineError
from harness.guest.probe_results import (
    CoreReport,
    KeyChange,
    KeyedPacState,
    MachineFacts,
    Reseed,
    Started,
    ThreadsReport,
    WatchReport,
    parse,
)

NEOVERSE_V1 = (
    '{"hwcap":"0x00000000cfffffff","hwcap2":"0x000000000001b201","paca":true,"pacg":true,"apa":0,"api":3,'
    '"apa3":0,"algorithm":"impdef","fpac":false,"midr":"0x00000000411fd402","page_size":4096,'
    '"insn_mask":"0x007f000000000000","data_mask":"0x007f000000000000",'
    '"enabled_keys":"0x000000000000000f","keys_readable":true,"signed_lr":true,'
    '"release":"6.1.0-50-cloud-arm64"}'
)
# neoverse-v1 again, with arm64.nopauth on the kernel's command line.
NO_PAC = (
    '{"hwcap":"0x000000000fffffff","hwcap2":"0x000000000001b201","paca":false,"pacg":false,"apa":0,"api":0,'
    '"apa3":0,"algorithm":"none","fpac":false,"midr":"0x00000000411fd402","page_size":4096,"insn_mask":null,'
    '"data_mask":null,"enabled_keys":null,"keys_readable":false,"signed_lr":false,'
    '"release":"6.1.0-50-cloud-arm64"}'
)
KEYS = (
    '"keys":{"fingerprint":"2e5f0125a2cee83e","ia":"81c8e347822018d9","ib":"1a911c6830400858",'
    '"da":"c226209e09117cf6","db":"d5a5f9de03aa8c74","ga":"75bbb68aab3960b8"}'
)
FRAME = (
    '{"address":"0x0000fffffab685d0","lr":"0x0039000001012208","stripped":"0x0000000001012208","signed":true}'
)
MASKS = (
    '"insn_mask":"0x007f000000000000","data_mask":"0x007f000000000000","enabled_keys":"0x000000000000000f"'
)
THREADS = (
    '{"pid":82,"threads":[{"tid":82,"nstid":7,"nspid":7,"state":"S","pc":"0x0000000001015eb4",'
    '"lr":"0x0000000001015e8c","sp":"0x0000fffffab68590","pstate":"0x0000000080001000",'
    f'"fp":"0x0000fffffab68590",{MASKS},{KEYS},"frames":[{FRAME}],"records":15,"unsigned_returns":2}}],"zombies":[]}}'
)
WATCH = (
    f'{{"pid":82,"start":[{FRAME}],"returned":[],"stops":7,"writes":3,"ended":"ticks",{MASKS},"keys":null}}'
)
# neoverse-n2: FPAC, so the signal is SIGILL and only LR is dirty.
CORE = (
    '{"pid":83,"nspid":12,"signal":4,"comm":"work","threads":[{"tid":83,"nstid":12,"signal":4,'
    '"pc":"0x0000000001012244","lr":"0x0023000001012200","sp":"0x0000ffffccde3460",'
    f'"pstate":"0x0000000000001000",{MASKS},{KEYS},'
    '"pc_mapping":"01012000-01018000 r-xp 00002000 00:02 8                                  /work",'
    '"lr_mapping":null}],"siginfo":{"signo":4,"code":2,"addr":"0x0000000001012244"}}'
)

ANSWERS = [
    (MachineFacts, "machine", NEOVERSE_V1),
    (MachineFacts, "machine", NO_PAC),
    (ThreadsReport, "threads", THREADS),
    (WatchReport, "watch", WATCH),
    (CoreReport, "core", CORE),
    (KeyChange, "newkeys", '{"threads":2,"changed":true}'),
    (KeyedPacState, "fresh", f"{{{KEYS},{MASKS}}}"),
    (Started, "launch", '{"pid":12}'),
    (Reseed, "reseed", '{"bytes":16}'),
]


def test_machine_with_pac() -> None:
    facts = parse(MachineFacts, "machine", NEOVERSE_V1)
    assert (facts.paca, facts.signed_lr, facts.fpac, facts.algorithm) == (True, True, False, "impdef")
    assert facts.insn_mask == 0x007F000000000000
    assert facts.hwcap >> 30 & 1 == 1


def test_machine_without_pac() -> None:
    facts = parse(MachineFacts, "machine", NO_PAC)
    assert (facts.paca, facts.signed_lr, facts.insn_mask, facts.enabled_keys) == (False, False, None, None)


def test_threads_with_frames_and_keys() -> None:
    (thread,) = parse(ThreadsReport, "threads", THREADS).threads
    assert thread.frames is not None
    assert thread.keys is not None
    assert thread.frames[0].lr & ~0x007F000000000000 == thread.frames[0].stripped
    assert (thread.tid, thread.nstid, thread.keys.ia) == (82, 7, "81c8e347822018d9")
    assert (thread.records, thread.unsigned_returns) == (15, 2)


def test_core_with_siginfo() -> None:
    report = parse(CoreReport, "core", CORE)
    assert report.siginfo is not None
    assert report.siginfo.addr == report.threads[0].pc
    assert report.threads[0].lr_mapping is None


def test_the_probes_own_error_is_passed_on() -> None:
    with pytest.raises(MachineError, match=r"pacprobe watch failed: thread 9 is gone"):
        parse(WatchReport, "watch", '{"error":"thread 9 is gone"}')


@pytest.mark.parametrize("text", ["", "Killed", "[]", "null", '{"pid":82', "{}", '{"error":"x","pid":1}'])
def test_text_that_is_no_answer_is_quoted(text: str) -> None:
    with pytest.raises(MachineError) as caught:
        parse(ThreadsReport, "threads", text)
    assert "pacprobe threads" in caught.value.message
    assert repr(text) in caught.value.message


def objects(value: Any) -> list[dict[str, Any]]:
    """Every object inside a JSON value, itself included."""
    if isinstance(value, list):
        return [found for item in value for found in objects(item)]
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in objects(item))]
    return []


@pytest.mark.parametrize(("kind", "subcommand", "text"), ANSWERS)
def test_every_missing_or_unknown_key_is_an_error(kind: type[object], subcommand: str, text: str) -> None:
    parse(kind, subcommand, text)
    for at, original in enumerate(objects(json.loads(text))):
        for key in original:
            value = json.loads(text)
            del objects(value)[at][key]
            with pytest.raises(MachineError, match=f"pacprobe {subcommand}.* has no {key}"):
                parse(kind, subcommand, json.dumps(value))
        value = json.loads(text)
        objects(value)[at]["surprise"] = 1
        with pytest.raises(MachineError, match=f"pacprobe {subcommand}.* unknown surprise"):
            parse(kind, subcommand, json.dumps(value))


@pytest.mark.parametrize(("kind", "subcommand", "text"), ANSWERS)
def test_every_value_of_another_type_is_an_error(kind: type[object], subcommand: str, text: str) -> None:
    for at, original in enumerate(objects(json.loads(text))):
        for key in original:
            value = json.loads(text)
            objects(value)[at][key] = 1.5
            with pytest.raises(MachineError, match=rf"\.{key} is 1\.5"):
                parse(kind, subcommand, json.dumps(value))


@pytest.mark.parametrize(
    "pointer", ["0x1", "1234567890abcdef12", "0x00000000CFFFFFFF", "0x00000000cfffffff\n"]
)
def test_only_the_probes_own_form_of_a_pointer_counts(pointer: str) -> None:
    value = json.loads(NEOVERSE_V1) | {"hwcap": pointer}
    with pytest.raises(MachineError, match=r"hwcap is .* not a pointer"):
        parse(MachineFacts, "machine", json.dumps(value))


@pytest.mark.parametrize(("key", "value"), [("page_size", True), ("paca", 1), ("paca", None), ("release", 6)])
def test_types_are_not_mixed_up(key: str, value: object) -> None:
    with pytest.raises(MachineError, match=key):
        parse(MachineFacts, "machine", json.dumps(json.loads(NEOVERSE_V1) | {key: value}))
