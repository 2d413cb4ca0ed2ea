from __future__ import annotations

from pathlib import Path

import pytest

from bundler.adapters.documents import parse_document
from bundler.domain.definition import PLACEHOLDER, Definition, parse_definition
from bundler.domain.oci import Platform
from bundler.domain.partition import DNS_SUFFIXES
from bundler.errors import DefinitionError, UsageError
from bundler.wiring import read_presets
from bundler.workflows.init import InitRequest, initial_definition

BOTH = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
PRESETS, TEMPLATE = read_presets()
REGIONS = [(partition, region) for partition, regions in PRESETS.accounts.items() for region in regions]
VERSIONS = sorted(PRESETS.core.versions)


def written(**choice: object) -> str:
    defaults: dict[str, object] = {
        "kubernetes_version": "1.35",
        "region": "eu-central-1",
        "partition": None,
        "platforms": BOTH,
        "name": "demo",
    }
    return initial_definition(InitRequest(**(defaults | choice)), presets=PRESETS, template=TEMPLATE)


def parsed(text: str) -> Definition:
    return parse_definition(parse_document(text.encode(), source="bundle.yaml"))


@pytest.mark.parametrize(("partition", "region"), REGIONS)
def test_every_region_of_the_table_gives_a_definition_with_its_own_registry(partition: str, region: str) -> None:
    definition = parsed(written(region=region))
    assert definition.core.kube_proxy is not None
    assert definition.core.vpc_cni is not None
    host = definition.core.kube_proxy.image.registry
    assert host == f"{PRESETS.accounts[partition][region]}.dkr.ecr.{region}.{DNS_SUFFIXES[partition]}"
    assert definition.source.partition == partition
    image = definition.core.vpc_cni.values["image"]
    assert f"{image['account']}.dkr.ecr.{image['region']}.{image['domain']}" == host


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-central-1", "602401143452.dkr.ecr.eu-central-1.amazonaws.com"),
        ("il-central-1", "066635153087.dkr.ecr.il-central-1.amazonaws.com"),
        ("cn-north-1", "918309763551.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "013241004608.dkr.ecr.us-gov-west-1.amazonaws.com"),
        ("eusc-de-east-1", "877088126301.dkr.ecr.eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_each_partition_has_its_own_domain_and_an_account_keeps_its_leading_zero(region: str, host: str) -> None:
    assert f"{host}/eks/kube-proxy:" in written(region=region)


def test_every_partition_of_the_table_is_one_that_a_site_knows() -> None:
    assert set(PRESETS.accounts) == {"aws", "aws-cn", "aws-us-gov", "aws-eusc"}
    assert set(PRESETS.accounts) <= set(DNS_SUFFIXES)


def test_an_unknown_region_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="us-iso-east-1: is no Region whose add-on registry is known") as caught:
        written(region="us-iso-east-1")
    assert all(region in caught.value.cause for _, region in REGIONS)
    assert caught.value.exit_code == 2


def test_a_region_of_another_partition_is_an_error_that_names_its_own() -> None:
    with pytest.raises(UsageError, match="cn-north-1: is in the partition aws-cn, not in aws"):
        written(region="cn-north-1", partition="aws")


def test_an_unknown_kubernetes_version_is_an_error_that_lists_the_presets() -> None:
    with pytest.raises(UsageError, match=r"Kubernetes 1\.11: has no preset; there are presets for 1\.32, 1\.33"):
        written(kubernetes_version="1.11")


@pytest.mark.parametrize("name", ["", "Demo", "-demo", "demo\nimages: []", "demo ", "d" * 54])
def test_a_name_that_is_none_never_reaches_the_file(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name"):
        written(name=name)


def test_without_a_platform_there_is_no_definition() -> None:
    with pytest.raises(UsageError, match="name at least one"):
        written(platforms=())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_parses_once_its_placeholders_are_filled(version: str) -> None:
    definition = parsed(written(kubernetes_version=version).replace(PLACEHOLDER, "v1.0.0-eksbuild.1"))
    assert definition.kubernetes_version == version
    assert definition.platforms == BOTH
    minor = int(definition.tools.kubectl.version.split(".")[1])
    assert abs(minor - int(version.split(".")[1])) <= 1


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != "1.36"])
def test_a_version_with_sourced_tags_holds_no_placeholder(version: str) -> None:
    assert PLACEHOLDER not in written(kubernetes_version=version)


def test_a_tag_that_no_source_gives_is_refused_with_the_call_that_lists_it() -> None:
    text = written(kubernetes_version="1.36")
    with pytest.raises(DefinitionError, match=r"bundle\.yaml:\d+:\d+: core\.kubeProxy\.image .* REPLACE_ME") as caught:
        parsed(text)
    assert "aws eks describe-addon-versions --kubernetes-version 1.36 --addon-name kube-proxy" in caught.value.hint
    line = int(str(caught.value).split(":")[1])
    assert "eks/kube-proxy:REPLACE_ME" in text.splitlines()[line - 1]
    with pytest.raises(DefinitionError) as second:
        parsed(text.replace("kube-proxy:REPLACE_ME", "kube-proxy:v1.36.0-eksbuild.1"))
    assert second.value.hint.endswith("--addon-name coredns")


def test_the_example_bundle_is_what_init_writes() -> None:
    example = Path(__file__).parents[3] / "bundles" / "closed-minimal" / "bundle.yaml"
    assert example.read_text() == written(name="closed-minimal")
