"""Rewriting: image scalars change, nothing else does."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.digest import Digest
from bundler.domain.image_map import ImageMap, PrivateImage
from bundler.domain.reference import Reference
from bundler.domain.rewrite import outside_images, refuse_outside, rewrite_manifests
from bundler.errors import ClosureError, FormatError

HOST = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
SOURCES = [
    "quay.io/shop/app:v1",
    "registry.example.com:5000/team/tool:1.2.3",
    "docker.io/library/busybox:latest",
    "docker.io/library/busybox:1.36",
]


def private(source: str) -> PrivateImage:
    reference = Reference.parse(source)
    digest = Digest.of(source.encode())
    path = f"eks/{reference.registry.replace(':', '-')}/{reference.repository}"
    target = Reference(registry=HOST, repository=path, tag=reference.tag, digest=digest)
    return PrivateImage(source=reference, digests=frozenset({digest}), target=target)


IMAGES = ImageMap.of(HOST, [private(source) for source in SOURCES])


def target(source: str) -> str:
    found = IMAGES.target(Reference.parse(source))
    assert found is not None
    return str(found)


def pod(image: str) -> str:
    return f"kind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: c\n    image: {image}\n    on: yes\n"


@pytest.mark.parametrize(
    ("written", "left", "right"),
    [
        ("quay.io/shop/app:v1", "", ""),
        ('"quay.io/shop/app:v1"', '"', '"'),
        ("'quay.io/shop/app:v1'", "'", "'"),
        ("&i quay.io/shop/app:v1 # why", "&i ", " # why"),
        ("!!str quay.io/shop/app:v1", "!!str ", ""),
        ("quay.io/shop/app@" + str(Digest.of(b"quay.io/shop/app:v1")), "", ""),
    ],
)
def test_only_the_value_inside_its_quotes_changes(written: str, left: str, right: str) -> None:
    done = rewrite_manifests(pod(written), IMAGES, subject="x")
    assert done.text == pod(left + target("quay.io/shop/app:v1") + right)
    assert [found.where for found in done.changed] == ["Pod/p: container c"]
    assert not done.missing


@pytest.mark.parametrize(("written", "means"), [("busybox", ":latest"), ("docker.io/busybox:1.36", ":1.36")])
def test_short_names_mean_docker_hub(written: str, means: str) -> None:
    done = rewrite_manifests(pod(written), IMAGES, subject="x")
    assert done.text == pod(target("docker.io/library/busybox" + means))


@pytest.mark.parametrize(
    "written",
    [
        "quay.io/shop/app:v2",
        "quay.io/shop/app",
        "ghcr.io/a/b:1",
        "''",
        "",
        "UPPER/case:1",
        "|\n      quay.io/shop/app:v1",
        "quay.io/shop/app@sha256:" + "0" * 64,
        HOST + "/eks/quay.io/shop/app:v1",
    ],
)
def test_an_image_that_the_bundle_does_not_hold_is_reported(written: str) -> None:
    done = rewrite_manifests(pod(written), IMAGES, subject="x")
    assert done.text == pod(written)
    assert [found.where for found in done.missing] == ["Pod/p: container c"]


def test_what_is_private_already_stays() -> None:
    text = pod(target("quay.io/shop/app:v1"))
    done = rewrite_manifests(text, IMAGES, subject="x")
    assert (done.text, done.changed, done.missing) == (text, (), ())


def test_an_escaped_image_is_refused_not_guessed() -> None:
    with pytest.raises(FormatError, match=r"Pod/p: container c.*cannot be edited in place"):
        rewrite_manifests(pod('"quay.io/shop/app\\x3av1"'), IMAGES, subject="x")


def test_an_anchored_image_is_changed_once() -> None:
    text = "kind: Pod\nspec:\n  containers:\n  - {name: a, image: &i quay.io/shop/app:v1}\n  - {name: b, image: *i}\n"
    done = rewrite_manifests(text, IMAGES, subject="x")
    assert done.text == text.replace("quay.io/shop/app:v1", target("quay.io/shop/app:v1"))


OTHER = """\
kind: ConfigMap
metadata:
  name: c  # quay.io/shop/app:v1 in a comment stays
data:
  template: |
    image: "quay.io/shop/app:v1"
    image: quay.io/shop/app:v1-debug
    https://quay.io/shop/app:v1/x
    see quay.io/shop/app and quay.io/shop/apple:v1 and quay.io/shop/app:v1/x
    not docker://quay.io/shop/app:v1 nor my.quay.io/shop/app:v1 nor x/quay.io/shop/app:v1
  json: '{"sidecar":{"image":"registry.example.com:5000/team/tool:1.2.3"}}'
  arg: --image=docker.io/library/busybox:1.36
  short: busybox
  ref: docker.io/library/busybox:1.36
  quay.io/shop/app:v1: key
"""


def test_complete_references_in_other_text_are_changed() -> None:
    done = rewrite_manifests(OTHER, IMAGES, subject="x")
    expected = (
        OTHER.replace('"quay.io/shop/app:v1"', f'"{target("quay.io/shop/app:v1")}"')
        .replace(
            '"registry.example.com:5000/team/tool:1.2.3"', f'"{target("registry.example.com:5000/team/tool:1.2.3")}"'
        )
        .replace("=docker.io/library/busybox:1.36", "=" + target("busybox:1.36"))
        .replace("ref: docker.io/library/busybox:1.36", "ref: " + target("busybox:1.36"))
    )
    assert done.text == expected
    assert not done.missing


def test_custom_resource_definitions_stay() -> None:
    text = (
        "kind: CustomResourceDefinition\nspec: {example: quay.io/shop/app:v1, containers: [{image: 'ghcr.io/x:1'}]}\n"
    )
    assert rewrite_manifests(text, IMAGES, subject="x").text == text


def test_the_verifying_render_names_image_and_object() -> None:
    text = pod("quay.io/shop/app:v1") + "---\n" + pod(HOST + "/eks/quay.io/shop/app:v1")
    assert len(outside_images(text, IMAGES, subject="x")) == 2
    with pytest.raises(ClosureError, match=r"release web: .*'quay.io/shop/app:v1' \(Pod/p: container c\)"):
        refuse_outside(text, IMAGES, subject="release web")
    refuse_outside(rewrite_manifests(pod("quay.io/shop/app:v1"), IMAGES, subject="x").text, IMAGES, subject="x")


word = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff\u2028\u2029\ufffe\uffff"), max_size=12
)
value = st.recursive(
    word | st.booleans() | st.integers() | st.sampled_from(["yes", "on", "1.30", "0644", "null", "~"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(word, inner, max_size=3),
    max_leaves=8,
)
containers = st.lists(
    st.fixed_dictionaries({"name": word, "image": st.sampled_from(SOURCES)}, optional={"env": value}),
    min_size=1,
    max_size=3,
)


@given(
    containers=containers,
    extra=value,
    flow=st.booleans(),
    style=st.sampled_from([None, "'", '"']),
    width=st.sampled_from([20, 1000]),
)
def test_nothing_but_images_changes(
    containers: list[dict[str, object]], extra: object, *, flow: bool, style: str | None, width: int
) -> None:
    spec = {"kind": "Pod", "extra": extra, "spec": {"containers": containers, "z": extra}}
    text = yaml.safe_dump(
        spec, default_flow_style=flow, default_style=style, width=width, allow_unicode=True, sort_keys=False
    )
    done = rewrite_manifests(text, IMAGES, subject="x")
    wanted = yaml.safe_load(text)
    for container in wanted["spec"]["containers"]:
        container["image"] = target(container["image"])
    assert yaml.safe_load(done.text) == wanted
    assert not done.missing
    restored = done.text
    for source in SOURCES:
        restored = restored.replace(target(source), source)
    assert restored == text
