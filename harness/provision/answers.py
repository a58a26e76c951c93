"""What a mirror's answers mean, and the one error for all places that failed."""

from collections.abc import Sequence

import httpx

from harness.core.errors import ArchiveError, IntegrityError, NetworkError, NotInArchiveError

_GONE = frozenset({404, 410})
_LATER = frozenset({408, 429})


class TryAgainError(Exception):
    """A failure that may be over in a second."""


def check_status(answer: httpx.Response) -> None:
    """Raise NotInArchiveError, TryAgainError or NetworkError unless ``answer`` is a success."""
    if answer.status_code in _GONE:
        raise NotInArchiveError(f"{answer.url} does not exist (HTTP {answer.status_code})")
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status_code in _LATER:
        raise TryAgainError(f"HTTP {answer.status_code}")
    if not answer.is_success:
        raise NetworkError(f"{answer.url} answered HTTP {answer.status_code}")


def continues(answer: httpx.Response, have: int) -> bool:
    """Tell whether ``answer`` is the rest of a file from byte ``have`` on."""
    # Content-Range: bytes 4096-9999/10000
    return answer.status_code == httpx.codes.PARTIAL_CONTENT and answer.headers.get(
        "content-range", ""
    ).startswith(f"bytes {have}-")


def offline(name: str) -> NetworkError:
    """Return the error for a file that would have to be downloaded."""
    return NetworkError(
        f"{name} is not in the cache and the harness is offline", hint="run once without CRIU_PAC_OFFLINE=1"
    )


def all_failed(name: str, failures: Sequence[tuple[str, Exception]]) -> ArchiveError | NetworkError:
    """Return the one error for all places: gone only if every one of them says so."""
    causes = "; ".join(str(error) for _, error in failures)
    if all(isinstance(error, NotInArchiveError) for _, error in failures):
        return NotInArchiveError(f"{name} is in none of the places looked at: {causes}")
    if any(isinstance(error, IntegrityError) for _, error in failures):
        return IntegrityError(f"{name}: {causes}", hint="a broken mirror or proxy; choose another mirror")
    return NetworkError(
        f"{name} could not be downloaded: {causes}",
        hint="check the network, or set CRIU_PAC_MIRROR_DEBIAN (or _UBUNTU) to a mirror that answers",
    )
