"""CRIU's dump.log and restore.log."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CriuLog:
    """What a log says: ``errors`` as "Error (file:line): message", in order, without time stamps.

    ``last_line`` is the last thing CRIU did, time stamp included: the place of a hang.
    ``finished`` says that CRIU believes to have succeeded, which is no evidence of survival.
    """

    version: str | None
    errors: tuple[str, ...]
    last_line: str
    finished: bool


# (00.000123) Version: 3.17.1 (gitid 0)
_VERSION = re.compile(r"^(?:\(\d+\.\d+\) )?Version: (?P<version>\S+)", re.MULTILINE)
# (00.041234) Error (criu/cr-dump.c:1781): Dumping FAILED.
# (00.101234)    452: Error (criu/cr-restore.c:1480): 452 killed by signal 11: Segmentation fault
# (00.041234) pac-key-module: error: pac-keys.img: belongs to other images
_ERROR = re.compile(
    r"^(?:\(\d+\.\d+\) )? *(?:\d+: )?(?P<error>(?:Error \([^()]*\)|pac-key-module: error): .*?)\s*$",
    re.MULTILINE,
)
# (00.312345) Dumping finished successfully
# (00.212345) Restore finished successfully. Tasks resumed.
_FINISHED = re.compile(r"^(?:\(\d+\.\d+\) )?(?:Dumping|Restore) finished successfully", re.MULTILINE)


def parse_criu_log(text: str) -> CriuLog:
    """Return what ``text`` says; a log that is empty or cut off gives what is there."""
    version = _VERSION.search(text)
    lines = text.rstrip().splitlines()
    return CriuLog(
        version=version["version"] if version else None,
        errors=tuple(found["error"] for found in _ERROR.finditer(text)),
        last_line=lines[-1].rstrip() if lines else "",
        finished=_FINISHED.search(text) is not None,
    )
