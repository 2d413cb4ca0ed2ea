"""One registry, spoken to under its rules: authorization up front, one renewal when it is refused, typed errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from bundler.adapters.http import Answer, Request, Transport
from bundler.adapters.registries_config import Endpoint
from bundler.adapters.registry_auth import (
    LOGIN_HINT,
    Authenticator,
    Challenge,
    CredentialProvider,
    parse_challenge,
)
from bundler.domain.credentials import Secret
from bundler.domain.oci import parse_strict_json
from bundler.domain.url import Url
from bundler.errors import AccessError, BundleError, FormatError, NetworkError
from bundler.pacing import Bearing

Body = Callable[[], Iterable[memoryview]]

RENEWALS = 2
"""New credentials may have expired, too, before their turn came: many workers share them."""
_EXPIRED = re.compile(rb"authorization token has expired|ExpiredToken", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z_]{1,60}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a registry.

    Attributes:
        target: path and query, or a URL that the registry gave (of its own origin).
        scope: what a token must allow, as the token specification writes it.
        subject: what errors name.
        body: whole, or a function that begins it anew; then `body_bytes` says how many bytes there are.
        answer_within_s: seconds until the answer begins; None means the usual.
    """

    target: str | Url
    scope: str
    subject: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Body | None = None
    body_bytes: int | None = None
    answer_within_s: float | None = None


def pull_scope(*repositories: str) -> str:
    """Return the scope of reading."""
    return " ".join(f"repository:{name}:pull" for name in repositories)


def push_scope(repository: str) -> str:
    """Return the scope of reading and writing."""
    return f"repository:{repository}:pull,push"


class Session:
    """What is known about one registry while the process runs."""

    def __init__(self, endpoint: Endpoint, *, transport: Transport, provider: CredentialProvider) -> None:
        self.endpoint = endpoint
        self._transport = transport.trusting(endpoint.ca_files)
        self._auth = Authenticator(
            endpoint, provider=provider, transport=self._transport, clock=transport.settings.clock
        )

    def call(self, call: Call) -> Answer:
        """Return the answer, whatever its status but "unauthorized" and "later".

        Raises:
            AccessError: credentials are missing or refused.
            TransientError: try again.
        """
        used = self._auth.header(call.scope)
        for renewals in range(RENEWALS + 1):
            answer, challenge = self._asked(call, used)
            if challenge is None:
                return answer
            answer.close()  # nobody waits for new credentials while others wait for this connection
            if renewals == RENEWALS:
                break
            try:
                used = self._auth.renew(challenge, call.scope, stale=used)
            except AccessError:
                if not renewals:
                    raise
                break
        raise AccessError(
            call.subject, f"{self.endpoint.origin} refuses our credentials: {said(answer)}", hint=LOGIN_HINT
        )

    def _asked(self, call: Call, used: Secret | None) -> tuple[Answer, Challenge | None]:
        """Return the answer, and what it asks for."""
        answer = self._send(call, used)
        try:
            explained = self._explained(answer, call, used)
        except BaseException:
            answer.close()
            raise
        try:
            return explained, self._challenge(explained, used, call)
        except BaseException:
            explained.close()
            raise

    @property
    def bearing(self) -> Bearing:
        """What the registry bears now."""
        return self._transport.bearing(self.endpoint.origin)

    def location(self, answer: Answer, call: Call) -> Url:
        """Return where an upload goes on.

        Raises:
            AccessError: somewhere else than at this registry.
            FormatError: nowhere.
        """
        text = answer.header("Location")
        if text is None:
            raise FormatError(call.subject, f"{self.endpoint.origin} does not say where the upload goes on")
        url = answer.url.join(text)
        if url.origin != self.endpoint.origin:
            raise AccessError(
                call.subject,
                f"{self.endpoint.origin} sends the upload to {url.origin}, which is not its own: nothing was sent",
                hint="The registry (or a proxy before it) states a wrong public address.",
            )
        return url

    def _send(self, call: Call, authorization: Secret | None) -> Answer:
        url = call.target if isinstance(call.target, Url) else Url(self.endpoint.origin, call.target)
        return self._transport.send(
            Request(
                url=url,
                subject=call.subject,
                method=call.method,
                headers=call.headers,
                authorization=authorization,
                body=call.body() if callable(call.body) else call.body,
                body_bytes=call.body_bytes,
                answer_within_s=call.answer_within_s,
            )
        )

    def _explained(self, answer: Answer, call: Call, used: Secret | None) -> Answer:
        """Return the answer, with a body where it is a refusal: HEAD cannot say why, so the same is asked by GET."""
        if answer.status != 403 or call.method != "HEAD":
            return answer
        told = self._send(replace(call, method="GET"), used)
        told, other = (told, answer) if told.status == 403 else (answer, told)
        other.close()
        return told

    def _challenge(self, answer: Answer, used: Secret | None, call: Call) -> Challenge | None:
        """Return what an answer asks for, None when it asks for nothing; expired ECR tokens come as a 403 in text."""
        if answer.url.origin != self.endpoint.origin:
            return None
        if answer.status == 401:
            answer.excerpt()
            return parse_challenge(answer.header("WWW-Authenticate") or "", subject=call.subject)
        if answer.status == 403 and used is not None and _EXPIRED.search(answer.excerpt()):
            return self._auth.challenge
        return None


@dataclass(frozen=True, slots=True)
class RegistryFault:
    """One entry of a registry's error document."""

    code: str
    message: str


def faults(answer: Answer) -> tuple[RegistryFault, ...]:
    """Return what a registry says is wrong; nothing where it does not say it in the specified form."""
    try:
        document = parse_strict_json(answer.excerpt(), subject="")
    except FormatError:
        return ()
    entries = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return ()
    return tuple(
        RegistryFault(code=entry["code"], message=str(entry.get("message", "")))
        for entry in entries[:10]
        if isinstance(entry, dict) and isinstance(entry.get("code"), str) and _CODE.match(entry["code"])
    )


def fault_codes(answer: Answer) -> frozenset[str]:
    """Return the codes alone, in capitals."""
    return frozenset(fault.code.upper() for fault in faults(answer))


def said(answer: Answer) -> str:
    """Return status and what the registry said, for a message; one line, without what we sent as secret."""
    told = "; ".join(f"{fault.code}: {fault.message}" if fault.message else fault.code for fault in faults(answer))
    return f"{answer.status} {answer.visible(told) if told else answer.text}".strip()


def refusal(answer: Answer, call: Call, *, origin: object) -> BundleError:
    """Return the error for an answer that is none of the good ones."""
    text = f"{origin} answered {said(answer)} to a {call.method}"
    if answer.status in (401, 403):
        return AccessError(call.subject, text, hint=LOGIN_HINT)
    return NetworkError(call.subject, text, hint="Look at what the registry says, then run the same command again.")
