"""What botocore raises, in our words: action, resource, fix; and never a secret."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from bundler.adapters.aws.failures import Asked, clean, translate
from bundler.domain.credentials import Secret
from bundler.errors import AccessError, BundleError, NetworkError, RejectedError, UsageError

NOW = dt.datetime(2026, 1, 2, 3, 0, 0, tzinfo=dt.UTC)
ASKED = Asked(
    service="ecr",
    operation="CreateRepository",
    resource="repository x",
    endpoint="https://api.ecr.ap-northeast-1.amazonaws.com",
    setting="ecr.api",
)
URL = "https://host/"


def answered(code: str, message: str = "", *, status: int = 400, date: dt.datetime = NOW) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "HTTPHeaders": {"date": f"{date:%a, %d %b %Y %H:%M:%S} GMT"},
        },
    }
    return ClientError(response, "CreateRepository")


def ours(error: Exception, asked: Asked = ASKED, secrets: tuple[Secret, ...] = ()) -> BundleError:
    return translate(error, asked, secrets=secrets, now=lambda: NOW)


def test_a_denial_names_action_resource_and_policy() -> None:
    message = (
        "User: arn:aws:sts::111122223333:assumed-role/op/me is not authorized to perform: ecr:CreateRepository on "
        "resource: arn:aws:ecr:ap-northeast-1:111122223333:repository/x because no VPC endpoint policy allows the "
        "ecr:CreateRepository action"
    )
    error = ours(answered("AccessDeniedException", message))
    assert isinstance(error, AccessError)
    assert error.subject == "ecr:CreateRepository on arn:aws:ecr:ap-northeast-1:111122223333:repository/x"
    assert "the VPC endpoint policy" in error.hint


@pytest.mark.parametrize("code", ["AccessDenied", "UnauthorizedOperation", "Client.UnauthorizedOperation", "403"])
def test_a_denial_without_details_names_what_was_asked(code: str) -> None:
    error = ours(answered(code, status=403))
    assert isinstance(error, AccessError)
    assert error.subject == "ecr:CreateRepository on repository x"


def test_the_action_of_an_s3_operation_is_the_one_that_a_policy_knows() -> None:
    asked = Asked(service="s3", operation="UploadPart", resource="s3://b/k", endpoint="", setting="s3")
    assert ours(answered("AccessDenied"), asked).subject == "s3:PutObject on s3://b/k"


@pytest.mark.parametrize(
    "code", ["400", "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "AuthFailure"]
)
def test_refused_credentials_are_access(code: str) -> None:
    assert isinstance(ours(answered(code)), AccessError)


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "SignatureDoesNotMatch", "RequestExpired", "AuthFailure"])
def test_a_wrong_clock_is_network_with_the_offset(code: str) -> None:
    error = ours(answered(code, date=NOW - dt.timedelta(minutes=20)))
    assert isinstance(error, NetworkError)
    assert error.exit_code == 5
    assert "1200 s ahead" in error.cause
    assert "behind" in ours(answered(code, date=NOW + dt.timedelta(days=365))).cause


def test_a_wrong_signature_with_a_right_clock_is_access() -> None:
    assert isinstance(ours(answered("SignatureDoesNotMatch")), AccessError)


@pytest.mark.parametrize(
    "error",
    [
        answered("ThrottlingException"),
        answered("RequestLimitExceeded"),
        answered("SlowDown", status=503),
        answered("Whatever", status=500),
    ],
)
def test_a_busy_service_is_network(error: ClientError) -> None:
    assert isinstance(ours(error), NetworkError)


@pytest.mark.parametrize("code", ["301", "PermanentRedirect", "AuthorizationHeaderMalformed"])
def test_a_bucket_of_another_region_is_usage_and_says_which(code: str) -> None:
    error = answered(code, status=301)
    error.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] = "eu-west-3"
    found = ours(error)
    assert isinstance(found, UsageError)
    assert "is in eu-west-3" in found.cause


def test_any_other_answer_is_a_rejection_with_its_code() -> None:
    error = ours(answered("RepositoryAlreadyExistsException", "it exists"))
    assert isinstance(error, RejectedError)
    assert error.code == "RepositoryAlreadyExistsException"
    assert error.exit_code == 7


@pytest.mark.parametrize(
    "error",
    [
        exceptions.EndpointConnectionError(endpoint_url=URL),
        exceptions.ConnectTimeoutError(endpoint_url=URL),
        exceptions.ReadTimeoutError(endpoint_url=URL),
        exceptions.ConnectionClosedError(endpoint_url=URL),
        exceptions.ProxyConnectionError(proxy_url=URL),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ],
)
def test_silence_names_the_service_its_address_and_the_endpoint_that_is_missing(error: Exception) -> None:
    found = ours(error)
    assert isinstance(found, NetworkError)
    assert "https://api.ecr.ap-northeast-1.amazonaws.com" in found.cause
    assert "endpoint for ecr.api" in found.hint
    assert "endpoints: {ecr.api: https://vpce-" in found.hint


def test_a_foreign_certificate_names_the_flag() -> None:
    found = ours(exceptions.SSLError(endpoint_url=URL, error="certificate verify failed"))
    assert isinstance(found, NetworkError)
    assert "--ca-file" in found.hint


def test_an_answer_that_is_no_api_is_network() -> None:
    found = ours(ResponseParserError("Unable to parse response, invalid XML received: <html>"))
    assert isinstance(found, NetworkError)
    assert "not this API's" in found.cause


@pytest.mark.parametrize(
    "error",
    [
        exceptions.NoCredentialsError(),
        exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
        exceptions.CredentialRetrievalError(provider="process", error_msg="x"),
        exceptions.ProfileNotFound(profile="x"),
        exceptions.UnauthorizedSSOTokenError(),
    ],
)
def test_no_credentials_are_access(error: Exception) -> None:
    assert isinstance(ours(error), AccessError)


@pytest.mark.parametrize("error", [exceptions.NoRegionError(), exceptions.ParamValidationError(report="x")])
def test_impossible_settings_are_usage(error: Exception) -> None:
    assert isinstance(ours(error), UsageError)


def test_pages_that_repeat_are_network() -> None:
    assert isinstance(ours(exceptions.PaginationError(message="The same next token was received twice")), NetworkError)


def test_no_secret_shows_in_any_text() -> None:
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    token = "IQoJb3JpZ2luX2VjE" + "x" * 400
    message = (
        f"AKIAIOSFODNN7EXAMPLE {secret} {token} https://h/?X-Amz-Signature=abcdef&X-Amz-Credential=AKID%2F1"
        "&X-Amz-Security-Token=tok Encoded authorization failure message: s0mething"
    )
    error = ours(answered("AccessDenied", message), secrets=(Secret(secret),))
    text = f"{error} {error.hint} {error.safe} {error.args}"
    for hidden in ("AKIAIOSFODNN7EXAMPLE", secret, token, "abcdef", "AKID%2F1", "=tok", "s0mething"):
        assert hidden not in text


def test_a_foreign_text_becomes_one_short_line() -> None:
    text = clean("a\x1b[31m\nb" + " c" * 1000)
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 410


@pytest.mark.parametrize(
    "userinfo", ["user:hunter2", "user:hunter2?x", "user:hunter2/x", "user:hunter2#x", "a@hunter2"]
)
def test_what_stands_in_front_of_a_host_is_in_no_message(userinfo: str) -> None:
    text = clean(f'Custom endpoint `http://{userinfo}@127.0.0.1:1/` and "//{userinfo}@h" were not valid')
    assert text == 'Custom endpoint `http://***@127.0.0.1:1/` and "//***@h" were not valid'


def test_through_a_proxy_no_endpoint_is_missing() -> None:
    asked = dataclasses.replace(ASKED, proxy="http://proxy.example:3128")
    error = ours(exceptions.ProxyConnectionError(proxy_url="http://proxy.example:3128", error="refused"), asked)
    assert isinstance(error, NetworkError)
    assert not error.unreachable
    assert "through the proxy http://proxy.example:3128" in error.cause
    assert "VPC needs" not in error.hint
    direct = ours(exceptions.ConnectTimeoutError(endpoint_url=URL))
    assert isinstance(direct, NetworkError)
    assert direct.unreachable
