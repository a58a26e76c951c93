"""Anonymous access to a registry: its challenge answered with a token that anybody may have."""

import re
from collections.abc import Generator, Mapping

import httpx

from harness.core.errors import NetworkError
from harness.provision.answers import check_status

# Bearer realm="https://auth.example/token",service="registry.example",scope="repository:library/ubuntu:pull"
_BEARER = re.compile(r'\bBearer\s+((?:\w+="[^"]*"(?:\s*,\s*)?)+)', re.IGNORECASE)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class AnonymousBearer(httpx.Auth):
    """Sends the repository's token to the registry only, and gets a new one when it is refused.

    httpx takes the Authorization header off when it follows a redirect to another origin, where
    blobs usually are. Source: distribution project, "Token Authentication Specification".
    """

    def __init__(self, repository: str) -> None:
        self._scope = f"repository:{repository}:pull"
        self._token = ""

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send ``request``; on a challenge, get a token and send it once more."""
        if self._token:
            request.headers["authorization"] = f"Bearer {self._token}"
        answer = yield request
        if answer.status_code != httpx.codes.UNAUTHORIZED or answer.url.netloc != request.url.netloc:
            return
        challenge = parse_challenge(answer.headers.get("www-authenticate", ""))
        if "realm" not in challenge:
            return
        token_answer = yield self._token_request(request, challenge)
        token_answer.read()
        check_status(token_answer)
        self._token = _token(token_answer)
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request

    def _token_request(self, request: httpx.Request, challenge: Mapping[str, str]) -> httpx.Request:
        realm = request.url.join(challenge["realm"])
        if realm.scheme != "https" and request.url.scheme == "https":
            raise NetworkError(f"{request.url.host} wants its token fetched from {realm}, unencrypted")
        query = {"scope": challenge.get("scope", self._scope)}
        if "service" in challenge:
            query["service"] = challenge["service"]
        # A request made by hand has no time-outs of its own.
        return httpx.Request("GET", realm.copy_merge_params(query), extensions=request.extensions)


def parse_challenge(header: str) -> dict[str, str]:
    """Return the parameters of the Bearer challenge in a WWW-Authenticate header, {} without one."""
    match = _BEARER.search(header)
    return {name.lower(): value for name, value in _PARAMETER.findall(match[1])} if match else {}


def _token(answer: httpx.Response) -> str:
    try:
        document = answer.json()
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError):
        token = None
    # A token is sent back in a header: nothing that could end that header.
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise NetworkError(f"{answer.url.copy_with(query=None)} gave no token")
    return token
