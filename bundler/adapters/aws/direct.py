"""Requests that repeat by the thousand: botocore signs and sends them, without its models (half of what a call costs).

Only a plain success comes from here. Any other outcome, an answer or a failure to get one, is handed to botocore's own
call as that of its first try: what may be tried again, and when, and what an error means, is said in one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from bundler.transfer import check_stopped

_Context = tuple[str, Mapping[str, Any], Mapping[str, str]]
_handed: ContextVar[tuple[Direct, object] | None] = ContextVar("handed", default=None)
"""What the next request of the client of this `Direct` comes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A request as it stands on the wire.

    Attributes:
        operation: the API's name for it.
        target: path and query, quoted.
        body: bytes, or a view of them, or views one after the other: `headers` then say Content-Length.
        place: parameters that the endpoint depends on, such as Bucket.
    """

    operation: str
    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview | Iterator[memoryview] | None = None
    place: Mapping[str, str] = field(default_factory=dict)


class Direct:
    """One client's way past botocore's models."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._contexts: dict[tuple[str, ...], _Context] = {}

    def watch(self) -> None:
        """Let the client take what is handed to it."""
        self._client.meta.events.register("before-send", self._take)

    def send(self, plain: Plain) -> Any:
        """Send it once: a response of botocore's (not read yet), or an exception; None when it cannot be signed."""
        check_stopped()
        try:
            prepared = self._signed(plain)
        except Exception:  # noqa: BLE001 - botocore's own call meets the same, and says it
            return None
        try:
            return self._client._endpoint.http_session.send(prepared)
        except Exception as error:  # noqa: BLE001 - handed over, as botocore does it
            return error

    @contextmanager
    def handing(self, outcome: object) -> Iterator[None]:
        """Hold around botocore's own call: its first try is not sent, it has come to `outcome`."""
        before = _handed.set(None if outcome is None else (self, outcome))
        try:
            yield
        finally:
            _handed.reset(before)

    def _take(self, **_: object) -> object:
        handed = _handed.get()
        if handed is None or handed[0] is not self:  # getting credentials may ask another client first
            return None
        _handed.set(None)
        if isinstance(handed[1], Exception):
            raise handed[1]
        return handed[1]

    def _signed(self, plain: Plain) -> Any:
        from botocore.awsrequest import AWSRequest

        key = (plain.operation, *plain.place.values())
        url, context, headers = self._contexts.get(key) or self._context(key, plain)
        request = AWSRequest(plain.method, url + plain.target, headers={**headers, **plain.headers}, data=plain.body)
        request.context.update(context)
        request.stream_output = plain.method == "GET"
        self._client._request_signer.sign(plain.operation, request)
        return self._client._endpoint.prepare_request(request)

    def _context(self, key: tuple[str, ...], plain: Plain) -> _Context:
        """What all requests of an operation have in common, as botocore's call makes it."""
        client = self._client
        model = client.meta.service_model.operation_model(plain.operation)
        context = {
            "client_region": client.meta.region_name,
            "client_config": client.meta.config,
            "has_streaming_input": model.has_streaming_input,
            "auth_type": model.resolved_auth_type,
            "unsigned_payload": model.unsigned_payload,
        }
        url, headers, _ = client._resolve_endpoint_ruleset(model, dict(plain.place), context)
        agent = client._user_agent_creator.to_string()
        made = url.rstrip("/"), context, {**headers, "User-Agent": agent}
        self._contexts[key] = made
        return made
