"""Releases: rewritten and verified before anything is written, and written once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from bundler.domain.adoption import CoreMode
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.image_map import ImageMap
from bundler.domain.lock import Lock, LockedChart, LockedManifest, LockedRelease
from bundler.domain.oci import HELM_CHART, HELM_CONFIG, OCI_MANIFEST, Platform
from bundler.domain.plan import Action
from bundler.domain.release import ReleasePlan, Rendering, Revision
from bundler.domain.workload import ContainerImage, Pod, Workload, WorkloadRef
from bundler.errors import ClosureError, ConflictError, TargetError
from bundler.stages.release import (
    Prepared,
    SiteFacts,
    Step,
    expected_workloads,
    of_role,
    plan_steps,
    prepare,
    release,
)
from tests.fakes.charts import chart, image_map, private
from tests.fakes.memory_cluster import MemoryCluster, MemoryHelm

Steps = tuple[Step, ...]
AMD64 = Platform(os="linux", architecture="amd64")
FACTS = SiteFacts(endpoint="https://c.example.com", service_cidr="10.100.0.0/16")
WORKLOAD = (
    "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n"
    "spec: {{template: {{spec: {{containers: [{{name: {name}, image: {{{{ .Values.image }}}}}}]}}}}}}\n"
)
PROXY = WorkloadRef(kind="DaemonSet", namespace="kube-system", name="kube-proxy")
WEB = WorkloadRef(kind="Deployment", namespace="shop", name="web")
IMAGES = image_map("quay.io/shop/app:v1", "quay.io/eks/kube-proxy:v1", "quay.io/shop/hook:v3")
APP, PROXY_IMAGE = (str(private(name).target) for name in ("quay.io/shop/app:v1", "quay.io/eks/kube-proxy:v1"))


def workload_chart(kind: str, name: str, image: str, *, more: str = "") -> bytes:
    return chart({"values.yaml": f"image: {image}\n", "templates/w.yaml": WORKLOAD.format(kind=kind, name=name) + more})


WEB_CHART = workload_chart("Deployment", "web", "quay.io/shop/app:v1")
PROXY_CHART = workload_chart("DaemonSet", "kube-proxy", "quay.io/eks/kube-proxy:v1")


def locked(name: str, tgz: bytes) -> LockedChart:
    blobs = (
        Blob(media_type=HELM_CONFIG, digest=Digest.of(b"{}"), size=2),
        Blob(media_type=HELM_CHART, digest=Digest.of(tgz), size=len(tgz)),
    )
    manifest = LockedManifest(media_type=OCI_MANIFEST, digest=Digest.of(tgz + b"m"), size=1, blobs=blobs)
    return LockedChart(name=name, version="1.0.0", origin="path", manifest=manifest)


def prepared(
    charts: Mapping[str, bytes], *, values: Mapping[str, object] | None = None, helm: MemoryHelm | None = None
) -> tuple[Prepared, ...]:
    lock = Lock(
        name="test",
        sequence=1,
        created="2026-01-01T00:00:00Z",
        definition=Digest.of(b""),
        kubernetes_version="1.36",
        platforms=(AMD64,),
        operator_platforms=(AMD64,),
        charts=tuple(locked(name, tgz) for name, tgz in charts.items()),
        releases=tuple(
            LockedRelease(
                name=name,
                namespace="kube-system" if name == "kube-proxy" else "shop",
                role="core" if name == "kube-proxy" else "addon",
                chart=f"charts/{name}:1.0.0",
                values=dict(values or {}),
                timeout_minutes=7,
            )
            for name in charts
        ),
    )
    blobs = {Digest.of(tgz): tgz for tgz in charts.values()}
    return prepare(lock, read=blobs.__getitem__, images=IMAGES, facts=FACTS, charts=helm or MemoryHelm())


def live(ref: WorkloadRef, image: str, **fields: object) -> Workload:
    box = ContainerImage(name=ref.name, image=image)
    return Workload(ref=ref, containers=(box,), selector={"app": ref.name}, **fields)  # type: ignore[arg-type]


def test_values_of_charts_and_site_are_brought_together() -> None:
    (proxy,) = prepared({"kube-proxy": PROXY_CHART}, values={"mode": "nftables"})
    assert proxy.rendering.values == {
        "clusterEndpoint": "https://c.example.com",
        "mode": "nftables",
        "image": PROXY_IMAGE,
    }
    assert PROXY_IMAGE in proxy.manifests
    assert proxy.workloads == (PROXY,)


def test_add_ons_get_no_values_of_the_site() -> None:
    (web,) = prepared({"web": WEB_CHART})
    assert web.rendering.values == {"image": APP}
    assert of_role([web], "core") == ()


def test_what_values_do_not_reach_is_left_to_the_post_renderer() -> None:
    more = "---\nkind: Pod\nspec: {containers: [{name: c, image: quay.io/shop/hook:v3}]}\n"
    (web,) = prepared({"web": workload_chart("Deployment", "web", "quay.io/shop/app:v1", more=more)})
    assert str(private("quay.io/shop/hook:v3").target) in web.manifests


def test_values_that_the_chart_does_not_take_are_left_to_the_post_renderer() -> None:
    template = WORKLOAD.format(kind="Deployment", name="web")
    files = {"values.yaml": "image: quay.io/shop/app:v1\n", "templates/w.yaml": template, "values.schema.json": "{}"}
    (web,) = prepared({"web": chart(files)}, values={"replicas": 3})
    assert web.rendering.values == {"replicas": 3}
    assert APP in web.manifests


class LeavesHooks(MemoryHelm):
    """Like Helm 3, which does not give hooks to a post-renderer."""

    def render(self, chart: bytes, rendering: Rendering, *, images: ImageMap | None = None) -> str:
        hook = "kind: Job\nmetadata: {name: h}\nspec: {containers: [{name: c, image: quay.io/shop/hook:v3}]}\n"
        return super().render(chart, rendering, images=images) + "---\n" + hook


def test_what_rendering_left_outside_is_refused_by_the_verifying_render() -> None:
    with pytest.raises(ClosureError, match=r"'quay.io/shop/hook:v3' \(Job/h: container c\)"):
        prepared({"web": WEB_CHART}, helm=LeavesHooks())


def test_an_image_that_is_not_in_the_bundle_is_named_with_its_object() -> None:
    with pytest.raises(ClosureError, match=r"release web: .*'ghcr.io/x/y:1' \(Deployment/web: container web\)"):
        prepared({"web": workload_chart("Deployment", "web", "ghcr.io/x/y:1")})


def planned(charts: Mapping[str, bytes], cluster: MemoryCluster, helm: MemoryHelm, *, core: CoreMode = "stop") -> Steps:
    return plan_steps(prepared(charts), images=IMAGES, core=core, helm=helm, cluster=cluster)


def run(steps: Steps, cluster: MemoryCluster, helm: MemoryHelm) -> None:
    release(steps, images=IMAGES, helm=helm, cluster=cluster)


def test_a_first_run_installs_and_a_second_one_writes_nothing() -> None:
    cluster, helm = MemoryCluster(), MemoryHelm()
    charts = {"kube-proxy": PROXY_CHART, "web": WEB_CHART}
    first = planned(charts, cluster, helm)
    assert [str(step.action) for step in first] == [
        "install release kube-system/kube-proxy (not installed)",
        "install release shop/web (not installed)",
    ]
    run(first, cluster, helm)
    cluster.workloads = {
        PROXY: live(PROXY, PROXY_IMAGE, release="kube-system/kube-proxy"),
        WEB: live(WEB, APP, release="shop/web"),
    }
    second = planned(charts, cluster, helm)
    assert [step.action for step in second] == [None, None]
    run(second, cluster, helm)
    assert helm.done == ["install kube-system/kube-proxy", "install shop/web"]


def test_core_is_not_waited_for_and_add_ons_are() -> None:
    cluster, helm = MemoryCluster(), MemoryHelm()
    steps = planned({"kube-proxy": PROXY_CHART, "web": WEB_CHART}, cluster, helm)
    run(steps, cluster, helm)
    core, addon = (installing for _, installing in helm.installed)
    assert (core.wait, core.take_ownership) == (False, True)
    assert (addon.wait, addon.take_ownership, addon.timeout_s) == (True, False, 420)


def test_what_a_killed_helm_left_is_put_in_order_first() -> None:
    helm = MemoryHelm(
        revisions={
            "shop/web": [Revision(number=1, status="deployed"), Revision(number=2, status="pending-upgrade")],
            "kube-system/kube-proxy": [Revision(number=1, status="pending-install")],
        }
    )
    cluster = MemoryCluster()
    steps = planned({"kube-proxy": PROXY_CHART, "web": WEB_CHART}, cluster, helm)
    assert str(steps[1].action) == "upgrade release shop/web (revision 2 was left pending-upgrade, rollback first)"
    run(steps, cluster, helm)
    assert helm.done == [
        "uninstall kube-system/kube-proxy",
        "install kube-system/kube-proxy",
        "rollback shop/web to 1",
        "install shop/web",
    ]


@pytest.mark.parametrize(
    ("workloads", "reason"),
    [
        ({}, "Deployment shop/web is gone"),
        ({WEB: live(WEB, "quay.io/shop/app:v1")}, "Deployment shop/web runs quay.io/shop/app:v1 in web"),
    ],
)
def test_a_release_that_drifted_is_brought_back(workloads: dict[WorkloadRef, Workload], reason: str) -> None:
    cluster, helm = MemoryCluster(), MemoryHelm()
    charts = {"web": WEB_CHART}
    run(planned(charts, cluster, helm), cluster, helm)
    cluster.workloads = workloads
    (step,) = planned(charts, cluster, helm)
    assert step.plan == ReleasePlan(verb="upgrade", reason=reason)


def test_an_object_of_eks_is_adopted_once() -> None:
    eks = live(PROXY, "602.example.com/kube-proxy:v1", is_eks=True, managers=("eks",))
    cluster, helm = MemoryCluster(workloads={PROXY: eks}), MemoryHelm()
    charts = {"kube-proxy": PROXY_CHART}
    (step,) = planned(charts, cluster, helm, core="adopt")
    assert step.action == Action(
        phase="core", verb="adopt", target="DaemonSet kube-system/kube-proxy", detail="images of kube-proxy"
    )
    run((step,), cluster, helm)
    ((manager, ref, patch),) = cluster.patched
    assert (manager, ref) == ("eks-bundler", PROXY)
    assert PROXY_IMAGE in str(patch)
    cluster.workloads = {PROXY: live(PROXY, PROXY_IMAGE, is_eks=True)}
    (again,) = planned(charts, cluster, helm, core="adopt")
    assert (again.action, again.patch) == (None, None)
    run((again,), cluster, helm)
    assert (len(cluster.patched), helm.done) == (1, [])


def test_an_object_of_eks_is_kept_or_stops_the_install_as_the_site_says() -> None:
    eks = live(PROXY, "602.example.com/kube-proxy:v1", is_eks=True)
    cluster, helm = MemoryCluster(workloads={PROXY: eks}), MemoryHelm()
    charts = {"kube-proxy": PROXY_CHART}
    (kept,) = planned(charts, cluster, helm, core="keep")
    assert (kept.way, kept.action) == ("keep", None)
    assert [(one.ref, one.own_images) for one in expected_workloads([kept])] == [(PROXY, False)]
    with pytest.raises(ConflictError, match="core: stop"):
        planned(charts, cluster, helm)


def test_an_add_on_that_does_not_become_ready_says_what_its_pods_say() -> None:
    pod = Pod(namespace="shop", name="web-x", labels={"app": "web"}, problem="web: ImagePullBackOff no such image")
    cluster = MemoryCluster(workloads={WEB: live(WEB, APP)}, all_pods=[pod])
    helm = MemoryHelm(fails=TargetError("release web", "helm: deadline exceeded"))
    steps = planned({"web": WEB_CHART}, cluster, helm)
    with pytest.raises(TargetError) as caught:
        run(steps, cluster, helm)
    assert caught.value.cause == (
        "helm: deadline exceeded\n- Deployment shop/web, pod web-x: web: ImagePullBackOff no such image"
    )


def test_check_expects_all_workloads_of_releases() -> None:
    cluster, helm = MemoryCluster(), MemoryHelm()
    steps = planned({"kube-proxy": PROXY_CHART, "web": WEB_CHART}, cluster, helm)
    assert [(one.ref, one.owner, one.own_images) for one in expected_workloads(steps)] == [
        (PROXY, "release kube-proxy", True),
        (WEB, "release web", True),
    ]
