"""How a registry wants to be asked: not at all, by basic authentication, or with bearer tokens of a token server.

Credentials are bound to one origin. A token server is only asked when it is that origin or stands on the registry's
list of realms, so that a hostile challenge cannot lure them away.
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

from bundler.adapters.http import Request, Transport
from bundler.adapters.registries_config import Endpoint
from bundler.domain.credentials import Credentials, Secret
from bundler.domain.oci import parse_strict_json
from bundler.domain.url import Url
from bundler.errors import AccessError, FormatError, LimitError
from bundler.transfer import Once

MAX_CHALLENGE_CHARACTERS = 8 << 10
MAX_TOKEN_ANSWER_BYTES = 256 << 10
SHORTEST_TOKEN_LIFE_S = 60
RENEW_BEFORE_S = 15.0
LOGIN_HINT = "Log in (skopeo login, docker login), or check that the account may do this; then run it again."

_PARAMETER = re.compile(r'[ \t]*([A-Za-z][A-Za-z0-9_-]{0,63})=(?:"([^"\\\x00-\x1f\x7f]*)"|([A-Za-z0-9._~+/:-]+))')
_SCHEME = re.compile(r"[ \t]*(Basic|Bearer)(?:[ \t]+|\Z)", re.IGNORECASE)
_SCOPE = re.compile(
    r"repository:[a-z0-9._/-]{1,255}:[a-z,*]{1,40}(?: repository:[a-z0-9._/-]{1,255}:[a-z,*]{1,40}){0,3}\Z"
)


class CredentialProvider(Protocol):
    """Where credentials come from: docker's configuration files, or the ECR API."""

    def credentials(self, host: str) -> Credentials | None:
        """Return what to log in with at `host` (`host` or `host:port`; Docker Hub is `docker.io`), None for nothing."""
        ...

    def refresh(self, host: str) -> None:
        """Make `credentials` return new ones: those handed out last were refused or have expired."""
        ...


class FirstOf:
    """Asks several providers in turn: the first that knows a host is the one for it; of none, nobody is known."""

    def __init__(self, *providers: CredentialProvider) -> None:
        self._providers = providers

    def credentials(self, host: str) -> Credentials | None:
        """Return what the first provider that knows `host` says."""
        found = (provider.credentials(host) for provider in self._providers)
        return next((credentials for credentials in found if credentials is not None), None)

    def refresh(self, host: str) -> None:
        """Refresh all of them."""
        for provider in self._providers:
            provider.refresh(host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a 401 asks for: `scheme` is `basic` or `bearer`."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(text: str, *, subject: str) -> Challenge:
    """Return the challenge in a WWW-Authenticate header.

    Raises:
        FormatError: not exactly one well-formed Basic or Bearer challenge.
    """
    match = _SCHEME.match(text)
    if len(text) > MAX_CHALLENGE_CHARACTERS or match is None:
        raise FormatError(subject, f"the registry asks for credentials in an unknown way: {text[:80]!r}")
    found: dict[str, str] = {}
    place = match.end()
    while place < len(text):
        parameter = _PARAMETER.match(text, place)
        if parameter is None or parameter[1].lower() in found:
            raise FormatError(subject, f"the registry's request for credentials is malformed: {text[place:][:80]!r}")
        found[parameter[1].lower()] = parameter[2] if parameter[2] is not None else parameter[3]
        place = _after_comma(text, parameter.end(), subject)
    known = {name: found.get(name, "") for name in ("realm", "service", "scope")}
    return Challenge(scheme=match[1].lower(), **known)


def _after_comma(text: str, place: int, subject: str) -> int:
    rest = text[place:].lstrip(" \t")
    if not rest:
        return len(text)
    if not rest.startswith(",") or not rest[1:].strip(" \t"):
        raise FormatError(subject, f"the registry's request for credentials is malformed: {rest[:80]!r}")
    return len(text) - len(rest) + 1


@dataclass(frozen=True, slots=True)
class _Token:
    header: Secret
    valid_until: float


class Authenticator:
    """Keeps what one registry origin wants, and gives each request its Authorization header.

    Attributes:
        challenge: what the registry asked for last; None while it asked for nothing.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        provider: CredentialProvider,
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = endpoint.login
        self._realms = endpoint.realms | {endpoint.origin}
        self._provider = provider
        self._transport = transport
        self._clock = clock
        self.challenge: Challenge | None = None
        self._basic: Secret | None = None
        self._tokens: dict[str, _Token] = {}
        self._scopes: dict[str, str] = {}
        self._renewing: dict[str, Once] = {}

    def header(self, scope: str) -> Secret | None:
        """Return the header for a request of `scope`, None while nobody asked for one.

        A bearer token that is about to expire is renewed here, so that no large body is sent in vain.
        """
        challenge = self.challenge
        if challenge is None or challenge.scheme == "basic":
            return self._basic
        with self._once(scope):
            token = self._tokens.get(scope)
            if token is None or token.valid_until < self._clock():
                token = self._tokens[scope] = self._fetch(challenge, scope)
            return token.header

    def renew(self, challenge: Challenge, scope: str, *, stale: Secret | None) -> Secret:
        """Return a header in answer to a challenge; one renewal serves all threads that hold the same stale one.

        Raises:
            AccessError: there are no (other) credentials, or the token server refuses them.
        """
        key = scope if challenge.scheme == "bearer" else ""
        with self._once(key):
            if challenge.scheme == "basic":
                return self._renew_basic(challenge, stale)
            return self._renew_token(challenge, scope, stale)

    def _once(self, key: str) -> Once:
        return self._renewing.setdefault(key, Once())

    def _renew_basic(self, challenge: Challenge, stale: Secret | None) -> Secret:
        if self._basic is None or self._basic == stale:
            fresh = self._basic_header(stale)
            if fresh is None or fresh == stale:
                raise self._denied("refuses these credentials" if stale is not None else "wants credentials")
            self._basic = fresh
        self.challenge = challenge
        return self._basic

    def _basic_header(self, stale: Secret | None) -> Secret | None:
        if stale is not None:
            self._provider.refresh(self._host)
        credentials = self._provider.credentials(self._host)
        if credentials is None or credentials.is_identity_token:
            return None
        return _basic(credentials)

    def _renew_token(self, challenge: Challenge, scope: str, stale: Secret | None) -> Secret:
        held = self._tokens.get(scope)
        if held is None or held.header == stale:
            if _SCOPE.match(challenge.scope):
                self._scopes[scope] = challenge.scope
            held = self._tokens[scope] = self._fetch(challenge, scope)
            self.challenge = challenge
        return held.header

    def _fetch(self, challenge: Challenge, scope: str) -> _Token:
        """Get a token, with refreshed credentials where the token server refuses the ones we hold."""
        realm = self._trusted(challenge.realm)
        credentials = self._provider.credentials(self._host)
        try:
            return self._ask(realm, challenge.service, self._scopes.get(scope, scope), credentials)
        except AccessError:
            self._provider.refresh(self._host)
            fresh = self._provider.credentials(self._host)
            if fresh is None or fresh == credentials:
                raise
            return self._ask(realm, challenge.service, self._scopes.get(scope, scope), fresh)

    def _trusted(self, realm: str) -> Url:
        try:
            url = Url.parse(realm)
        except FormatError as error:
            raise self._denied(f"names a token server that is no URL ({error.subject})") from error
        if url.origin not in self._realms:
            hint = f"If that server is right, allow it in registries.yaml: {self._host}: realms: [{url.origin}]"
            raise self._denied(f"names the token server {url.origin}, which is not its own: nothing was sent", hint)
        return url

    def _ask(self, realm: Url, service: str, scope: str, credentials: Credentials | None) -> _Token:
        request = _token_request(realm, service, scope.split(" "), credentials, subject=self._host)
        with self._transport.send(request) as answer:
            if answer.status in (400, 401, 403, 404):
                said = answer.text if credentials is None else credentials.password.hidden_in(answer.text)
                raise self._denied(f"has the token server {realm.origin}, which answered {answer.status}: {said}")
            if answer.status != 200:
                raise FormatError(self._host, f"token server {realm.origin} answered {answer.status}")
            return self._token(answer.read(MAX_TOKEN_ANSWER_BYTES))

    def _token(self, raw: bytes) -> _Token:
        subject = f"{self._host} (token server)"
        document = parse_strict_json(raw, subject=subject)
        fields: Mapping[str, object] = document if isinstance(document, dict) else {}
        text = fields.get("token") or fields.get("access_token")
        if not isinstance(text, str) or not re.fullmatch(r"[\x21-\x7e]+", text):
            raise FormatError(subject, "the answer holds no token")
        if len(text) > MAX_TOKEN_ANSWER_BYTES // 4:
            raise LimitError(subject, "the token is longer than any honest one")
        life = fields.get("expires_in")
        life_s = life if type(life) is int and 0 < life < 10**9 else SHORTEST_TOKEN_LIFE_S
        margin_s = min(RENEW_BEFORE_S, life_s / 4)
        return _Token(Secret(f"Bearer {text}"), self._clock() + life_s - margin_s)

    def _denied(self, cause: str, hint: str = LOGIN_HINT) -> AccessError:
        return AccessError(self._host, f"the registry {cause}", hint=hint)


def _basic(credentials: Credentials) -> Secret:
    pair = f"{credentials.username}:{credentials.password.reveal()}"
    return Secret("Basic " + b64encode(pair.encode()).decode("ascii"))


def _token_request(
    realm: Url, service: str, scopes: list[str], credentials: Credentials | None, *, subject: str
) -> Request:
    """The request of the token specification; with an identity token that of OAuth2."""
    parameters = [("service", service)] if service else []
    parameters += [("scope", scope) for scope in scopes if scope]
    if credentials is not None and credentials.is_identity_token:
        form = [
            ("grant_type", "refresh_token"),
            ("client_id", "eks-bundler"),
            ("refresh_token", credentials.password.reveal()),
            ("service", service),
            ("scope", " ".join(scopes)),
        ]
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request(url=realm, subject=subject, method="POST", headers=kind, body=urlencode(form).encode())
    query = urlencode(parameters)
    joint = "&" if "?" in realm.target else "?"
    url = Url(realm.origin, realm.target + (joint + query if query else ""))
    return Request(url=url, subject=subject, authorization=_basic(credentials) if credentials is not None else None)
