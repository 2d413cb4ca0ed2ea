from __future__ import annotations

import pytest

from bundler.adapters.kubernetes import Snapshot
from bundler.domain.record import Record
from bundler.domain.workload import ContainerImage, Pod, Workload, WorkloadRef
from bundler.workflows.status import SiteStatus, site_status
from tests.fakes.sites import make_site

NOTHING = Snapshot(workloads={}, all_pods=(), all_nodes=())


def done(step: str, *, bundle: str) -> Record:
    return Record(
        step=step, key=f"{step} {bundle}", at="2026-01-02T03:04:05Z", facts={"bundle": bundle, "root": "sha256:0"}
    )


def status(*records: Record) -> SiteStatus:
    return site_status(make_site(), version="v1.36.3", seen=NOTHING, records=records)


def test_an_install_that_died_after_the_push_is_not_shown_as_installed() -> None:
    assert status(done("push", bundle="core-1")).installed is None


def test_the_last_whole_install_stays_shown_while_the_next_one_is_under_way() -> None:
    whole = done("add-ons", bundle="core-1")
    assert status(done("push", bundle="core-1"), whole, done("push", bundle="core-2")).installed == whole


DNS = WorkloadRef(kind="Deployment", namespace="kube-system", name="coredns")
EKS_IMAGE = "602401143452.dkr.ecr.eu-central-1.amazonaws.com/eks/coredns:v1.11.4"


def seen_with(core: str, *, is_eks: bool = True, pod_image: str = EKS_IMAGE, **fields: object) -> SiteStatus:
    """The status of a site where somebody runs coredns from outside."""
    given: dict[str, object] = {"desired": 2, "ready": 2, **fields}
    box = (ContainerImage(name="coredns", image=EKS_IMAGE),)
    workload = Workload(ref=DNS, containers=box, selector={"k": "dns"}, is_eks=is_eks, **given)  # type: ignore[arg-type]
    pod = Pod(namespace="kube-system", name="x", labels={"k": "dns"}, images=(pod_image,), is_ready=True)
    seen = Snapshot(workloads={DNS: workload}, all_pods=(pod,), all_nodes=())
    return site_status(make_site(core=core), version="v1.36.3", seen=seen, records=())


def test_a_core_object_that_the_site_keeps_is_no_problem_as_check_finds_too() -> None:
    assert seen_with("keep").report.is_healthy


@pytest.mark.parametrize(("core", "is_eks"), [("adopt", True), ("stop", True), ("keep", False)])
def test_any_other_image_from_outside_is_a_problem(core: str, is_eks: bool) -> None:
    (state,) = seen_with(core, is_eks=is_eks).report.workloads
    assert state.problem == f"runs {EKS_IMAGE}, from outside the private registry"


def test_a_kept_core_object_that_is_not_rolled_out_is_a_problem() -> None:
    (state,) = seen_with("keep", ready=1).report.workloads
    assert state.problem == "1 of 2 pods are ready"


def test_images_of_running_pods_are_shown_beside_those_of_the_template() -> None:
    (state,) = seen_with("keep", pod_image="docker.io/library/other:1").report.workloads
    assert state.images == (EKS_IMAGE, "docker.io/library/other:1")


def test_a_record_that_does_not_say_which_bundle_is_no_install() -> None:
    whole = done("add-ons", bundle="core-1")
    bare = Record(step="add-ons", key="k", at="2026-01-02T03:04:05Z", facts={})
    assert status(whole, bare).installed == whole
