"""The host as the doctor sees it: a fake root directory and fake registers stand in for an arm64 machine."""

import gzip
import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from harness.catalogue.cpus import PacAlgorithm
from harness.core.errors import HostError
from harness.doctor import criu, engines, host
from harness.doctor.criu import Installed, Route, find_routes
from harness.doctor.diagnosis import Conclusion
from harness.doctor.engines import Engine, daemon_path, find_engines
from harness.doctor.examine import Examined, diagnose_host, judge
from harness.doctor.host import Host, look_at_host
from harness.doctor.registers import AuthRegisters
from harness.parsing.criu_program import CriuProgram

OLD = CriuProgram(
    version="3.17.1", native_keys=False, plugin_hooks=10, restorer_protected=False, reads_gnu_hash=False
)
NEW = replace(OLD, version="4.2.1", native_keys=True, plugin_hooks=13, reads_gnu_hash=True)
GRAVITON3 = Host(
    architecture="aarch64",
    release="6.1.0-21-cloud-arm64",
    cpu="Neoverse V1",
    address_auth=True,
    generic_auth=True,
    registers=AuthRegisters(algorithm=PacAlgorithm.IMPDEF, fpac=False),
    mask=0x007F000000000000,
    keys_readable=True,
    config={},
    boot=(),
    checkpoint_restore=True,
    vdso_tags=frozenset({"DT_HASH", "DT_GNU_HASH"}),
)
GRAVITON2 = replace(GRAVITON3, cpu="Neoverse N1", address_auth=False, registers=None, mask=None)
ABSENT = Installed(
    path=Path("/usr/lib/criu"),
    named_by="CRIU's default",
    state="not installed",
    usable=False,
    policy=None,
    late_amdgpu=False,
)
PRESENT = replace(ABSENT, state="installed", usable=True, policy="refuse")


def route(program: CriuProgram | None, module: Installed = ABSENT, caller: str = "criu") -> Route:
    problem = None if program else "it is a script"
    return Route(caller=caller, criu=Path("/usr/sbin/criu"), program=program, problem=problem, module=module)


def on(machine: Host, *routes: Route) -> Examined:
    return Examined(host=machine, engines={}, routes=routes)


NO_CRIU = replace(route(OLD), criu=None, program=None, problem="no criu was found")


@pytest.mark.parametrize(
    ("examined", "conclusion", "says"),
    [
        (on(GRAVITON3, route(OLD)), Conclusion.AFFECTED, "dies of SIGSEGV when"),
        (on(replace(GRAVITON3, registers=None), route(OLD)), Conclusion.AFFECTED, "SIGSEGV or SIGILL"),
        (on(GRAVITON3, route(OLD, PRESENT)), Conclusion.SAFE, "the key module is in /usr/lib/criu"),
        (on(GRAVITON3, route(NEW)), Conclusion.SAFE, "keeps keys itself"),
        (on(GRAVITON2, route(OLD)), Conclusion.SAFE, "no paca in /proc/cpuinfo"),
        (on(GRAVITON2, NO_CRIU), Conclusion.SAFE, "no paca"),
        (on(GRAVITON2, route(None)), Conclusion.SAFE, "no paca"),
        (on(replace(GRAVITON2, boot=("arm64.nopauth",)), route(OLD)), Conclusion.SAFE, "arm64.nopauth"),
        (on(GRAVITON3, NO_CRIU), Conclusion.CANNOT_TELL, "no criu was found"),
        (on(GRAVITON3, route(None)), Conclusion.CANNOT_TELL, "it is a script"),
        (on(replace(GRAVITON3, address_auth=None), route(OLD)), Conclusion.CANNOT_TELL, "could not be seen"),
        (on(replace(GRAVITON3, architecture="x86_64"), route(OLD)), Conclusion.SAFE, "x86_64 has no"),
        (
            on(replace(GRAVITON3, vdso_tags=frozenset({"DT_GNU_HASH"})), route(OLD, PRESENT)),
            Conclusion.AFFECTED,
            "DT_HASH",
        ),
    ],
)
def test_the_conclusion_about_a_host(examined: Examined, conclusion: Conclusion, says: str) -> None:
    found = diagnose_host(examined, ["something"])
    assert found.conclusion is conclusion
    assert says in found.reasons[0]
    assert bool(found.remedies) is (conclusion is Conclusion.AFFECTED)
    record = json.loads(json.dumps(found.record()))
    assert {"conclusion", "reasons", "remedies", "facts", "not_seen"} == set(record)
    assert record["not_seen"] == ["something"]


def test_the_worst_caller_decides() -> None:
    found = judge(on(GRAVITON3, route(OLD, PRESENT), route(OLD, ABSENT, "docker, runc")))
    assert found.conclusion is Conclusion.AFFECTED
    assert any(one.startswith("docker, runc: ") and "dies" in one for one in found.reasons)


def test_a_safe_host_names_what_it_is_not_safe_for() -> None:
    reasons = judge(on(GRAVITON3, route(NEW))).reasons
    assert any("known issue per-thread-keys" in one for one in reasons)
    assert len(judge(on(GRAVITON3, route(NEW, PRESENT))).reasons) == 1


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake root directory of an arm64 host without PAC, and fakes for what only such a host has."""
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/ns_last_pid").write_text("1\n")
    (tmp_path / "proc/cmdline").write_text("quiet arm64.nopauth id_aa64isar1.gpi=0 arm64.nosve\n")
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nFeatures : fp asimd cpuid\n")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-1-generic")
    monkeypatch.setattr(host, "_vdso", lambda _: frozenset({"DT_HASH"}))
    monkeypatch.setattr(host, "read_registers", lambda: AuthRegisters(algorithm=None, fpac=False))
    return tmp_path


def test_what_a_host_shows(root: Path) -> None:
    not_seen: list[str] = []
    found = look_at_host(root, not_seen)
    assert (found.kernel, found.address_auth, found.checkpoint_restore) == ((6, 8), False, True)
    assert found.boot == ("arm64.nopauth", "id_aa64isar1.gpi=0")
    assert [one.split(":")[0] for one in not_seen] == ["the kernel's configuration"]


def test_the_kernels_configuration(root: Path) -> None:
    text = b"CONFIG_ARM64_PTR_AUTH=y\n# CONFIG_CHECKPOINT_RESTORE is not set\nCONFIG_ARM64_VA_BITS=48\n"
    (root / "proc/config.gz").write_bytes(gzip.compress(text))
    found = look_at_host(root, [])
    assert (found.checkpoint_restore, found.va_bits) == (False, 48)
    facts = found.facts()["kernel"]
    assert isinstance(facts, dict)
    assert (facts["CONFIG_ARM64_PTR_AUTH"], facts["CONFIG_CHECKPOINT_RESTORE"]) == ("y", "n")


def test_what_cannot_be_seen_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise HostError("cannot trace thread 1")

    def no_code() -> AuthRegisters:
        raise OSError(13, "Permission denied")

    (root / "proc/cpuinfo").write_text("Features : fp paca pacg cpuid\n")
    monkeypatch.setattr(host, "pac_mask", denied)
    monkeypatch.setattr(host, "read_registers", no_code)
    not_seen: list[str] = []
    found = look_at_host(root, not_seen)
    assert (found.address_auth, found.mask, found.registers) == (True, None, None)
    assert any(one.startswith("the PAC mask: cannot trace") for one in not_seen)
    assert any(one.endswith("may not run: Permission denied") for one in not_seen)
    (root / "proc/cpuinfo").write_text("Features : fp paca pacg\n")
    assert look_at_host(root, not_seen).registers is None
    assert "does not show ID registers" in not_seen[-2] + not_seen[-1]
    (root / "proc/cpuinfo").unlink()
    assert look_at_host(root, []).address_auth is None


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is taken for an old CRIU, alone in PATH."""
    path = tmp_path / "bin/criu"
    path.parent.mkdir()
    path.write_bytes(b"fake")
    path.chmod(0o755)
    monkeypatch.setattr(criu, "criu_program", lambda _: OLD)
    monkeypatch.setattr(criu, "search_path", lambda: str(path.parent))
    return path


ENGINE = Engine(name="runc", path="/usr/bin/runc", version="1.1", details={})
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00\x01\x00\x00\x00" + bytes(40)


def test_each_caller_has_a_plugin_directory_of_its_own(program: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/criu").mkdir(parents=True)
    (root / "etc/criu/runc.conf").write_text("libdir /opt/plugins\n")
    (root / "usr/lib/criu").mkdir(parents=True)
    (root / "usr/lib/criu/pac_key_plugin.so").write_bytes(ELF)
    direct, runc = find_routes(root, {"runc": ENGINE}, ELF, [])
    assert (direct.program, direct.criu) == (OLD, program)
    assert (str(direct.module.path), direct.module.state) == ("/usr/lib/criu", "installed, this build")
    assert (str(runc.module.path), runc.module.state) == ("/opt/plugins", "not installed")
    # crun reads runc.conf with CRIU 4.2 and later only.
    podman = find_routes(root, {"podman": ENGINE}, b"other", [])[1]
    assert (str(podman.module.path), podman.module.state) == ("/usr/lib/criu", "installed, another build")


def test_a_plugin_for_another_cpu_is_no_cure(program: Path, tmp_path: Path) -> None:
    (tmp_path / "usr/lib/criu").mkdir(parents=True)
    (tmp_path / "usr/lib/criu/pac_key_plugin.so").write_bytes(b"\x7fELF rubbish")
    (only,) = find_routes(tmp_path, {}, None, [])
    assert not only.module.usable
    assert only.module.state.startswith("no plugin for arm64")


def test_a_script_in_place_of_criu_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "criu").write_text("#!/bin/sh\necho Version: 9.9\n")
    (tmp_path / "criu").chmod(0o755)
    monkeypatch.setattr(criu, "search_path", lambda: str(tmp_path))
    not_seen: list[str] = []
    (only,) = find_routes(tmp_path, {}, None, not_seen)
    assert only.program is None
    assert "it says Version: 9.9" in not_seen[0]


def test_the_daemons_path_counts(tmp_path: Path) -> None:
    daemon = tmp_path / "proc/7"
    daemon.mkdir(parents=True)
    (daemon / "comm").write_text("dockerd\n")
    not_seen: list[str] = []
    assert daemon_path(tmp_path, not_seen) is None
    assert "which criu dockerd finds" in not_seen[0]
    (daemon / "environ").write_bytes(b"HOME=/\0PATH=/opt/bin:/bin\0")
    assert daemon_path(tmp_path, not_seen) == "/opt/bin:/bin"


def test_engines_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = '{"ServerVersion": "26.1.5", "ExperimentalBuild": true, "DefaultRuntime": "runc"}'
    scripts = {
        "docker": f"case $1 in info) echo '{info}';; *) echo Docker version 26.1.5, build x;; esac",
        "crun": "echo 'crun version 1.21\n+SYSTEMD +CRIU +YAJL'",
        "podman": "case $1 in info) echo cannot >&2; exit 1;; *) echo podman version 5.4.2;; esac",
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(engines, "search_path", lambda: str(tmp_path))
    not_seen: list[str] = []
    found = find_engines(not_seen)
    assert {name: one.version for name, one in found.items()} == {
        "docker": "26.1.5",
        "podman": "5.4.2",
        "crun": "1.21",
    }
    assert found["docker"].details == {"daemon": "26.1.5", "experimental": True, "runtime": "runc"}
    assert found["crun"].details == {"built with CRIU": True}
    assert found["podman"].details == {"runtime": None}
    assert any(one.endswith("says: cannot") for one in not_seen)
