"""What botocore raises -> our errors: action and resource, the missing VPC endpoint, the wrong clock."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from bundler.domain.credentials import Secret
from bundler.errors import AccessError, BundleError, NetworkError, RejectedError, UsageError

LARGEST_OFFSET_S = 240.0  # AWS takes five minutes, S3 fifteen
MAX_MESSAGE_CHARACTERS = 400
_DENIED = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "UnauthorizedAccess",
     "Forbidden", "403", "AllAccessDisabled", "InvalidAccess"}
)  # fmt: skip
_BAD_CREDENTIALS = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException", "AuthFailure",
     "InvalidAccessKeyId", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "NotAuthorized",
     "OptInRequired", "InvalidToken", "TokenRefreshRequired", "UnauthorizedException", "401", "InvalidSecurity",
     "400"}  # all that S3 says to HEAD with an expired token
)  # fmt: skip
_REDIRECTS = frozenset({"301", "302", "303", "307", "308"})
_ELSEWHERE = _REDIRECTS | {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect"}
_SIGNATURE = frozenset(
    {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture", "SignatureDoesNotMatch", "AuthFailure",
     "InvalidSignatureException", "IncompleteSignature", "RequestTimeTooSkewedException"}
)  # fmt: skip
_BUSY = frozenset(
    {"Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
     "TooManyRequestsException", "RequestLimitExceeded", "SlowDown", "BandwidthLimitExceeded", "InternalError",
     "PriorRequestNotComplete", "ProvisionedThroughputExceededException", "EC2ThrottledException", "InternalFailure",
     "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout", "RequestTimeoutException",
     "ServerException", "InternalServerException", "429", "500", "502", "503", "504"}
)  # fmt: skip
_S3_ACTIONS = {
    "HeadObject": "s3:GetObject",
    "HeadBucket": "s3:ListBucket",
    "ListBuckets": "s3:ListAllMyBuckets",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError", "SSOError",
     "SSOTokenLoadError", "UnauthorizedSSOTokenError", "NoAuthTokenError", "MetadataRetrievalError", "LoginError",
     "RefreshWithMFAUnsupportedError", "LoginTokenLoadError", "LoginAuthorizationCodeError", "UnknownCredentialError",
     "PendingAuthorizationExpiredError", "ProfileNotFound", "ConfigNotFound", "InfiniteLoopConfigError"}
)  # fmt: skip
_UNREACHABLE = frozenset(
    {"EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ReadTimeoutError",
     "ProxyConnectionError", "HTTPClientError", "ConnectionError", "ResponseStreamingError", "IncompleteReadError",
     "HTTPError"}
)  # fmt: skip
_SETTINGS = frozenset(
    {"NoRegionError", "InvalidRegionError", "ParamValidationError", "UnknownServiceError", "InvalidConfigError",
     "ConfigParseError", "UnknownRegionError", "InvalidProxiesConfigError", "InvalidEndpointConfigurationError",
     "EndpointProviderError", "EndpointResolutionError", "InvalidRetryConfigurationError", "UnknownEndpointError",
     "InvalidS3AddressingStyleError", "InvalidDNSNameError", "InvalidHostLabelError", "EndpointVariantError"}
)  # fmt: skip
_ON_KEYS = {"ebs:GetSnapshotBlock": "kms:Decrypt"}
"""What is needed on the key of what is encrypted; of a key that denies, EBS does not always say so."""
_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]{1,40}:[A-Za-z*]{1,60})")
_RESOURCE = re.compile(r"on resource: (arn:[^\s,]{1,300})")
_LAYER = re.compile(
    r"(?:because no|with an explicit deny in an?) "
    r"(identity-based|resource-based|VPC endpoint|session|service control|permissions boundary|resource control) polic"
)
_HIDDEN = re.compile(
    r"(?<=//)[^\s\"'`<>]*(?=@)|A[KS]IA[0-9A-Z]{12,}|(?<=X-Amz-Signature=)[^&\s]+|(?<=X-Amz-Credential=)[^&\s]+"
    r"|(?<=X-Amz-Security-Token=)[^&\s]+|(?<=authorization failure message: )\S+|[A-Za-z0-9+/=_-]{120,}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked when it failed.

    Attributes:
        service: `ec2`, `ecr`, …: also the prefix of its IAM actions.
        operation: as the API calls it: `DescribeVpcs`.
        resource: what it was about.
        endpoint: URL of the service, for messages.
        setting: how the site file overrides it.
        proxy: URL of the proxy in between, empty where there is none.
    """

    service: str
    operation: str
    resource: str
    endpoint: str
    setting: str
    proxy: str = ""

    @property
    def action(self) -> str:
        """The IAM action that the operation needs."""
        return _iam_action(self.service, self.operation)


def _iam_action(service: str, operation: str) -> str:
    """Return the action for an operation; S3 names some otherwise than its API."""
    action = f"{service}:{operation}"
    return _S3_ACTIONS.get(operation, action) if service == "s3" else action


def translate(
    error: Exception, asked: Asked, *, secrets: tuple[Secret, ...] = (), now: Callable[[], dt.datetime]
) -> BundleError:
    """Return our error for one of botocore's; its text holds no secret."""
    response: Mapping[str, Any] | None = getattr(error, "response", None)
    if isinstance(response, Mapping) and "Error" in response:
        return _answered(response, asked, secrets, now)
    kind = next((name for name in _names(error) if name in _KINDS), "")
    return _KINDS.get(kind, _no_api)(clean(_said(error), secrets), asked)


def clean(text: str, secrets: tuple[Secret, ...] = ()) -> str:
    """Return a foreign text as one short line without control characters and without secrets."""
    for secret in secrets:
        text = secret.hidden_in(text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    line = _HIDDEN.sub("***", line)
    return line if len(line) <= MAX_MESSAGE_CHARACTERS else line[:MAX_MESSAGE_CHARACTERS] + " …"


def _said(error: Exception) -> str:
    """The error's text; botocore leaves out of that of a proxy what went wrong with it."""
    reason = getattr(error, "kwargs", {}).get("error") if "ProxyConnectionError" in _names(error) else None
    return str(error) if reason is None else f"{error}: {(getattr(reason, 'args', None) or [reason])[-1]}"


def _names(error: Exception) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _answered(
    response: Mapping[str, Any], asked: Asked, secrets: tuple[Secret, ...], now: Callable[[], dt.datetime]
) -> BundleError:
    code = str(response["Error"].get("Code", ""))[:100].removeprefix("Client.").removeprefix("Server.")
    message = clean(str(response["Error"].get("Message", "")), secrets)
    metadata = response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    code = code or str(status)  # what is not of AWS says nothing else
    offset_s = _offset_s(metadata.get("HTTPHeaders", {}), now())
    if code.startswith("RequestTimeTooSkewed") or (
        code in _SIGNATURE and offset_s is not None and abs(offset_s) > LARGEST_OFFSET_S
    ):
        return _wrong_clock(asked, offset_s)
    if code in _ELSEWHERE:
        return _elsewhere(code, metadata.get("HTTPHeaders", {}), asked)
    if code in _DENIED:
        return _denied(message, asked)
    if code in _BAD_CREDENTIALS or code in _SIGNATURE:
        return _bad_credentials(code, message, asked)
    if code in _BUSY or (isinstance(status, int) and status >= 500):
        where = f"{asked.action} on {asked.resource}"
        error = NetworkError(where, f"the service is busy or failing: {code} {message}".rstrip())
        error.busy = True
        return error
    return _rejected(code, message, asked)


def _offset_s(headers: Mapping[str, str], now: dt.datetime) -> float | None:
    """Seconds that our clock is ahead of the service's, None where it does not say."""
    try:
        return (now - parsedate_to_datetime(headers["date"])).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None


def _wrong_clock(asked: Asked, offset_s: float | None) -> NetworkError:
    if offset_s is None:
        cause = "the service says that this host's clock is wrong"
    else:
        cause = f"this host's clock is {abs(offset_s):.0f} s {'ahead' if offset_s > 0 else 'behind'}"
    return NetworkError(asked.action, cause, hint="Set the clock (chronyc makestep), then run the same command again.")


def _elsewhere(code: str, headers: Mapping[str, str], asked: Asked) -> UsageError:
    if code in _REDIRECTS and "x-amz-bucket-region" not in headers:
        cause = f"{asked.endpoint} sends us elsewhere and does not say in which Region the bucket is"
        hint = "Look for a proxy that wants a login; else set AWS_REGION, or the site's region, to the bucket's."
        return UsageError(asked.resource, cause, hint=hint)
    region = clean(headers.get("x-amz-bucket-region", "another Region"))
    hint = "Use a bucket of the site's Region, or set AWS_REGION on the connected side."
    return UsageError(asked.resource, f"the bucket is in {region}, not where {asked.endpoint} is", hint=hint)


def _denied(message: str, asked: Asked) -> AccessError:
    action, resource = _ACTION.search(message), _RESOURCE.search(message)
    layer = _LAYER.search(message)
    name = _iam_action(*action[1].split(":", 1)) if action else asked.action
    where = resource[1] if resource else asked.resource
    policy = f"the {layer[1]} policy" if layer else "the policies of the caller, of the resource or of the VPC endpoint"
    key = f"; if it is encrypted, {_ON_KEYS[asked.action]} on its key, too" if asked.action in _ON_KEYS else ""
    return AccessError(
        f"{name} on {where}",
        f"was denied: {message}" if message else "was denied",
        hint=f"Allow {name} on {where} (look at {policy}){key}, then run the same command again.",
    )


def _bad_credentials(code: str, message: str, asked: Asked) -> AccessError:
    return AccessError(
        asked.action,
        f"the credentials are refused: {code} {message}".rstrip(),
        hint="Get fresh credentials (aws sts get-caller-identity shows whether they work), then run it again.",
    )


def _rejected(code: str, message: str, asked: Asked) -> RejectedError:
    error = RejectedError(asked.resource, f"{asked.action} was rejected: {code} {message}".rstrip())
    error.code = code
    return error


def _no_credentials(message: str, asked: Asked) -> BundleError:
    hint = "Set AWS_PROFILE, or give this host an instance profile or another source of credentials."
    return AccessError(asked.action, f"no credentials: {message}", hint=hint)


def _unreachable(message: str, asked: Asked) -> BundleError:
    if asked.proxy and " 407 " in message:
        cause = f"{asked.endpoint}: the proxy {asked.proxy} wants credentials"
        return AccessError(asked.service, cause, hint="Put them into HTTPS_PROXY.")
    if asked.proxy:
        cause = f"no answer from {asked.endpoint} through the proxy {asked.proxy}: {message}"
        hint = "Look whether the proxy lets it through; what has a VPC endpoint of its own belongs into NO_PROXY."
        return NetworkError(asked.service, cause, hint=hint)
    error = NetworkError(asked.service, f"no answer from {asked.endpoint}: {message}", hint=endpoint_hint(asked))
    error.unreachable = True
    return error


def endpoint_hint(asked: Asked) -> str:
    """Say what makes a service reachable from a VPC without internet."""
    return (
        f"The VPC needs an endpoint for {asked.setting} with private DNS, whose security group admits tcp/443 from "
        f"here; without private DNS set `endpoints: {{{asked.setting}: https://vpce-…}}` in the site file."
    )


def _tls(message: str, asked: Asked) -> BundleError:
    hint = "Where a proxy or the endpoint has a certificate of its own authority, name it: --ca-file FILE."
    return NetworkError(asked.service, f"TLS with {asked.endpoint} failed: {message}", hint=hint)


def _wrong_settings(message: str, asked: Asked) -> BundleError:
    hint = "Check region and `endpoints:` of the site file, and the AWS_… variables."
    return UsageError(asked.action, message, hint=hint)


def _no_api(message: str, asked: Asked) -> BundleError:
    return NetworkError(
        asked.action,
        f"{asked.endpoint} answered something that is not this API's: {message}",
        hint=f"Check what really answers there: a proxy, another service, or a wrong address of {asked.setting} in the "
        "site file (endpoints).",
    )


_KINDS: dict[str, Callable[[str, Asked], BundleError]] = {
    "SSLError": _tls,
    **dict.fromkeys(_NO_CREDENTIALS, _no_credentials),
    **dict.fromkeys(_UNREACHABLE, _unreachable),
    **dict.fromkeys(_SETTINGS, _wrong_settings),
    "ValidationError": _wrong_settings,
    "ValueError": _wrong_settings,
}
