"""Whose a core object is, and how its images become the bundle's."""

from __future__ import annotations

import pytest

from bundler.domain.adoption import (
    CoreMode,
    Way,
    adopted_images,
    adoption_patch,
    choose_way,
    refuse_other_versions,
)
from bundler.domain.workload import ContainerImage, Workload, WorkloadRef
from bundler.errors import ConflictError
from tests.fakes.charts import image_map, private

REF = WorkloadRef(kind="DaemonSet", namespace="kube-system", name="aws-node")
RELEASE = "kube-system/aws-vpc-cni"
IMAGES = image_map("quay.io/eks/cni:v2", "quay.io/eks/init:v2", "quay.io/team/extra:v7")
CNI, INIT, EXTRA = (str(image.target) for image in IMAGES.images)


def live(**fields: object) -> Workload:
    return Workload(ref=REF, **fields)  # type: ignore[arg-type]


EKS = live(is_eks=True, managers=("eks",))


@pytest.mark.parametrize(
    ("found", "mode", "way"),
    [
        (None, "adopt", "helm"),
        (None, "keep", "helm"),
        (None, "stop", "helm"),
        (live(release=RELEASE, is_eks=True), "adopt", "helm"),
        (live(release=RELEASE), "stop", "helm"),
        (EKS, "adopt", "adopt"),
        (EKS, "keep", "keep"),
        (live(managers=("kubectl",)), "keep", "keep"),
    ],
)
def test_missing_and_own_objects_are_helms_and_eks_own_ones_follow_the_site(
    found: Workload | None, mode: CoreMode, way: Way
) -> None:
    assert choose_way(found, release=RELEASE, mode=mode) == way


@pytest.mark.parametrize(
    ("found", "mode", "cause"),
    [
        (EKS, "stop", "the site says core: stop"),
        (live(managers=("kubectl-edit",)), "adopt", "was not made by EKS but by kubectl-edit"),
        (live(), "adopt", "by nobody known"),
        (live(release="net/cni", is_eks=True), "adopt", "belongs to the Helm release net/cni"),
        (live(release="net/cni", is_eks=True), "keep", "belongs to the Helm release net/cni"),
    ],
)
def test_what_belongs_to_somebody_else_is_a_conflict(found: Workload, mode: CoreMode, cause: str) -> None:
    with pytest.raises(ConflictError, match="DaemonSet kube-system/aws-node") as caught:
        choose_way(found, release=RELEASE, mode=mode)
    assert cause in caught.value.cause
    assert caught.value.hint


RENDERED = (ContainerImage(name="pre", image=INIT, is_init=True), ContainerImage(name="aws-node", image=CNI))
LIVE = live(
    is_eks=True,
    containers=(
        ContainerImage(name="pre", image="602.example.com/init:v1", is_init=True),
        ContainerImage(name="aws-node", image="602.example.com/cni:v1"),
        ContainerImage(name="extra", image="quay.io/team/extra:v7"),
        ContainerImage(name="own", image=EXTRA),
    ),
)


def test_images_are_found_by_container_name_and_the_teams_containers_by_image() -> None:
    assert [box.image for box in adopted_images(LIVE, RENDERED, images=IMAGES)] == [INIT, CNI, EXTRA, EXTRA]


def test_the_patch_names_every_image_and_nothing_else() -> None:
    assert adoption_patch(adopted_images(LIVE, RENDERED, images=IMAGES)) == {
        "spec": {
            "template": {
                "spec": {
                    "initContainers": [{"name": "pre", "image": INIT}],
                    "containers": [
                        {"name": "aws-node", "image": CNI},
                        {"name": "extra", "image": EXTRA},
                        {"name": "own", "image": EXTRA},
                    ],
                }
            }
        },
    }


@pytest.mark.parametrize("image", ["quay.io/team/other:v1", "not a reference", EXTRA.split("@")[0]])
def test_a_container_that_nobody_knows_is_a_conflict(image: str) -> None:
    stranger = live(is_eks=True, containers=(ContainerImage(name="stranger", image=image),))
    with pytest.raises(ConflictError, match="has the container stranger with"):
        adopted_images(stranger, RENDERED, images=IMAGES)


@pytest.mark.parametrize(
    ("image", "agrees"),
    [
        ("602.example.com/eks/cni:v2", True),
        ("602.example.com/eks/cni:v1", False),
        ("602.example.com/eks/cni@sha256:" + "0" * 64, False),
        (f"602.example.com/eks/cni@{private('quay.io/eks/cni:v2').target.digest}", True),
        (CNI, True),
    ],
)
def test_what_is_kept_must_have_the_versions_of_the_bundle(image: str, *, agrees: bool) -> None:
    kept = live(containers=(ContainerImage(name="aws-node", image=image), ContainerImage(name="x", image="y")))
    if agrees:
        refuse_other_versions(kept, RENDERED, images=IMAGES)
        return
    with pytest.raises(ConflictError, match="the bundle has version v2"):
        refuse_other_versions(kept, RENDERED, images=IMAGES)
