"""Where files come from: the environment, the host's apt sources, the official mirrors."""

from pathlib import Path

import pytest

from harness.core.errors import HostError, UsageError
from harness.provision.apt_sources import host_mirrors
from harness.provision.settings import TEMPLATES_MAX, Settings, host_architecture

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian/ http://second.example/pub/debian
Suites: trixie trixie-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: trixie
Components: main
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_deb822(apt: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(DEB822, encoding="utf-8")
    assert host_mirrors("debian", apt=apt) == (
        "http://mirror.example/debian",
        "http://second.example/pub/debian",
    )


def test_one_line(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "# deb http://commented.example/debian trixie main\n"
        "deb-src http://source.example/debian trixie main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main\n"
        "deb http://security.example/debian trixie-security main\n"
        "deb https://vendor.example/apt stable main\n",
        encoding="utf-8",
    )
    (apt / "sources.list.d/more.list").write_text(
        "deb http://more.example/debian sid main\n", encoding="utf-8"
    )
    assert host_mirrors("debian", apt=apt) == ("http://mirror.example/debian", "http://more.example/debian")


def test_mirror_file(apt: Path) -> None:
    mirrors = apt / "mirrors.list"
    mirrors.write_text("# first\nhttps://mirror.example/debian\tpriority:1\n", encoding="utf-8")
    (apt / "sources.list").write_text(f"deb mirror+file:{mirrors} trixie main\n", encoding="utf-8")
    assert host_mirrors("debian", apt=apt) == ("https://mirror.example/debian",)


@pytest.mark.parametrize(
    ("line", "machine", "used"),
    [
        ("deb http://u.example/ubuntu-ports noble main", "x86_64", True),
        ("deb http://u.example/ubuntu noble main", "x86_64", False),
        ("deb [arch=amd64] http://u.example/ubuntu noble main", "aarch64", False),
        ("deb [arch=amd64,arm64] http://u.example/ubuntu noble main", "x86_64", True),
        ("deb http://u.example/ubuntu noble main", "aarch64", True),
        ("deb http://security.ubuntu.example/ubuntu-ports noble-security main", "aarch64", False),
        ("deb cdrom:[Ubuntu]/ubuntu noble main", "aarch64", False),
    ],
)
def test_ubuntu_needs_arm64(apt: Path, line: str, machine: str, *, used: bool) -> None:
    (apt / "sources.list").write_text(line + "\n", encoding="utf-8")
    assert bool(host_mirrors("ubuntu", apt=apt, machine=machine)) is used
    assert not host_mirrors("debian", apt=apt, machine=machine)


def test_no_sources_at_all(tmp_path: Path) -> None:
    made = Settings.from_environment({}, apt=tmp_path / "none")
    assert made.mirrors["debian"] == ("http://ftp.debian.org/debian",)
    assert made.mirrors["ubuntu"] == ("http://ports.ubuntu.com/ubuntu-ports",)
    assert made.snapshots == {"debian": (), "ubuntu": ()}
    assert made.cache_root.name == "criu-pac-harness"
    assert not made.offline


def test_environment_wins(apt: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(DEB822, encoding="utf-8")
    made = Settings.from_environment(
        {
            "CRIU_PAC_CACHE": "/somewhere",
            "CRIU_PAC_OFFLINE": "1",
            "CRIU_PAC_MIRROR_DEBIAN": "https://chosen.example/debian/",
            "CRIU_PAC_SNAPSHOT_DEBIAN": "https://frozen.example/20250101/debian",
        },
        apt=apt,
    )
    assert made.mirrors["debian"] == ("https://chosen.example/debian",)
    assert made.snapshots["debian"] == ("https://frozen.example/20250101/debian",)
    assert (made.cache_root, made.offline) == (Path("/somewhere"), True)


def test_bad_url(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CRIU_PAC_MIRROR_UBUNTU=ftp://x is not an http"):
        Settings.from_environment({"CRIU_PAC_MIRROR_UBUNTU": "ftp://x"}, apt=tmp_path)


def test_unserved_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(HostError, match="this machine is riscv64"):
        host_architecture()


@pytest.mark.parametrize(("text", "limit"), [("", TEMPLATES_MAX), ("2.5G", 2_500_000_000), ("0", 0)])
def test_the_limit_of_templates(tmp_path: Path, text: str, limit: int) -> None:
    settings = Settings.from_environment({"CRIU_PAC_TEMPLATES_MAX": text}, apt=tmp_path)
    assert settings.templates_max == limit


def test_a_limit_that_is_no_size_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CRIU_PAC_TEMPLATES_MAX: 'many' is no size"):
        Settings.from_environment({"CRIU_PAC_TEMPLATES_MAX": "many"}, apt=tmp_path)
