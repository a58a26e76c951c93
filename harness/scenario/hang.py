"""The end of a hang: CRIU killed, and the task it would leave behind."""

from dataclasses import dataclass

from harness.core.deadline import Deadline
from harness.guest.container import Container

# CRIU blocks SIGTERM; what it was restoring may stay on a futex of the restorer, its pid taken.
_SCRIPT = r"""
log=$1 pid=$2
for p in /proc/[0-9]*; do
    if tr '\0' ' ' < "$p/cmdline" 2> /dev/null | grep -q -- "-o $log "; then
        echo "criu ${p#/proc/}"
        kill -9 "${p#/proc/}"
    fi
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$pid/status" 2> /dev/null)
    wchan=$(cat "/proc/$pid/wchan" 2> /dev/null)
    case $state in "" | Z | X) break ;; esac
    sleep 0.2
done
case $state in
"" | Z | X) ;;
*)
    echo "orphan $pid $state $wchan"
    kill -9 "$pid"
    ;;
esac
sleep 0.2
[ -d "/proc/$pid" ] && grep -q "^State:.[^ZX]" "/proc/$pid/status" && echo "left $pid"
exit 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HangEnd:
    """How a hang was ended.

    ``criu``: ids of the CRIU processes that were killed. ``orphan``: state and wait channel
    of a task that outlived them by two seconds and was killed as well, None without one.
    ``left``: whether anything outlived even that.
    """

    criu: tuple[int, ...]
    orphan: str | None
    left: bool


def end_hang(container: Container, log_name: str, pid: int, deadline: Deadline) -> HangEnd:
    """Kill the CRIU that writes ``log_name`` and then the task ``pid``, if it outlives that."""
    said = container.run(["bash", "-c", _SCRIPT, "end-hang", log_name, str(pid)], deadline).text
    lines = [line.split(maxsplit=2) for line in said.splitlines()]
    orphans = [" ".join(words[2:]) for words in lines if words[0] == "orphan"]
    return HangEnd(
        criu=tuple(int(words[1]) for words in lines if words[0] == "criu"),
        orphan=orphans[0] if orphans else None,
        left=any(words[0] == "left" for words in lines),
    )
