"""The host as a whole: what a process with branch protection has to expect of a checkpoint here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule
from harness.doctor.criu import Route, find_routes
from harness.doctor.diagnosis import Conclusion, Diagnosis, Remedy, worst
from harness.doctor.engines import Engine, find_engines
from harness.doctor.host import ARM64, NO_PAUTH, Host, look_at_host
from harness.doctor.remedies import remedies
from harness.doctor.setup import Finding, Setup, evaluate, machine_of

EXPECTED: Mapping[Outcome, str] = {
    Outcome.SURVIVED: "a restored process goes on",
    Outcome.SIGNED_PC_FAULT: "a restored process dies of SIGSEGV when it returns to its caller",
    Outcome.FPAC_FAULT: "a restored process dies of SIGILL when it returns to its caller",
    Outcome.HUNG: "the restore hangs",
    Outcome.DUMP_FAILED: "the dump fails",
    Outcome.RESTORE_REFUSED: "the restore is refused",
}
_OWN_KEYS = (("thread-keys", "changes its own keys"), ("thread-masks", "disables a key"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A host, its engines and its routes to CRIU."""

    host: Host
    engines: dict[str, Engine]
    routes: tuple[Route, ...]

    def facts(self) -> dict[str, object]:
        """Return all of it by name."""
        return {
            "host": self.host.facts(),
            "engines": {
                one.name: {"path": one.path, "version": one.version, **one.details}
                for one in self.engines.values()
            },
            "routes": {one.caller: one.facts() for one in self.routes},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is to be expected, why, and what helps."""

    conclusion: Conclusion
    reasons: tuple[str, ...]
    remedies: tuple[Remedy, ...] = ()


def examine(root: Path, plugin: bytes | None, not_seen: list[str]) -> Examined:
    """Look at the host below ``root`` ("/"); ``plugin`` is this version's key module, if it is at hand."""
    host = look_at_host(root, not_seen)
    engines = find_engines(not_seen)
    routes = find_routes(root, engines, plugin, not_seen)
    return Examined(host=host, engines=engines, routes=tuple(routes))


def diagnose_host(examined: Examined, not_seen: list[str]) -> Diagnosis:
    """Return what a process with branch protection has to expect on this host."""
    judged = judge(examined)
    return Diagnosis(
        conclusion=judged.conclusion,
        reasons=judged.reasons,
        remedies=judged.remedies,
        not_seen=tuple(not_seen),
        facts=examined.facts(),
    )


def judge(examined: Examined, flags: tuple[str, ...] = ()) -> Judged:
    """Return the worst that a signing process with ``flags`` has to expect of the routes to CRIU."""
    host = examined.host
    if host.architecture != ARM64:
        why = f"{host.architecture} has no ARM64 pointer authentication"
        return Judged(conclusion=Conclusion.SAFE, reasons=(why,))
    if host.address_auth is None:
        return Judged(
            conclusion=Conclusion.CANNOT_TELL,
            reasons=("whether this CPU authenticates pointers could not be seen",),
        )
    usable = [one for one in examined.routes if one.criu]
    why_off = () if host.address_auth else (_why_off(host),)
    if not usable:
        if why_off:
            return Judged(conclusion=Conclusion.SAFE, reasons=(*why_off, "no criu was found"))
        why = (
            "this CPU authenticates pointers, and no criu was found: what makes checkpoints here is not known"
        )
        return Judged(conclusion=Conclusion.CANNOT_TELL, reasons=(why,))
    judged = [_judge_route(host, one, flags) for one in usable]
    return Judged(
        conclusion=worst(one.conclusion for one in judged),
        reasons=(*why_off, *(reason for one in judged for reason in one.reasons)),
        remedies=tuple({one.what: one for each in judged for one in each.remedies}.values()),
    )


def setup_of(host: Host, route: Route, flags: tuple[str, ...]) -> Setup | None:
    """Return a dump and a restore on ``host`` by ``route``; None where its CRIU is not known."""
    if route.program is None:
        return None
    machine = machine_of(host)
    return Setup(
        source=machine,
        target=machine,
        dump=route.program,
        restore=route.program,
        module=KeyModule.PLUGIN if route.module.usable else KeyModule.NONE,
        flags=flags,
        vdso_tags=host.vdso_tags,
        checkpoint_restore=host.checkpoint_restore,
        late_amdgpu=route.module.late_amdgpu,
    )


def _judge_route(host: Host, route: Route, flags: tuple[str, ...]) -> Judged:
    setup = setup_of(host, route, flags)
    if setup is None:
        if not host.address_auth:
            return Judged(conclusion=Conclusion.SAFE, reasons=())
        why = f"{route.caller}: what {route.criu} does with keys is not known: {route.problem}"
        return Judged(conclusion=Conclusion.CANNOT_TELL, reasons=(why,))
    finding = evaluate(setup)
    reason = f"{route.caller}: {_carrier(route)}: {expected(finding, host)}: {finding.why}"
    if not finding.survives:
        return Judged(conclusion=Conclusion.AFFECTED, reasons=(reason,), remedies=remedies(setup))
    notes = [] if flags else list(_own_keys(route, setup))
    return Judged(conclusion=Conclusion.SAFE, reasons=(reason, *notes))


def expected(finding: Finding, host: Host | None = None) -> str:
    """Return in words what is to be expected; the signal depends on FPAC, which may be unseen."""
    text = EXPECTED[finding.outcome]
    if host and host.registers is None:
        return text.replace("SIGSEGV", "SIGSEGV or SIGILL")
    return text


def _own_keys(route: Route, setup: Setup) -> Iterable[str]:
    """Yield what a process has to expect that does more with its keys than most."""
    for flag, does in _OWN_KEYS:
        finding = evaluate(replace(setup, flags=(flag,)))
        if not finding.survives:
            issue = f" (known issue {finding.issue.id})" if finding.issue else ""
            yield (
                f"{route.caller}: not so for a process of which a thread {does}: {expected(finding)}: "
                f"{finding.why}{issue}; the key module keeps them"
            )


def _carrier(route: Route) -> str:
    program, module = route.program, route.module
    assert program is not None, "judged only where it is known"
    keys = "keeps keys itself" if program.native_keys else "keeps no keys"
    loaded = (
        f"the key module is in {module.path}"
        if module.usable
        else f"the key module in {module.path}: {module.state}"
    )
    return f"CRIU {program.version or 'of unknown version'} ({route.criu}) {keys}, {loaded}"


def _why_off(host: Host) -> str:
    if NO_PAUTH in host.boot:
        return f"the kernel leaves pointer authentication off: it was booted with {NO_PAUTH}"
    return "CPU and kernel offer no pointer authentication: no paca in /proc/cpuinfo"
