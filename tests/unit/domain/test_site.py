from __future__ import annotations

import jsonschema
import pytest

from bundler.adapters.documents import parse_document
from bundler.domain.site import parse_site, site_schema
from bundler.errors import DefinitionError
from tests.fakes.sites import group_document, make_site


@pytest.mark.parametrize("port", ["99999", "https", "-1"])
def test_a_port_that_is_none_is_an_error_of_the_site_file(port: str) -> None:
    cluster = make_site().cluster.model_dump(mode="json", by_alias=True, exclude_none=True)
    with pytest.raises(DefinitionError, match=r"site.yaml:.*[Pp]ort"):
        make_site(cluster={**cluster, "endpoint": f"https://cluster.example:{port}"})


def test_an_override_with_a_port_that_is_none_is_an_error_of_the_site_file() -> None:
    with pytest.raises(DefinitionError, match="port"):
        make_site(endpoints={"ecr.dkr": "vpce.example:99999"})


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"endpoints": {"s3": "vpce-123.s3.example"}}, "must be a URL such as"),
        ({"endpoints": {"ec2": "https://user:word@ec2.example"}}, "must not hold a user name"),
        ({"endpoints": {"sts": "https://sts.example:0"}}, "port"),
        ({"region": "cn-north-1"}, "cn-north-1 is in the partition aws-cn, not in aws"),
        ({"partition": "aws-moon"}, "must be one of aws, aws-cn"),
    ],
)
def test_what_cannot_be_right_is_an_error_of_the_site_file(changes: dict[str, object], cause: str) -> None:
    with pytest.raises(DefinitionError, match=cause) as caught:
        make_site(**changes)
    assert caught.value.subject.startswith("site.yaml:")


def test_a_service_network_without_an_address_for_cluster_dns_is_refused() -> None:
    cluster = make_site().cluster.model_dump(mode="json", by_alias=True, exclude_none=True)
    with pytest.raises(DefinitionError, match="too small: cluster DNS has address 10 of it"):
        make_site(cluster={**cluster, "serviceCidr": "10.100.0.0/30"})
    assert make_site(cluster={**cluster, "serviceCidr": "10.100.0.0/28"}).cluster.service_cidr == "10.100.0.0/28"


@pytest.mark.parametrize("key", ["kubernetes.io/os", "node-role.kubernetes.io/worker", "x.k8s.io/y"])
def test_a_label_that_the_kubelet_refuses_is_an_error_of_the_site_file(key: str) -> None:
    with pytest.raises(DefinitionError, match=rf"nodeGroups\[0\]: the kubelet does not start with the labels {key}"):
        make_site(nodeGroups=[group_document(labels={key: "x"})])


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_a_key_without_a_value_is_an_error_with_its_place(text: str) -> None:
    document = parse_document(f"apiVersion: eks-bundler/v1\nkind: Site\nregion: {text}\n".encode(), source="site.yaml")
    with pytest.raises(DefinitionError, match="region has no value") as caught:
        parse_site(document)
    assert caught.value.subject.startswith("site.yaml:3:")


def test_the_schema_lets_a_key_be_left_out_but_not_be_null() -> None:
    validator = jsonschema.Draft202012Validator(site_schema())
    document = make_site().model_dump(mode="json", by_alias=True, exclude_none=True)
    validator.validate(document)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**document, "state": None})
