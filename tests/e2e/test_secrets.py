"""Keys are secrets: no byte of a known key anywhere in what a run leaves, and every clone has its own."""

import logging
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, Container
from harness.guest.probe import SALT
from harness.key_module.keyfile import parse_key_file
from harness.machines.protocol import check
from harness.pytest_plugin import RunScenario
from harness.reporting.jsonl import append_result
from harness.reporting.page import write_reports
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.run import ScenarioRun
from harness.scenario.site import Prepared, Site

KEY_SIZE = 16


def seconds(count: float) -> Deadline:
    return Deadline.after(count, "a step of the test")


class KeepsTheKeys(ScenarioRun):
    """A run from which the test learns the real keys, by the key module's own file."""

    keys: bytes = b""

    def _in_clone(self, site: Site, target: Prepared) -> bool:
        went_on = super()._in_clone(site, target)
        if went_on:
            type(self).keys = site.machine.read_file(f"{IMAGES}/pac-keys.img", seconds(20))
        return went_on


def variants(key: bytes) -> list[bytes]:
    both = [key, key[::-1], key[:8][::-1] + key[8:][::-1]]
    return [form for one in both for form in (one, one.hex().encode(), one.hex().upper().encode())]


def leaks(directory: Path, keys: list[bytes]) -> list[str]:
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            # Half a key is a leak as well.
            found += [
                f"{path.name}: {form!r:.12}"
                for key in keys
                for half in (key, key[:8], key[8:])
                for form in variants(half)
                if form in content
            ]
    return found


def test_the_search_for_leaks_finds_one(tmp_path: Path) -> None:
    key = bytes(range(1, 17))
    (tmp_path / "clean.log").write_text("nothing here")
    assert leaks(tmp_path, [key]) == []
    (tmp_path / "dirty.log").write_bytes(b"x0 : " + key[:8][::-1].hex().encode())
    assert leaks(tmp_path, [key])


def test_no_known_key_in_evidence_results_or_logs(
    run_scenario: RunScenario, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    result = run_scenario(KeyModule.PLUGIN, runner=KeepsTheKeys)
    append_result(tmp_path, result)
    write_reports(tmp_path, [result.record()])
    (tmp_path / "debug.log").write_text(caplog.text)

    assert "pacprobe" in caplog.text, "every command in the guest is logged"
    raw = KeepsTheKeys.keys
    threads = parse_key_file(raw).threads
    assert threads
    keys = [
        thread._keys[at : at + KEY_SIZE] for thread in threads for at in range(0, len(thread._keys), KEY_SIZE)
    ]
    assert len(keys) == 5 * len(threads), "IA, IB, DA, DB and GA of every thread"
    assert all(key in raw for key in keys)
    assert leaks(tmp_path, keys) == []


def test_the_keys_in_a_kept_core_are_blanked(run_scenario: RunScenario, tmp_path: Path) -> None:
    run_scenario(KeyModule.NONE)

    [core] = [path for path in tmp_path.rglob("core.*") if path.suffix != ".json"]
    with core.open("rb") as stream:
        notes = {
            note["n_type"]: note["n_descdata"]
            for segment in ELFFile(stream).iter_segments("PT_NOTE")
            for note in segment.iter_notes()  # type: ignore[attr-defined]
        }
    assert notes[0x407] == bytes(64), "NT_ARM_PACA_KEYS"
    assert notes[0x408] == bytes(16), "NT_ARM_PACG_KEYS"
    assert any(notes["NT_PRSTATUS"]), "the registers are there"


def test_clones_of_one_template_have_keys_of_their_own(lab: Lab, machine_kind: MachineKind) -> None:
    template = lab.template(machine_kind)
    salt = bytes(32)
    seen = []
    for _ in range(2):
        machine = lab.clone(template)
        try:
            check(machine, ["bash", "-c", f"cat > {SALT}"], seconds(10), stdin=salt)
            probe = Container(machine, template.facts["container_pid"]).probe
            seen += [probe.fresh(seconds(10)), probe.fresh(seconds(10))]
        finally:
            lab.release(machine)
    assert None not in seen
    assert len({keys.fingerprint for keys in seen if keys}) == 4
