"""Releases on a real API server by the real helm, 3 and 4: install, upgrade, killed Helm, adoption, drift, check."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bundler.adapters.charts import built_in_chart
from bundler.adapters.helm import Helm
from bundler.adapters.process import run
from bundler.domain.adoption import CoreMode
from bundler.domain.blob import Blob
from bundler.domain.digest import Digest
from bundler.domain.image_map import ImageMap
from bundler.domain.lock import Lock, LockedChart, LockedManifest, LockedRelease
from bundler.domain.oci import HELM_CHART, HELM_CONFIG, OCI_MANIFEST, Platform
from bundler.domain.release import Installing, Rendering
from bundler.domain.report import ExpectedWorkload
from bundler.domain.workload import WorkloadRef
from bundler.errors import ClosureError, ConflictError, TargetError
from bundler.lab.tools import Tools
from bundler.retry import Patience
from bundler.stages.check import check
from bundler.stages.release import SiteFacts, Step, expected_workloads, plan_steps, prepare, release
from tests.cluster.planes import Plane, running_plane, start_network
from tests.fakes.charts import DEPLOYMENT, HOOK, VALUES, chart, image_map

pytestmark = pytest.mark.cluster
AMD64 = Platform(os="linux", architecture="amd64")
SOURCES = (
    "quay.io/shop/app:v1", "quay.io/shop/app:v2", "quay.io/shop/helper:v2", "quay.io/shop/hook:v3",
    "quay.io/eks/kube-proxy:v1",
)  # fmt: skip
IMAGES = image_map(*SOURCES)
WEB_FILES = {"values.yaml": VALUES, "templates/deployment.yaml": DEPLOYMENT}


@pytest.fixture(scope="module")
def plane(assets: Path, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running_plane(tmp_path_factory.mktemp("plane"), assets, tools) as running:
        running.images.update(str(image.target) for image in IMAGES.images)
        start_network(running)
        yield running


@dataclass(frozen=True, kw_only=True)
class Site:
    """One namespace of the cluster, and the releases in it."""

    plane: Plane
    helm: Helm
    namespace: str
    charts: dict[str, bytes] = field(default_factory=dict)

    def steps(self, *, core: CoreMode = "stop", values: Mapping[str, object] | None = None) -> tuple[Step, ...]:
        facts = SiteFacts(endpoint=self.plane.facts.endpoint, service_cidr=self.plane.facts.service_cidr)
        blobs = {Digest.of(tgz): tgz for tgz in self.charts.values()}
        prepared = prepare(
            lock_of(self.charts, self.namespace, values or {}),
            read=blobs.__getitem__,
            images=IMAGES,
            facts=facts,
            charts=self.helm,
        )
        return plan_steps(prepared, images=IMAGES, core=core, helm=self.helm, cluster=self.plane.kubectl)

    def install(self, **how: object) -> list[str]:
        """Plan and do; return what was planned."""
        steps = self.steps(**how)  # type: ignore[arg-type]
        release(steps, images=IMAGES, helm=self.helm, cluster=self.plane.kubectl)
        return [str(step.action) for step in steps if step.action is not None]

    def states(self, name: str = "web") -> list[str]:
        return [revision.status for revision in self.helm.history(name, self.namespace)]

    def containers(self, ref: WorkloadRef | None = None) -> list[str]:
        live = self.plane.kubectl.workload(ref or self.web)
        assert live is not None
        return [container.image for container in live.containers]

    @property
    def web(self) -> WorkloadRef:
        return WorkloadRef(kind="Deployment", namespace=self.namespace, name="web")


def lock_of(charts: Mapping[str, bytes], namespace: str, values: Mapping[str, object]) -> Lock:
    def locked(name: str, tgz: bytes) -> LockedChart:
        blobs = (
            Blob(media_type=HELM_CONFIG, digest=Digest.of(b"{}"), size=2),
            Blob(media_type=HELM_CHART, digest=Digest.of(tgz), size=len(tgz)),
        )
        manifest = LockedManifest(media_type=OCI_MANIFEST, digest=Digest.of(tgz + b"m"), size=1, blobs=blobs)
        return LockedChart(name=name, version="1.0.0", origin="path", manifest=manifest)

    return Lock(
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
                namespace=namespace,
                role="core" if name == "kube-proxy" else "addon",
                chart=f"charts/{name}:1.0.0",
                values=dict(values),
                timeout_minutes=1,
            )
            for name in charts
        ),
    )


@pytest.fixture
def site(plane: Plane, helm: Path, request: pytest.FixtureRequest) -> Site:
    name = f"ns-{abs(hash(request.node.name)) % 10**8}"
    return Site(plane=plane, helm=plane.helm(helm), namespace=name, charts={"web": chart(WEB_FILES)})


def target(source: str) -> str:
    return next(str(image.target) for image in IMAGES.images if str(image.source) == source)


def object_versions(site: Site) -> dict[str, str]:
    """Every object that Helm and the release have in the namespace, with its version."""
    kinds = ("deployments.apps", "secrets", "jobs.batch", "pods")
    found = (item["metadata"] for kind in kinds for item in site.plane.kubectl.get_all(kind, namespace=site.namespace))
    return {str(metadata["uid"]): str(metadata["resourceVersion"]) for metadata in found}  # type: ignore[index]


def test_install_then_nothing_to_do_then_upgrade(site: Site) -> None:
    site.charts["web"] = chart({**WEB_FILES, "templates/hook.yaml": HOOK})
    assert site.install() == [f"install release {site.namespace}/web (not installed)"]
    assert site.containers() == [target("quay.io/shop/app:v1")]
    before = object_versions(site)
    assert site.install() == []
    assert site.install() == []
    assert object_versions(site) == before
    assert site.states() == ["deployed"]
    changed = site.install(values={"image": {"tag": "v2"}})
    assert changed == [f"upgrade release {site.namespace}/web (revision 1 was made from other inputs)"]
    assert site.containers() == [target("quay.io/shop/app:v2")]
    assert site.states() == ["superseded", "deployed"]
    jobs = site.plane.kubectl.get_all("jobs.batch", namespace=site.namespace)
    assert target("quay.io/shop/hook:v3") in json.dumps(jobs)


def killing(helm: Path, folder: Path, *, after_s: float) -> Path:
    """A helm whose upgrades are killed by SIGKILL after some seconds."""
    script = folder / "helm"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = upgrade ] && exec timeout -s KILL {after_s} {helm} "$@"\nexec {helm} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def with_killer(site: Site, helm: Path, folder: Path) -> Site:
    killer = site.plane.helm(killing(helm, folder, after_s=2.5), environ={"PATH": "/usr/bin:/bin"})
    return replace(site, helm=killer)


def test_a_helm_that_was_killed_in_an_install_leaves_nothing_to_repair_by_hand(
    site: Site, helm: Path, tmp_path: Path
) -> None:
    site.plane.images.discard(target("quay.io/shop/app:v1"))
    killed = with_killer(site, helm, tmp_path)
    with pytest.raises(TargetError):
        killed.install()
    assert site.states() == ["pending-install"]
    site.plane.images.add(target("quay.io/shop/app:v1"))
    assert site.install() == [
        f"install release {site.namespace}/web (revision 1 was left pending-install, uninstall first)"
    ]
    assert site.states() == ["deployed"]
    assert site.install() == []


def test_a_helm_that_was_killed_in_an_upgrade_is_rolled_back_then_upgraded(
    site: Site, helm: Path, tmp_path: Path
) -> None:
    site.install()
    site.plane.images.discard(target("quay.io/shop/app:v2"))
    killed = with_killer(site, helm, tmp_path)
    with pytest.raises(TargetError):
        killed.install(values={"image": {"tag": "v2"}})
    assert site.states() == ["deployed", "pending-upgrade"]
    site.plane.images.add(target("quay.io/shop/app:v2"))
    assert site.install(values={"image": {"tag": "v2"}}) == [
        f"upgrade release {site.namespace}/web (revision 2 was left pending-upgrade, rollback first)"
    ]
    assert site.states()[-1] == "deployed"
    assert site.containers() == [target("quay.io/shop/app:v2")]
    assert site.install(values={"image": {"tag": "v2"}}) == []


class Impatient(Helm):
    """Waits five seconds, whatever it is told."""

    def upgrade_install(self, chart: bytes, rendering: Rendering, *, images: ImageMap, installing: Installing) -> None:
        hurried = replace(installing, timeout_s=5)
        super().upgrade_install(chart, rendering, images=images, installing=hurried)


def test_an_add_on_that_is_not_ready_in_time_names_pod_and_cause_and_a_later_run_finishes(
    site: Site, helm: Path
) -> None:
    site.plane.images.discard(target("quay.io/shop/app:v1"))
    hurried = replace(site, helm=site.plane.helm(helm, kind=Impatient))
    with pytest.raises(
        TargetError, match=r"Deployment ns-\d+/web, pod web-.*: app: ImagePullBackOff Back-off"
    ) as caught:
        hurried.install()
    assert caught.value.exit_code == 8
    assert site.states() == ["failed"]
    site.plane.images.add(target("quay.io/shop/app:v1"))
    assert site.install() == [f"upgrade release {site.namespace}/web (revision 1 is failed)"]
    assert site.states()[-1] == "deployed"


def test_nothing_is_created_where_an_image_is_not_in_the_bundle(site: Site) -> None:
    site.charts["web"] = chart({**WEB_FILES, "values.yaml": VALUES.replace("shop/app", "shop/unknown")})
    with pytest.raises(ClosureError, match=r"quay\.io/shop/unknown:v1.*Deployment/web: container app"):
        site.install()
    assert site.plane.kubectl.get_all("secrets", namespace=site.namespace) == []


def test_what_the_verifying_render_did_not_see_stops_helm_in_the_install_too(site: Site) -> None:
    """A chart that looks into the cluster renders to more there than here."""
    stranger = (
        '{{ if lookup "v1" "Namespace" "" "kube-system" }}\nkind: Pod\napiVersion: v1\nmetadata: {name: x}\n'
        "spec: {containers: [{name: c, image: ghcr.io/stranger/x:1}]}\n{{ end }}\n"
    )
    site.charts["web"] = chart({**WEB_FILES, "templates/stranger.yaml": stranger})
    (step,) = site.steps()
    assert "stranger" not in step.prepared.manifests
    with pytest.raises(ClosureError, match=r"ghcr\.io/stranger/x:1"):
        site.install()
    assert site.plane.kubectl.workload(site.web) is None


def kubectl(site: Site, tools: Tools, *argv: str, given: object = None) -> None:
    done = run(
        [str(tools.kubectl.path), f"--kubeconfig={site.plane.facts.admin_kubeconfig}", *argv],
        timeout_s=30,
        input=json.dumps(given).encode() if given is not None else None,
        env={"HOME": str(site.plane.work)},
    )
    assert done.returncode == 0, done.tail


def test_a_release_that_somebody_changed_is_brought_back(site: Site, tools: Tools) -> None:
    site.install()
    kubectl(site, tools, "set", "image", "deployment/web", "app=quay.io/evil/app:1", f"--namespace={site.namespace}")
    assert site.install() == [
        f"upgrade release {site.namespace}/web (Deployment {site.namespace}/web runs quay.io/evil/app:1 in app)"
    ]
    assert site.containers() == [target("quay.io/shop/app:v1")]
    kubectl(site, tools, "delete", "deployment/web", f"--namespace={site.namespace}")
    assert site.install() == [f"upgrade release {site.namespace}/web (Deployment {site.namespace}/web is gone)"]
    assert site.install() == []


PROXY = WorkloadRef(kind="DaemonSet", namespace="kube-system", name="kube-proxy")


@pytest.fixture
def core(plane: Plane, helm: Path, tools: Tools) -> Iterator[Site]:
    charts = {"kube-proxy": built_in_chart("kube-proxy").tgz}
    site = Site(plane=plane, helm=plane.helm(helm), namespace="kube-system", charts=charts)
    yield site
    if site.helm.history("kube-proxy", "kube-system"):
        site.helm.uninstall("kube-proxy", "kube-system")
    kubectl(site, tools, "delete", "daemonset/kube-proxy", "--namespace=kube-system", "--ignore-not-found")


WITH_IMAGE = {"image": "quay.io/eks/kube-proxy:v1"}


def test_a_core_component_that_is_missing_is_installed_and_found_healthy(core: Site) -> None:
    assert core.install(values=WITH_IMAGE) == ["install release kube-system/kube-proxy (not installed)"]
    steps = core.steps(values=WITH_IMAGE)
    assert [step.action for step in steps] == [None]
    patience = Patience(deadline_s=60, every_s=0.5)
    report = check(
        expected_workloads(steps), images=IMAGES, wanted_nodes=1, cluster=core.plane.kubectl, patience=patience
    )
    assert [(state.ref, state.ready, state.images) for state in report.workloads] == [
        (PROXY, 1, (target("quay.io/eks/kube-proxy:v1"),))
    ]


def eks_object(image: str, *, manager: str = "eks") -> tuple[list[str], dict[str, object]]:
    labels = {"k8s-app": "kube-proxy"}
    spec = {"containers": [{"name": "kube-proxy", "image": image, "args": ["--theirs"]}], "hostNetwork": True}
    given = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }
    return ["apply", "--server-side", f"--field-manager={manager}", "--filename=-"], given


def test_an_object_of_eks_is_adopted_with_its_settings(core: Site, tools: Tools) -> None:
    argv, given = eks_object("602.example.com/eks/kube-proxy:v1")
    kubectl(core, tools, *argv, given=given)
    with pytest.raises(ConflictError, match="core: stop"):
        core.steps(values=WITH_IMAGE)
    assert core.install(core="keep", values=WITH_IMAGE) == []
    assert core.containers(PROXY) == ["602.example.com/eks/kube-proxy:v1"]
    assert core.install(core="adopt", values=WITH_IMAGE) == [
        "adopt DaemonSet kube-system/kube-proxy (images of kube-proxy)"
    ]
    assert core.containers(PROXY) == [target("quay.io/eks/kube-proxy:v1")]
    live = core.plane.kubectl.get("daemonsets.apps", namespace="kube-system", name="kube-proxy")
    assert "--theirs" in json.dumps(live)
    assert core.install(core="adopt", values=WITH_IMAGE) == []
    assert core.helm.history("kube-proxy", "kube-system") == ()


def test_an_object_of_somebody_else_is_a_conflict(core: Site, tools: Tools) -> None:
    argv, given = eks_object("602.example.com/eks/kube-proxy:v1", manager="team-operator")
    kubectl(core, tools, *argv, given=given)
    with pytest.raises(ConflictError, match=r"was not made by EKS but by .*team-operator"):
        core.steps(core="adopt", values=WITH_IMAGE)


def test_check_says_what_is_not_healthy_and_ends_with_8(site: Site) -> None:
    site.install()
    steps = site.steps()
    site.plane.images.discard(target("quay.io/shop/app:v2"))
    installing = Installing(description="x", timeout_s=30, wait=False)
    (other,) = site.steps(values={"image": {"tag": "v2"}})
    site.helm.upgrade_install(other.prepared.chart, other.prepared.rendering, images=IMAGES, installing=installing)
    with pytest.raises(TargetError) as caught:
        check(
            expected_workloads(steps),
            images=IMAGES,
            wanted_nodes=1,
            cluster=site.plane.kubectl,
            patience=Patience(deadline_s=4, every_s=1),
        )
    site.plane.images.add(target("quay.io/shop/app:v2"))
    assert caught.value.exit_code == 8
    assert f"Deployment {site.namespace}/web (release web)" in caught.value.cause
    assert "ImagePullBackOff" in caught.value.cause


def test_check_wants_as_many_nodes_as_it_is_told(plane: Plane) -> None:
    nothing: tuple[ExpectedWorkload, ...] = ()
    patience = Patience(deadline_s=0)
    with pytest.raises(TargetError, match="1 of 2 nodes are Ready"):
        check(nothing, images=IMAGES, wanted_nodes=2, cluster=plane.kubectl, patience=patience)
