"""The door before moto: who calls what, with which signature; the log, the planned faults, and the EKS token.

moto checks no signature and takes a presigned GetCallerIdentity for a request to S3; both are put right here.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from moto.core.request import Request as MotoRequest
from moto.core.routing import get_service_router
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sts.models import sts_backends
from werkzeug.datastructures import EnvironHeaders
from werkzeug.exceptions import MethodNotAllowed, NotFound

from bundler.domain.blocks import BLOCK_BYTES
from bundler.lab import aws_errors
from bundler.lab.aws_errors import Refusal
from bundler.lab.faults import Fault, Faults
from bundler.lab.http_server import CutError
from bundler.lab.place import Place
from bundler.lab.request_log import RequestLog
from bundler.lab.signature import Claim, HttpRequest, body_matches, is_expired, parse_claim, proves

_LOG = logging.getLogger(__name__)
_UNSIGNED = frozenset({"AssumeRoleWithWebIdentity", "AssumeRoleWithSAML"})
_MODULES = {"elasticloadbalancing": "elbv2"}
Environ = dict[str, Any]
StartResponse = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the AWS API."""

    service: str
    operation: str
    region: str
    dry_run: bool


class AwsGate:
    """A WSGI application: checks a call, then lets moto answer it."""

    def __init__(
        self, place: Place, *, faults: Faults, log: RequestLog, control: Callable[[str, str, bytes], tuple[int, object]]
    ) -> None:
        self._account = place.account
        self._region = place.region
        self._partition = place.partition
        self._faults = faults
        self._log = log
        self._control = control
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._apps: dict[str, Any] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = _read(environ)
        if request.path.startswith("/_lab/"):
            return self._answer_control(request, start_response)
        claim = parse_claim(request)
        call = self._identify(request, claim, environ)
        fault = self._faults.take(call.service, call.operation)
        try:
            refusal = self._suffer(fault, call) if fault is not None else None
        except CutError:
            self._record(call, 0)
            _reset(environ)
            return [b""]
        refusal = refusal or self._refuse(request, claim, call)
        if refusal is not None:
            return self._answer_refusal(refusal, call, start_response)
        if claim is not None and claim.presigned and call.service == "sts":
            return self._answer_identity(claim, call, request, start_response)
        if fault is None or fault.kind != "damaged":
            return self._pass_on(environ, request, claim, call, start_response)
        request = replace(request, body=_damaged(request.body))
        return [_damaged(b"".join(self._pass_on(environ, request, claim, call, start_response)))]

    def _record(self, call: Call, status: int) -> None:
        self._log.aws(call.service, call.operation, status=status, dry_run=call.dry_run)

    def _identify(self, request: HttpRequest, claim: Claim | None, environ: Environ) -> Call:
        form = _form(request)
        service, region = (claim.service, claim.region) if claim is not None else ("sts", self._region)
        dry_run = form.get("DryRun", "").lower() == "true"
        operation = form.get("Action") or request.headers.get("x-amz-target", "").rpartition(".")[2]
        operation = operation or _routed(service, environ) or f"{request.method} {request.path}"
        return Call(service=service, operation=operation, region=region, dry_run=dry_run)

    def _suffer(self, fault: Fault, call: Call) -> Refusal | None:
        time.sleep(fault.delay_s)
        if fault.kind in ("reset", "cut"):
            raise CutError
        arn = f"arn:{self._partition}:iam::{self._account}:user/lab-operator"
        return aws_errors.planned(fault, service=call.service, operation=call.operation, arn=arn)

    def _refuse(self, request: HttpRequest, claim: Claim | None, call: Call) -> Refusal | None:
        if claim is None:
            return None if call.operation in _UNSIGNED else aws_errors.unsigned()
        secret = self._secret(claim)
        if secret is None:
            return aws_errors.unknown_key(call.service)
        if is_expired(claim, dt.datetime.now(dt.UTC)):
            return aws_errors.too_old(call.service, claim.time)
        if not proves(request, claim, secret):
            return aws_errors.wrong_signature(call.service)
        return None if body_matches(request) else aws_errors.wrong_body()

    def _secret(self, claim: Claim) -> str | None:
        """Return the secret of an access key: a user's, or one that STS gave out with its session token."""
        key = iam_backends[self._account][self._partition].access_keys.get(claim.access_key)
        role = sts_backends[self._account][self._partition].get_assumed_role_from_access_key(claim.access_key)
        if role is not None:
            return str(role.secret_access_key) if role.session_token == claim.session_token else None
        return str(key.secret_access_key) if key is not None and key.status == "Active" else None

    def _answer_refusal(self, refusal: Refusal, call: Call, start_response: StartResponse) -> list[bytes]:
        self._record(call, refusal.status)
        headers, body = aws_errors.render(call.service, refusal)
        return _send(start_response, refusal.status, headers, body)

    def _answer_identity(
        self, claim: Claim, call: Call, request: HttpRequest, start_response: StartResponse
    ) -> list[bytes]:
        """Answer a presigned GetCallerIdentity, which is what an EKS token is."""
        backend = sts_backends[self._account][self._partition]
        user, arn, account = backend.get_caller_identity(claim.access_key, claim.region)
        self._record(call, 200)
        request_id = str(uuid.uuid4())
        if "json" in request.headers.get("accept", ""):
            result = {"Account": account, "Arn": arn, "UserId": user}
            body = {
                "GetCallerIdentityResponse": {
                    "GetCallerIdentityResult": result, "ResponseMetadata": {"RequestId": request_id},
                }
            }  # fmt: skip
            return _send(start_response, 200, {"Content-Type": "application/json"}, json.dumps(body).encode())
        text = (
            '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            f"<Arn>{arn}</Arn><UserId>{user}</UserId><Account>{account}</Account></GetCallerIdentityResult>"
            f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
        )
        return _send(start_response, 200, {"Content-Type": "text/xml"}, text.encode())

    def _answer_control(self, request: HttpRequest, start_response: StartResponse) -> list[bytes]:
        status, value = self._control(request.method, request.path, request.body)
        return _send(start_response, status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _pass_on(
        self, environ: Environ, request: HttpRequest, claim: Claim | None, call: Call, start_response: StartResponse
    ) -> Iterator[bytes] | Iterable[bytes]:
        environ["wsgi.input"] = io.BytesIO(request.body)
        environ["CONTENT_LENGTH"] = str(len(request.body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        # moto reads region and account from these, and knows no presigned URLs
        environ["HTTP_HOST"] = f"{call.service}.{call.region}.amazonaws.com"
        if claim is not None and claim.presigned:
            environ["HTTP_AUTHORIZATION"] = (
                f"AWS4-HMAC-SHA256 Credential={claim.access_key}/{claim.scope}, SignedHeaders=host, Signature=0"
            )

        def started(status: str, headers: list[tuple[str, str]], *failed: object) -> Any:
            self._record(call, int(status.split(maxsplit=1)[0]))
            return start_response(status, headers, *failed)

        app = self._app(call)
        if app is None:
            refusal = Refusal(status=404, code="UnknownOperationException", message=f"The lab has no {call.service}")
            return self._answer_refusal(refusal, call, start_response)
        answer: Iterable[bytes] = app(environ, started)
        return answer

    def _app(self, call: Call) -> Any:
        service = _MODULES.get(call.service, call.service)
        if service not in self._apps:
            backend = self._moto.get_backend_for_host(f"{service}.{call.region}.amazonaws.com")
            if backend is None:
                return None
            with self._moto.lock:
                self._apps[service] = create_backend_app(backend)
        return self._apps[service]


def _damaged(content: bytes) -> bytes:
    """Change one bit of what is as large as a block."""
    if len(content) < BLOCK_BYTES:
        return content
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _read(environ: Environ) -> HttpRequest:
    target = urlsplit(environ.get("RAW_URI") or environ["PATH_INFO"])
    headers = {name.lower(): value for name, value in EnvironHeaders(environ)}
    if environ.get("wsgi.input_terminated"):
        body = environ["wsgi.input"].read()
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return HttpRequest(
        method=environ["REQUEST_METHOD"], path=target.path, query=target.query, headers=headers, body=body
    )


def _form(request: HttpRequest) -> dict[str, str]:
    """Return the fields of the query protocol, from the body or (presigned) from the query."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        text = request.body.decode("utf-8", "replace")
    else:
        text = request.query if "Action=" in request.query else ""
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}


def _routed(service: str, environ: Environ) -> str | None:
    """Return the operation of a REST call, by the paths of botocore's model."""
    try:
        operation, _ = get_service_router(service).match(MotoRequest(environ))
    except (NotFound, MethodNotAllowed, KeyError, LookupError):
        return None
    return str(operation.name)


def _send(start_response: StartResponse, status: int, headers: dict[str, str], body: bytes) -> list[bytes]:
    start_response(f"{status} LAB", [*headers.items(), ("Content-Length", str(len(body)))])
    return [body]


def _reset(environ: Environ) -> None:
    """End the connection so that the client sees it fail, not end."""
    connection: socket.socket | None = environ.get("werkzeug.socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())  # `close` would wait for the server's own file objects
    raise ConnectionResetError("planned")
