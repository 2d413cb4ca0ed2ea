"""Every image of a definition, and who asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bundler.adapters.chart_archive import read_chart
from bundler.domain.chart import FetchedChart
from bundler.domain.definition import ChartSource, Definition
from bundler.domain.lock import Evidence
from bundler.domain.reference import Reference
from bundler.errors import ClosureError
from bundler.stages.discover import Release, discover, releases
from tests.fakes.charts import chart
from tests.fakes.memory_cluster import MemoryHelm

POD = "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: {{ .Values.image }}}]}\n"
PROGRAM = {"version": "3.19.0", "platforms": {"linux/amd64": {"path": "helm", "sha256": "0" * 64}}}


def fetched(tgz: bytes) -> FetchedChart:
    content = read_chart(tgz, subject="x")
    return FetchedChart(content=content, origin="path", tgz=tgz, manifest=b"{}", config=b"{}")


def definition(**fields: Any) -> Definition:
    return Definition.model_validate(
        {
            "apiVersion": "eks-bundler/v1",
            "kind": "Bundle",
            "name": "test",
            "kubernetesVersion": "1.36",
            "source": {"region": "eu-central-1"},
            "platforms": ["linux/amd64"],
            "operatorPlatforms": ["linux/amd64"],
            "tools": {"helm": PROGRAM, "kubectl": PROGRAM},
            **fields,
        }
    )


def pod_chart(image: str, name: str = "web") -> FetchedChart:
    return fetched(chart({"values.yaml": f"image: {image}\n", "templates/p.yaml": POD}, name=name))


def finding(image: str) -> Callable[[ChartSource], FetchedChart]:
    return lambda source: pod_chart(image, str(source.path))


def wrapping(name: str, path: str) -> FetchedChart:
    del path
    return pod_chart("quay.io/a/wrapped:1", name)


def built_in(name: str) -> FetchedChart:
    template = POD + "---\nkind: ConfigMap\nendpoint: {{ .Values.clusterEndpoint }}\n"
    return fetched(chart({"templates/p.yaml": template}, name=name))


def found(given: Definition, image: str = "quay.io/a/found:1") -> dict[str, list[tuple[str, str]]]:
    planned = releases(given, find=finding(image), wrap=wrapping, built_in=built_in)
    return {
        str(one.reference): [(evidence.by, evidence.where) for evidence in one.evidence]
        for one in discover(given, planned, renderer=MemoryHelm())
    }


def test_every_source_of_images_is_looked_at() -> None:
    given = definition(
        core={
            "kubeProxy": {"image": "quay.io/eks/kube-proxy:v1"},
            "coredns": {"chart": {"path": "coredns"}, "images": [{"image": "quay.io/a/hidden:1", "reason": "plugin"}]},
            "pause": {"image": "registry.k8s.io/pause:3.10"},
        },
        addons=[
            {"name": "one", "chart": {"path": "one"}, "values": {"image": "quay.io/a/valued:2"}},
            {"name": "two", "manifest": "two.yaml", "images": [{"image": "quay.io/a/hidden:1", "reason": "more"}]},
        ],
        images=[{"image": "quay.io/a/further:1", "reason": "of the team"}],
    )
    assert found(given) == {
        "quay.io/a/found:1": [("core coredns", "Pod/p: container c")],
        "quay.io/a/further:1": [("images", "declared: of the team")],
        "quay.io/a/hidden:1": [("core coredns", "declared: plugin"), ("addon two", "declared: more")],
        "quay.io/a/valued:2": [("addon one", "Pod/p: container c")],
        "quay.io/a/wrapped:1": [("addon two", "Pod/p: container c")],
        "quay.io/eks/kube-proxy:v1": [("core kube-proxy", "Pod/p: container c")],
        "registry.k8s.io/pause:3.10": [("core pause", "the sandbox of every pod")],
    }


def test_releases_come_in_the_order_of_installation_with_their_values() -> None:
    given = definition(
        core={
            "coredns": {"chart": {"path": "coredns"}},
            "kubeProxy": {"image": "quay.io/eks/kube-proxy:v1", "values": {"mode": "nftables"}},
            "vpcCni": {"chart": {"path": "aws-vpc-cni"}},
            "podIdentityAgent": {"chart": {"path": "agent"}},
        },
        addons=[{"name": "b", "chart": {"path": "b"}, "namespace": "shop"}, {"name": "a", "manifest": "a.yaml"}],
    )
    planned = releases(given, find=finding("a/b:1"), wrap=wrapping, built_in=built_in)
    assert [(one.name, one.namespace, one.role) for one in planned] == [
        ("aws-vpc-cni", "kube-system", "core"),
        ("kube-proxy", "kube-system", "core"),
        ("coredns", "kube-system", "core"),
        ("eks-pod-identity-agent", "kube-system", "core"),
        ("b", "shop", "addon"),
        ("a", "default", "addon"),
    ]
    assert planned[1].values == {"image": "quay.io/eks/kube-proxy:v1", "mode": "nftables"}


def test_one_image_of_two_places_has_the_evidence_of_both_once() -> None:
    given = definition(addons=[{"name": name, "chart": {"path": name}} for name in ("one", "two")])
    assert found(given) == {
        "quay.io/a/found:1": [("addon one", "Pod/p: container c"), ("addon two", "Pod/p: container c")]
    }


def test_the_same_place_counts_once() -> None:
    twice = fetched(chart({"values.yaml": "image: a/b:1\n", "templates/p.yaml": POD, "templates/q.yaml": POD}))
    release = Release(name="web", namespace="shop", role="addon", chart=twice)
    (one,) = discover(definition(), [release], renderer=MemoryHelm())
    assert len(one.evidence) == 1


@pytest.mark.parametrize("image", ["''", "a//b", "Upper/case", "127.0.0.1:99999/team/app:1"])
def test_an_image_that_is_none_names_its_object(image: str) -> None:
    given = definition(addons=[{"name": "one", "chart": {"path": "one"}}])
    with pytest.raises(ClosureError, match=r"addon one: Pod/p: container c names .*, which is no image reference"):
        found(given, image)


def test_long_evidence_fits_its_line() -> None:
    long = "n" * 700
    template = (
        f"kind: {long}\nmetadata: {{name: {long}, annotations: {{helm.sh/hook: {long}}}}}\n"
        f"spec: {{initContainers: [{{name: {long}, image: a/b:1}}]}}\n"
    )
    release = Release(name="web", namespace="shop", role="addon", chart=fetched(chart({"templates/p.yaml": template})))
    (one,) = discover(definition(), [release], renderer=MemoryHelm())
    assert one.reference == Reference.parse("a/b:1")
    assert len(one.evidence[0].where) == 500
    assert Evidence.model_validate(one.evidence[0].model_dump()) == one.evidence[0]
