"""ECR by its API, against the lab's."""

from __future__ import annotations

import base64
import datetime as dt

import pytest

from bundler.adapters.aws.clients import Aws, AwsSettings, Service
from bundler.adapters.aws.ecr import EcrRepositories, EcrTokens
from bundler.adapters.aws.failures import Asked
from bundler.domain.repository import Repository
from bundler.errors import AccessError, MissingRepositoryError, NetworkError
from bundler.stages.repositories import observe_repositories, repositories
from tests.loopback.aws.conftest import Closed

pytestmark = pytest.mark.loopback


def ecr(closed: Closed) -> EcrRepositories:
    return EcrRepositories(closed.aws.service("ecr"), account=closed.site.account)


def test_a_token_opens_ecr_hosts_and_no_other(closed: Closed) -> None:
    tokens = EcrTokens(closed.aws)
    found = tokens.credentials(closed.site.registry_host)
    assert found is not None
    assert found.username == "AWS"
    assert found.password.reveal() not in repr(found)
    assert tokens.credentials("registry.k8s.io") is None
    assert tokens.credentials("public.ecr.aws") is None


def test_a_token_is_asked_for_once_and_again_after_a_refresh(closed: Closed) -> None:
    tokens = EcrTokens(closed.aws)
    host = closed.site.registry_host
    first = tokens.credentials(host)
    assert tokens.credentials(host) is first
    tokens.refresh(host)
    assert tokens.credentials(host) is not first


def test_a_token_that_ends_soon_is_renewed(closed: Closed) -> None:
    later = [dt.datetime.now(dt.UTC)]
    tokens = EcrTokens(closed.aws, now=lambda: later[0])
    first = tokens.credentials(closed.site.registry_host)
    later[0] += dt.timedelta(hours=11, minutes=55)
    assert tokens.credentials(closed.site.registry_host) is not first


def test_a_denied_token_names_the_action(closed: Closed) -> None:
    closed.fault("ecr", "GetAuthorizationToken", "denied")
    with pytest.raises(AccessError, match="ecr:GetAuthorizationToken"):
        EcrTokens(closed.aws).credentials(closed.site.registry_host)


class Answers:
    """An ECR client that answers one thing."""

    class meta:  # noqa: N801 - as botocore calls it
        endpoint_url = "https://api.ecr.example"
        region_name = "ap-northeast-1"

    def __init__(self, token: str, expires: dt.datetime) -> None:
        self._data = {"authorizationToken": token, "expiresAt": expires}

    def get_authorization_token(self) -> object:
        return {"authorizationData": [self._data]}


@pytest.mark.parametrize(
    ("token", "hours"),
    [
        ("not base64!", 12),
        (base64.b64encode(b"nocolon").decode(), 12),
        (base64.b64encode(b":x").decode(), 12),
        (base64.b64encode(b"AWS:canary-password").decode(), -1),
    ],
)
def test_what_is_no_token_is_access_and_does_not_show(monkeypatch: pytest.MonkeyPatch, token: str, hours: int) -> None:
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
    aws = Aws(AwsSettings(region="ap-northeast-1"))
    asked = Asked(service="ecr", operation="*", resource="*", endpoint="", setting="ecr.api")
    service = Service(Answers(token, expires), asked)
    monkeypatch.setattr(aws, "service", lambda name, region: service)
    with pytest.raises(AccessError) as caught:
        EcrTokens(aws).credentials("602401143452.dkr.ecr.ap-northeast-1.amazonaws.com")
    assert token not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_repositories_are_made_as_the_site_says_and_the_next_plan_is_empty(closed: Closed) -> None:
    names = ["closed/registry.example/a", "closed/registry.example/b"]
    registry = ecr(closed)
    plan = observe_repositories(closed.site, names, registry=registry)
    assert len(plan.plan.actions) == 2
    repositories(plan, registry=registry)
    again = observe_repositories(closed.site, names, registry=registry)
    assert again.plan.empty
    assert not again.differences
    assert all(state.immutable for state in again.present)


def test_a_repository_made_meanwhile_is_no_error(closed: Closed) -> None:
    registry = ecr(closed)
    for _ in range(2):
        registry.create(Repository(name="closed/twice"))
    assert set(registry.describe(["closed/twice", "closed/never"])) == {"closed/twice"}


def test_missing_repositories_that_may_not_be_made_are_named_with_the_command(closed: Closed) -> None:
    settings = closed.site.registry.model_copy(update={"create_repositories": False})
    site = closed.site.model_copy(update={"registry": settings})
    with pytest.raises(MissingRepositoryError) as caught:
        observe_repositories(site, ["closed/x", "closed/y"], registry=ecr(closed))
    assert caught.value.exit_code == 7
    assert "2 repositories" in caught.value.cause
    commands = caught.value.hint.splitlines()[1:]
    assert commands == [
        f"aws ecr create-repository --region eu-central-1 --repository-name {name} --image-tag-mutability IMMUTABLE"
        for name in ("closed/x", "closed/y")
    ]


def test_the_ecr_api_that_does_not_answer_names_the_endpoint(closed: Closed) -> None:
    aws = Aws(AwsSettings(region="eu-central-1", endpoints={"ecr": "http://127.0.0.1:9"}, quick=True))
    with pytest.raises(NetworkError, match="no answer from http") as caught:
        EcrTokens(aws).credentials(closed.site.registry_host)
    assert "ecr.api" in caught.value.hint
