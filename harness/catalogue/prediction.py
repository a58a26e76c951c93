"""The prediction: what a scenario should end in, from rules and nothing that was observed."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule, Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The predicted outcome, the facts it follows from, and the reason in a sentence."""

    outcome: Outcome
    signed_pointers_live: bool
    keys_reach_target: bool
    target_authenticates: bool
    fpac: bool
    same_codes: bool
    why: str


def predict(scenario: Scenario) -> Prediction:
    """Return what ``scenario`` should end in."""
    source, target = scenario.source.cpu, scenario.target.cpu
    outcome, why = _outcome(scenario)
    return Prediction(
        outcome=outcome,
        signed_pointers_live=source.pac and (_signs(scenario) or _signs_data(scenario)),
        keys_reach_target=_keys_carried(scenario) and target.pac,
        target_authenticates=target.pac,
        fpac=target.fpac,
        same_codes=scenario.source.same_codes(scenario.target),
        why=why,
    )


def premises(scenario: Scenario) -> Mapping[str, bool | None]:
    """Return what ``scenario`` rests on, by name, in the order in which it can be observed.

    source_pac, target_pac: HWCAP_PACA in the machine.
    interpreter_protected, libc_protected: signing instructions in the program and in its libc.
    signed_frames_live: the stopped task has a signed saved LR.
    chance_excluded: so much is signed that wrong keys would pass once in a million times at most.
    signed_data_live: the workload holds signed pointers in memory; only where it is made for that.
    keys_change: keys that nothing carried differ from the dumped task's: those of a fresh exec
    in the target in every arm, the restored task's too in an arm where nothing carries keys.
    None where one of the machines has no keys to compare.
    keys_differ, masks_differ: between the threads of a workload that makes them differ; only there.
    """
    source, target = scenario.source.cpu, scenario.target.cpu
    flags, differ = set(scenario.workload.flags), True if source.pac else None
    special: dict[str, bool | None] = {}
    if flags & {"thread-keys", "process-keys"}:
        special["keys_differ"] = differ
    if "thread-masks" in flags:
        special["masks_differ"] = differ
    if _signs_data(scenario):
        special["signed_data_live"] = source.pac
    return MappingProxyType(
        {
            "source_pac": source.pac,
            "target_pac": target.pac,
            "interpreter_protected": _binary_protected(scenario),
            "libc_protected": scenario.base.protected,
            "signed_frames_live": source.pac and _signs(scenario),
            "chance_excluded": True if source.pac and (_signs(scenario) or _signs_data(scenario)) else None,
            "keys_change": True if source.pac and target.pac else None,
            **special,
        }
    )


def _binary_protected(scenario: Scenario) -> bool:
    """Whether the program itself signs: an interpreter is the base's, a compiled program the workload's."""
    if scenario.workload.language == "python":
        return scenario.base.protected
    return scenario.workload.protected


def _signs(scenario: Scenario) -> bool:
    """Whether return addresses are signed that are live: half an unprotected userland is no control."""
    libc = scenario.base.protected and "no-libc-frames" not in scenario.workload.flags
    return _binary_protected(scenario) or libc


def _signs_data(scenario: Scenario) -> bool:
    """Whether the program signs pointers in memory, where the CPU can."""
    return "signed-data" in scenario.workload.flags


def _keys_carried(scenario: Scenario) -> bool:
    """Whether something saves the keys of the source and loads them in the target."""
    if not scenario.source.cpu.pac:
        return False
    by_criu = scenario.criu_dump.native_keys and scenario.criu_restore.native_keys
    return by_criu or scenario.module.loaded


def disables_auth(scenario: Scenario) -> bool:
    """Whether the key module switches authentication off in the restored tasks, as its policy asks."""
    unsigned = scenario.target.cpu.pac and not scenario.source.cpu.pac
    return unsigned and scenario.module is KeyModule.PLUGIN_DISABLE_AUTH


def _outcome(scenario: Scenario) -> tuple[Outcome, str]:
    if refusal := _refusal(scenario):
        return Outcome.RESTORE_REFUSED, refusal
    if reason := _harmless(scenario):
        return Outcome.SURVIVED, reason
    target = scenario.target.cpu
    if target.pac:
        left = Outcome.SIGNED_PC_FAULT if _signs(scenario) else Outcome.STATE_LOST
        return Outcome.FPAC_FAULT if target.fpac else left, _mismatch(scenario)
    if _signs(scenario):
        reason = "the target ignores authentication and returns to an address that still carries its code"
        return Outcome.SIGNED_PC_FAULT, reason
    # AUTDA is no hint, unlike AUTIASP.
    return Outcome.CRASHED_OTHER, "the target lacks the instruction that authenticates the data"


def _refusal(scenario: Scenario) -> str | None:
    """Return why a restore is refused before anything runs, or None.

    The key module compares the machines and refuses one that cannot honour the image; CRIU
    with native keys only asks for the feature, not for the algorithm.
    """
    source, target = scenario.source.cpu, scenario.target.cpu
    if source.pac and not target.pac and _keys_carried(scenario):
        return "the image carries keys and the target has no pointer authentication"
    if not scenario.module.loaded:
        return None
    if target.pac and not source.pac and not disables_auth(scenario):
        return "the key module refuses an image from a CPU without pointer authentication on one with it"
    if source.pac and not scenario.source.same_codes(scenario.target):
        return "the key module refuses an image signed under another algorithm, or in other pointer bits"
    return None


def _harmless(scenario: Scenario) -> str | None:
    """Return why every return in the target works, or None."""
    source, target = scenario.source.cpu, scenario.target.cpu
    if not _signs(scenario) and not _signs_data(scenario):
        return "no branch protection: no return address is signed or authenticated"
    if not _signs(scenario) and not source.pac:
        return "without branch protection no return address is signed, and the source could sign no data"
    if disables_auth(scenario):
        return "the key module disables authentication in the restored tasks"
    if not source.pac and not target.pac:
        return "neither CPU signs or authenticates"
    if target.pac and scenario.source.same_codes(scenario.target) and _keys_carried(scenario):
        return "every live signed pointer is authenticated with the key that signed it"
    return None


def _mismatch(scenario: Scenario) -> str:
    """Return why authentication in the target fails."""
    if not scenario.source.cpu.pac:
        return "the target authenticates return addresses that the source never signed"
    if not _keys_carried(scenario):
        return "the keys that signed the live pointers do not reach the target"
    return "the same keys give other codes in the target: another algorithm, or other pointer bits"
