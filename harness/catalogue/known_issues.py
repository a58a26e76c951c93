"""Known issues: the strict table of scenarios that do not do what the rules predict."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.catalogue.outcome import Outcome
from harness.catalogue.prediction import predict
from harness.catalogue.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownIssue:
    """One entry: the scenarios it ``matches`` end in ``outcome``, not in the predicted one.

    ``since`` and ``until`` say in which versions (of what, in words); ``url`` is the upstream
    report or fix, None for what nobody was found to have reported.
    """

    id: str
    title: str
    url: str | None
    matches: Callable[[Scenario], bool]
    outcome: Outcome
    since: str | None
    until: str | None


# Kernel commit 48f6430505c0 ("arm64/vdso: Remove --hash-style=sysv") left DT_GNU_HASH only, and kerndat of
# 3.17.1 asks for DT_HASH.
_VDSO_WITHOUT_DT_HASH = (6, 11)
# Kernel commit 201698626fbc ("arm64: Introduce prctl(PR_PAC_{SET,GET}_ENABLED_KEYS)").
_ENABLED_KEYS_REGSET = (5, 13)
_LAST_WITH_OLD_AUXV = "3.17.1"
# 4.2.1 maps it again as what it was, 4.1.1 as other memory, which works; seen, with 6.12 and 6.1.
_KEEPS_DROPPABLE = (4, 2)
# Kernel commits 9651fcedf7b9 ("mm: add MAP_DROPPABLE for designating always lazily freeable mappings") and
# 712676ea2bb3 ("arm64: vDSO: Wire up getrandom() vDSO implementation").
_MAP_DROPPABLE, _VDSO_GETRANDOM = (6, 11), (6, 12)


def _vdso_at_dump(scenario: Scenario) -> bool:
    return scenario.criu_dump.version == "3.17.1" and scenario.source.kernel.version >= _VDSO_WITHOUT_DT_HASH


def _vdso_at_restore(scenario: Scenario) -> bool:
    return (
        scenario.criu_dump.version == scenario.criu_restore.version == "3.17.1"
        and not _vdso_at_dump(scenario)
        and scenario.target.kernel.version >= _VDSO_WITHOUT_DT_HASH
    )


def _no_enabled_keys_regset(scenario: Scenario) -> bool:
    source = scenario.source
    return scenario.criu_dump.native_keys and source.cpu.pac and source.kernel.version < _ENABLED_KEYS_REGSET


def _image_too_new(scenario: Scenario) -> bool:
    return (
        scenario.criu_restore.version == _LAST_WITH_OLD_AUXV
        and scenario.criu_dump.version != _LAST_WITH_OLD_AUXV
        and not _no_enabled_keys_regset(scenario)
    )


def _droppable_memory(scenario: Scenario) -> bool:
    """Whether the image has memory of a kind that the kernel of the target cannot map.

    glibc takes it for the state of getrandom, which Python calls when it starts.
    """
    # A tree may not say its version; nothing is claimed of that.
    numbers = re.match(r"(\d+)\.(\d+)", scenario.criu_dump.version)
    return (
        numbers is not None
        and (int(numbers[1]), int(numbers[2])) >= _KEEPS_DROPPABLE
        and scenario.source.kernel.version >= _VDSO_GETRANDOM
        and scenario.target.kernel.version < _MAP_DROPPABLE
        and scenario.base.droppable_random
        and scenario.workload.language == "python"
    )


def _not_mapped(scenario: Scenario) -> bool:
    refused = predict(scenario).outcome is Outcome.RESTORE_REFUSED and scenario.module.loaded
    return _droppable_memory(scenario) and not refused and not _image_too_new(scenario)


def _keys_in_image(scenario: Scenario) -> bool:
    """Whether CRIU's own images hold keys that CRIU will set; the key module may refuse them first."""
    refused = scenario.module.loaded and not scenario.source.same_codes(scenario.target)
    return (
        scenario.source.cpu.pac
        and scenario.criu_dump.native_keys
        and scenario.criu_restore.native_keys
        and not _no_enabled_keys_regset(scenario)
        and not refused
        and not _droppable_memory(scenario)  # that fails before any key is set
    )


def _protected_restorer(scenario: Scenario) -> bool:
    return _keys_in_image(scenario) and scenario.target.cpu.pac and scenario.criu_restore.restorer_protected


def _no_pac_in_target(scenario: Scenario) -> bool:
    return _keys_in_image(scenario) and not scenario.target.cpu.pac


def _leaders_for_all(scenario: Scenario) -> bool:
    """Whether CRIU sets the leader's keys and mask in threads that have others."""
    return (
        bool({"thread-keys", "thread-masks"} & set(scenario.workload.flags))
        and _keys_in_image(scenario)
        and not scenario.module.loaded
        and scenario.source.same_codes(scenario.target)
        and scenario.target.cpu.pac
        and not scenario.criu_restore.restorer_protected
    )


KNOWN_ISSUES: tuple[KnownIssue, ...] = (
    KnownIssue(
        id="vdso-dt-hash",
        title="CRIU 3.17.1 cannot read a vDSO without DT_HASH: kerndat fails and so does every dump",
        url="https://github.com/checkpoint-restore/criu/pull/2570",
        matches=_vdso_at_dump,
        outcome=Outcome.DUMP_FAILED,
        since="kernel 6.11",
        until=None,
    ),
    KnownIssue(
        id="vdso-dt-hash-restore",
        title="CRIU 3.17.1 cannot read a vDSO without DT_HASH: kerndat fails and so does every restore",
        url="https://github.com/checkpoint-restore/criu/pull/2570",
        matches=_vdso_at_restore,
        outcome=Outcome.RESTORE_REFUSED,
        since="kernel 6.11",
        until=None,
    ),
    KnownIssue(
        id="key-mask-regset",
        title="CRIU from 4.1 on wants the regset of enabled keys and cannot dump where a kernel has none",
        url=None,
        matches=_no_enabled_keys_regset,
        outcome=Outcome.DUMP_FAILED,
        since="CRIU 4.1",
        until="kernel 5.13",
    ),
    KnownIssue(
        id="image-too-new",
        title="CRIU 3.17.1 refuses images of newer versions: their auxiliary vector is longer than it takes",
        url=None,
        matches=_image_too_new,
        outcome=Outcome.RESTORE_REFUSED,
        since="images of CRIU 4",
        until=None,
    ),
    KnownIssue(
        id="droppable-memory",
        title="a kernel without MAP_DROPPABLE cannot map the memory where glibc 2.41 has its random state",
        url=None,
        matches=_not_mapped,
        outcome=Outcome.RESTORE_REFUSED,
        since="CRIU 4.2, in images from kernel 6.12",
        until="kernel 6.11",
    ),
    KnownIssue(
        id="criu-2709",
        title="the restorer was compiled with branch protection and dies when its own keys are replaced",
        url="https://github.com/checkpoint-restore/criu/issues/2709",
        matches=_protected_restorer,
        outcome=Outcome.HUNG,
        since="CRIU 4.1, built with branch protection",
        until="CRIU 4.2",
    ),
    KnownIssue(
        id="criu-2824",
        title="CRIU notices that the target has no PAC only while restoring, and hangs",
        url="https://github.com/checkpoint-restore/criu/issues/2824",
        matches=_no_pac_in_target,
        outcome=Outcome.HUNG,
        since="CRIU 4.1",
        until=None,
    ),
    *(
        KnownIssue(
            id=f"per-thread-keys{suffix}",
            title="CRIU restores the leader's keys and enabled keys into every thread of a process",
            url=None,
            matches=lambda scenario, fpac=fpac: (
                _leaders_for_all(scenario)  # type: ignore[misc]
                and scenario.target.cpu.fpac is fpac
            ),
            outcome=Outcome.FPAC_FAULT if fpac else Outcome.SIGNED_PC_FAULT,
            since="CRIU 4.1",
            until=None,
        )
        for suffix, fpac in (("", False), ("-fpac", True))
    ),
)


def known_issue(scenario: Scenario, table: Sequence[KnownIssue] = KNOWN_ISSUES) -> KnownIssue | None:
    """Return the entry that matches ``scenario``; raise ValueError when the table contradicts itself."""
    found = [entry for entry in table if entry.matches(scenario)]
    if len(found) > 1:
        raise ValueError(f"{scenario.id} matches {' and '.join(entry.id for entry in found)}")
    return found[0] if found else None
