"""Refusals in the form of each AWS protocol, so that botocore raises what it would raise for AWS."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bundler.lab.faults import Fault

_JSON = frozenset({"ecr", "kms", "ssm", "logs"})
_REST_JSON = frozenset({"eks", "ebs", "lambda"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A status, a code and a message, not yet in any protocol."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None


def unknown_key(service: str) -> Refusal:
    """The access key is nobody's."""
    if service == "s3":
        message = "The AWS Access Key Id you provided does not exist in our records."
        return Refusal(status=403, code="InvalidAccessKeyId", message=message)
    if service == "ec2":
        message = "AWS was not able to validate the provided access credentials"
        return Refusal(status=401, code="AuthFailure", message=message)
    if _is_json(service):
        message = "The security token included in the request is invalid."
        return Refusal(status=400, code="UnrecognizedClientException", message=message)
    message = "The security token included in the request is invalid."
    return Refusal(status=403, code="InvalidClientTokenId", message=message)


def wrong_signature(service: str) -> Refusal:
    """The request was signed with another secret, or changed on the way."""
    message = (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method."
    )
    code = {"ec2": "AuthFailure"}.get(service, "InvalidSignatureException" if _is_json(service) else "")
    return Refusal(status=403, code=code or "SignatureDoesNotMatch", message=message)


def too_old(service: str, signed: str) -> Refusal:
    """The request was signed too long ago, or the clock is wrong."""
    if service == "s3":
        message = "The difference between the request time and the current time is too large."
        return Refusal(status=403, code="RequestTimeTooSkewed", message=message)
    message = f"Signature expired: {signed} is now earlier than the oldest time that is accepted"
    code = {"ec2": "RequestExpired", "sts": "SignatureDoesNotMatch"}.get(service, "")
    return Refusal(status=403, code=code or wrong_signature(service).code, message=message)


def unsigned() -> Refusal:
    """No signature at all."""
    return Refusal(status=403, code="MissingAuthenticationToken", message="Request is missing Authentication Token")


def wrong_body() -> Refusal:
    """The body is not the one that was signed (S3)."""
    message = "The provided 'x-amz-content-sha256' header does not match what was computed."
    return Refusal(status=400, code="XAmzContentSHA256Mismatch", message=message)


def planned(fault: Fault, *, service: str, operation: str, arn: str) -> Refusal | None:
    """Return the refusal that a fault stands for; None for faults without an answer."""
    denied = f"User: {arn} is not authorized to perform: {service}:{operation}"
    if fault.kind == "denied":
        code = {"ec2": "UnauthorizedOperation"}.get(service, "AccessDeniedException" if _is_json(service) else "")
        return Refusal(status=403, code=code or "AccessDenied", message=denied)
    if fault.kind == "throttled":
        code = {"ec2": "RequestLimitExceeded", "s3": "SlowDown"}.get(service, "")
        code = code or ("ThrottlingException" if _is_json(service) else "Throttling")
        return Refusal(
            status=503 if service in ("ec2", "s3") else 400, code=code, message="Rate exceeded",
            retry_after_s=fault.retry_after_s,
        )  # fmt: skip
    if fault.kind == "unavailable":
        return Refusal(
            status=503, code="ServiceUnavailable", message="Service is unable to handle request.",
            retry_after_s=fault.retry_after_s,
        )  # fmt: skip
    if fault.kind == "expired":
        code = {"ec2": "RequestExpired"}.get(service, "ExpiredTokenException" if _is_json(service) else "ExpiredToken")
        message = "The security token included in the request is expired"
        return Refusal(status=400 if service != "s3" else 403, code=code, message=message)
    return None


def render(service: str, refusal: Refusal) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a refusal."""
    request_id = str(uuid.uuid4())
    headers = {"x-amzn-RequestId": request_id}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if _is_json(service):
        headers |= {"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": refusal.code}
        return headers, json.dumps({"__type": refusal.code, "message": refusal.message}).encode()
    headers["Content-Type"] = "text/xml"
    code, message = escape(refusal.code), escape(refusal.message)
    error = f"<Code>{code}</Code><Message>{message}</Message>"
    if service == "s3":
        body = f"<Error>{error}<RequestId>{request_id}</RequestId></Error>"
    elif service == "ec2":
        body = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    else:
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>{request_id}</RequestId>"
            "</ErrorResponse>"
        )
    return headers, f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()


def _is_json(service: str) -> bool:
    return service in _JSON or service in _REST_JSON
