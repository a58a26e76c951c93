"""`--machine native` as a user who is not root: by Debian's own sudo, or refused for want of it."""

from collections.abc import Iterator

import pytest

from harness.core.deadline import Deadline
from harness.core.process import CommandResult
from harness.machines.protocol import check
from harness.provision.context import Provision
from harness.provision.groups import GROUPS, PackageGroup, Suite
from harness.provision.guest_image import GUEST_GROUP, userland_archive
from harness.provision.settings import Settings
from support.arm_host import ON_HOST, Host
from support.native_runs import LONG, rows, soon, state

SUDO = PackageGroup(
    name="sudo-of-the-host",
    distribution="debian",
    suites=(Suite(name="trixie"),),
    architecture="arm64",
    roots=("sudo",),
    exclude=dict.fromkeys(
        ("debconf", "dpkg", "init-system-helpers", "libpam-runtime", "perl-base"),
        "used by maintainer scripts only, and none is run",
    ),
    beyond=GUEST_GROUP,
    locked=False,
)
USER, ID = "tester", "1000"
RESULTS = f"/home/{USER}/results"
SUDOERS = f"/etc/sudoers.d/{USER}"
# What pam-auth-update writes when libpam-runtime is installed.
PAM = {
    "common-auth": "auth [success=1 default=ignore] pam_unix.so nullok",
    "common-account": "account [success=1 new_authtok_reqd=done default=ignore] pam_unix.so",
    "common-session-noninteractive": "session [default=1] pam_permit.so",
}
# The cache is the user's, as after an installation of their own; systemd-tmpfiles makes sudo's directory.
USERS = f"""
install -d -m 711 /run/sudo
echo {USER}:*:{ID}:{ID}::/home/{USER}:/bin/bash >> /etc/passwd
echo {USER}:x:{ID}: >> /etc/group
install -d -o {ID} -g {ID} /home/{USER}
chown {ID}:{ID} {ON_HOST.cache} {ON_HOST.cache}/*/ {ON_HOST.cache}/*/*/ {ON_HOST.cache}/*/*/*/
chgrp {ID} /run/docker.sock && chmod 660 /run/docker.sock
echo '{USER} ALL=(ALL) NOPASSWD: ALL' > {SUDOERS} && chmod 440 {SUDOERS}
"""


NAP = """
from pathlib import Path
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError
from harness.machines.native import NativeMachine, root_words

words = root_words()
machine = NativeMachine(words, Path("/tmp"), "unix:///run/docker.sock")
print(*words, machine.run(["id", "-u"], Deadline.after(20, "who it is")).text, end="")
try:
    machine.run(["sleep", "987"], Deadline.after(5, "a nap"))
except DeadlineError as error:
    print(error)
"""


@pytest.fixture(scope="session")
def sudo_files() -> Iterator[bytes]:
    """Give what the package of sudo installs, with owners and modes."""
    with Provision(Settings.from_environment(), groups={**GROUPS, SUDO.name: SUDO}) as provision:
        yield userland_archive(provision, SUDO.name, whole=False).read_bytes()


@pytest.fixture
def shared_host(host: Host, sudo_files: bytes) -> Host:
    """Return a host with a user who may be root by sudo, without a password."""
    unpack = ["tar", "-xf", "-", "-C", "/", "--skip-old-files"]
    check(host.machine, unpack, soon("sudo"), stdin=sudo_files)
    for name, rule in PAM.items():
        kind = rule.split()[0]
        text = f"{rule}\n{kind} requisite pam_deny.so\n{kind} required pam_permit.so\n"
        write = ["bash", "-c", f"cat > /etc/pam.d/{name}"]
        check(host.machine, write, soon("a rule of PAM"), stdin=text.encode())
    check(host.machine, ["bash", "-ec", f"ldconfig\n{USERS}"], soon("a user"))
    return host


def as_user(host: Host, words: list[str]) -> CommandResult:
    user = ["setpriv", "--reuid", ID, "--regid", ID, "--clear-groups", "env", f"HOME=/home/{USER}"]
    return host.machine.run([*user, *words], Deadline.after(LONG, "a command of the user"))


def run_as_user(host: Host, words: str) -> CommandResult:
    return as_user(host, ON_HOST.command(*words.split()))


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_a_user_with_sudo_runs_on_the_host_and_puts_it_back(shared_host: Host) -> None:
    before = state(shared_host)
    words = f"repro --machine native --base debian-13 --results {RESULTS}"
    result = run_as_user(shared_host, words)
    assert result.returncode == 0, result.error_text
    stock, module = rows(shared_host, RESULTS)
    assert (stock["module"], stock["outcome"], stock["signal"]) == ("none", "signed_pc_fault", "SIGSEGV")
    assert (module["module"], module["outcome"], module["keys_equal"]) == ("plugin", "survived", True)
    assert state(shared_host) == before
    # Evidence that root collected is the user's to read.
    look = ["bash", "-c", f"shopt -s globstar && stat -c '%u %n' {RESULTS}/**"]
    owners = check(shared_host.machine, look, soon("owners")).text.splitlines()
    assert f"{ID} {RESULTS}/stock/dump-1.log" in owners
    assert [one for one in owners if not one.startswith(f"{ID} ")] == []

    check(shared_host.machine, ["rm", SUDOERS], soon("the end of a privilege"))
    refused = run_as_user(shared_host, words)
    assert refused.returncode == 2
    last = refused.error_text.splitlines()[-1]
    assert last.startswith("criu-pac: error: running on this host needs root, and sudo gives none without")
    assert "a password is required" in last
    assert "--machine qemu" in last
    assert state(shared_host) == before

    # By itself it takes an emulated machine, says so, and does not get one here: this host is offline.
    elsewhere = run_as_user(shared_host, f"repro --base debian-13 --results {RESULTS}-elsewhere")
    assert "note: an emulated machine is used, not this host: running on this host needs root" in (
        elsewhere.error_text
    )
    assert elsewhere.returncode == 2
    assert state(shared_host) == before


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_what_sudo_started_ends_with_its_deadline(shared_host: Host) -> None:
    answer = as_user(shared_host, ON_HOST.interpreter("-c", NAP))
    who, told = answer.text.splitlines()
    assert who == "sudo -n 0"
    assert told == "a nap took longer than 5 s; last seen: sleep was killed"
    look = shared_host.machine.run(["pgrep", "--full", "sleep 987"], soon("what still runs"))
    assert (look.returncode, look.text) == (1, "")
