"""Which images an AMI holds, under which names."""

from __future__ import annotations

import pytest

from bundler.domain.ami import Target
from bundler.domain.preload import expected_names, names_of, plan_preload, registry_of
from bundler.domain.reference import Reference
from bundler.errors import DefinitionError
from tests.fakes.images import image, index
from tests.fakes.preloads import CHINA, GOV, ami_of, lock_of, locked

AMD, ARM = image("cni"), image("cni", platform="linux/arm64/v8")
WHOLE = index(AMD, ARM)
CNI = locked("registry.k8s.io/cni:v1", WHOLE, AMD, ARM)
PROXY = locked("public.ecr.aws/eks/kube-proxy:v1.34.2", image("proxy"))
GOV_HOST = "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com"
CHINA_HOST = "210987654321.dkr.ecr.cn-north-1.amazonaws.com.cn"


def test_each_target_gives_a_name_by_digest_and_one_by_tag() -> None:
    assert names_of(CNI, (GOV, CHINA)) == (
        f"{GOV_HOST}/eks/registry.k8s.io/cni@{WHOLE.digest}",
        f"{CHINA_HOST}/team/eks/registry.k8s.io/cni@{WHOLE.digest}",
        f"{GOV_HOST}/eks/registry.k8s.io/cni:v1",
        f"{CHINA_HOST}/team/eks/registry.k8s.io/cni:v1",
    )


def test_without_targets_an_image_has_its_own_name() -> None:
    assert names_of(CNI, ()) == (f"registry.k8s.io/cni@{WHOLE.digest}", "registry.k8s.io/cni:v1")


def test_the_same_target_twice_is_one() -> None:
    assert names_of(CNI, (GOV, GOV)) == names_of(CNI, (GOV,))


def test_an_image_without_a_tag_is_named_by_digest_alone() -> None:
    untagged = CNI.model_copy(update={"reference": Reference.parse(f"registry.k8s.io/cni@{WHOLE.digest}")})
    assert names_of(untagged, ()) == (f"registry.k8s.io/cni@{WHOLE.digest}",)


@pytest.mark.parametrize(
    ("partition", "region", "suffix"),
    [("aws", "eu-central-1", "amazonaws.com"), ("aws-iso-b", "us-isob-east-1", "sc2s.sgov.gov")],
)
def test_a_registry_is_named_as_its_partition_does(partition: str, region: str, suffix: str) -> None:
    target = Target(partition=partition, account="111122223333", region=region, prefix="eks")
    assert registry_of(target).host == f"111122223333.dkr.ecr.{region}.{suffix}"


@pytest.mark.parametrize(("architecture", "child"), [("amd64", AMD), ("arm64", ARM)])
def test_the_names_mean_the_index_and_the_content_is_of_the_amis_platform(architecture: str, child: object) -> None:
    lock = lock_of(CNI, targets=(GOV,))
    (preload,) = plan_preload(ami_of(lock, architecture=architecture), lock)
    assert preload.target.digest == WHOLE.digest
    assert preload.manifest.digest == child.digest  # type: ignore[attr-defined]


def test_preloads_are_in_the_order_of_their_digests_whatever_the_order_of_the_list() -> None:
    lock = lock_of(CNI, PROXY)
    ami = ami_of(lock)
    turned = ami_of(lock, preload=tuple(reversed(ami.preload)))
    assert plan_preload(ami, lock) == plan_preload(turned, lock)


def test_two_references_to_one_content_are_one_preload_with_all_names() -> None:
    other = locked("registry.k8s.io/other/cni:v1", WHOLE, AMD, ARM)
    lock = lock_of(CNI, other)
    (preload,) = plan_preload(ami_of(lock), lock)
    assert {name.partition("@")[0].partition(":")[0] for name in preload.names} == {
        "registry.k8s.io/cni",
        "registry.k8s.io/other/cni",
    }
    assert expected_names([preload]) == dict.fromkeys(preload.names, WHOLE.digest)


def test_an_image_that_the_bundle_lacks_is_named() -> None:
    lock = lock_of(CNI)
    with pytest.raises(DefinitionError, match=r"preloads registry\.k8s\.io/absent:v1, which the bundle does not hold"):
        plan_preload(ami_of(lock, preload=("registry.k8s.io/absent:v1",)), lock)


def test_an_image_that_the_bundle_has_for_other_platforms_only_is_named() -> None:
    lock = lock_of(PROXY)
    with pytest.raises(DefinitionError, match="does not hold for linux/arm64"):
        plan_preload(ami_of(lock, architecture="arm64"), lock)
