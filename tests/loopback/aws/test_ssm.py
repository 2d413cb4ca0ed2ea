"""Public parameters through our adapter."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from bundler.adapters.aws.clients import Service
from bundler.adapters.aws.ssm import Parameters
from bundler.errors import AccessError, NetworkError, NotFoundUpstreamError
from tests.loopback.aws.conftest import Closed, odd_service
from tests.peers import boto_client

pytestmark = pytest.mark.loopback


@pytest.fixture
def parameters(services: Callable[[str], Service]) -> Parameters:
    return Parameters(services("ssm"))


@pytest.fixture
def name(closed: Closed) -> str:
    made = f"/test/{uuid.uuid4().hex}"
    boto_client(closed.lab, "ssm").put_parameter(Name=made, Value="ami-1", Type="String")
    return made


def test_a_parameter_has_its_value(parameters: Parameters, name: str) -> None:
    assert parameters.value(name) == "ami-1"


def test_a_parameter_that_does_not_exist_is_no_name_of_awss_and_the_hint_says_what_names_it(
    parameters: Parameters, closed: Closed
) -> None:
    with pytest.raises(NotFoundUpstreamError) as caught:
        parameters.value("/aws/service/eks/optimized-ami/1.99/image_id")
    assert caught.value.subject == "/aws/service/eks/optimized-ami/1.99/image_id"
    assert caught.value.cause == f"AWS publishes no such parameter in {closed.lab.region}"
    assert "kubernetesVersion" in caught.value.hint


def test_who_is_denied_is_told_the_permission(closed: Closed, parameters: Parameters, name: str) -> None:
    closed.fault("ssm", "GetParameter", "denied", times=100)
    with pytest.raises(AccessError, match="ssm:GetParameter"):
        parameters.value(name)


@pytest.mark.parametrize("kind", ["throttled", "reset", "unavailable"])
def test_a_service_that_stumbles_is_asked_again(closed: Closed, parameters: Parameters, name: str, kind: str) -> None:
    closed.fault("ssm", "GetParameter", kind)
    assert parameters.value(name) == "ami-1"


@pytest.mark.parametrize("answer", [{}, {"Parameter": {}}, {"Parameter": None}])
def test_an_answer_without_a_value_is_a_network_error(answer: object) -> None:
    with pytest.raises(NetworkError, match="lacks what the API promises"):
        Parameters(odd_service(answer)).value("/x")
