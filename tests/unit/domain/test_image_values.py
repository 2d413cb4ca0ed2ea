"""Every spelling of an image in values that charts are known to use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bundler.domain.digest import Digest
from bundler.domain.image_map import ImageMap, PrivateImage, PrivateRegistry
from bundler.domain.image_values import ChartDefaults, coalesce, merge, values_overrides
from bundler.domain.reference import Reference

ECR = PrivateRegistry(host="123456789012.dkr.ecr.eu-central-1.amazonaws.com", prefix="eks")


def private(source: str) -> PrivateImage:
    reference, digest = Reference.parse(source), Digest.of(source.encode())
    return PrivateImage(source=reference, digests=frozenset({digest}), target=ECR.image(reference).pinned(digest))


IMAGES = ImageMap.of(
    ECR.host,
    [private(source) for source in ("quay.io/a/app:v1.2.3", "quay.io/a/two:1", "quay.io/a/two:2", "busybox:1.36")],
)
APP = "eks/quay.io/a/app"
DIGEST = str(Digest.of(b"quay.io/a/app:v1.2.3"))
FULL = f"{ECR.host}/{APP}"


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"image": {"repository": "quay.io/a/app", "tag": "v1.2.3"}},
         {"image": {"repository": FULL, "tag": f"v1.2.3@{DIGEST}"}}),
        ({"image": {"registry": "quay.io", "repository": "a/app", "tag": "v1.2.3"}},
         {"image": {"registry": ECR.host, "repository": APP, "tag": f"v1.2.3@{DIGEST}"}}),
        ({"image": {"registry": None, "repository": "quay.io/a/app", "tag": "v1.2.3"}},
         {"image": {"repository": FULL, "tag": f"v1.2.3@{DIGEST}"}}),
        ({"image": {"repository": "quay.io/a/app", "tag": "v1.2.3", "digest": ""}},
         {"image": {"repository": FULL, "digest": DIGEST}}),
        ({"image": {"repository": "quay.io/a/app", "tag": "v1.2.3", "sha": ""}},
         {"image": {"repository": FULL, "tag": f"v1.2.3@{DIGEST}", "sha": ""}}),
        ({"image": {"repository": "quay.io/a/app", "tag": ""}},
         {"image": {"repository": FULL, "tag": f"v1.2.3@{DIGEST}"}}),
        ({"image": {"repository": "quay.io/a/app", "tag": "1.2.3"}},
         {"image": {"repository": FULL, "tag": f"1.2.3@{DIGEST}"}}),
        ({"image": {"name": "quay.io/a/app", "tag": "v1.2.3"}},
         {"image": {"name": FULL, "tag": f"v1.2.3@{DIGEST}"}}),
        ({"image": "quay.io/a/app:v1.2.3"}, {"image": f"{FULL}:v1.2.3@{DIGEST}"}),
        ({"sidecarImage": "quay.io/a/app:v1.2.3"}, {"sidecarImage": f"{FULL}:v1.2.3@{DIGEST}"}),
        ({"image": "quay.io/a/app", "tag": "v1.2.3"}, {"image": FULL, "tag": f"v1.2.3@{DIGEST}"}),
        ({"image": "quay.io/a/app", "imageTag": "v1.2.3"}, {"image": FULL, "imageTag": f"v1.2.3@{DIGEST}"}),
        ({"init": {"image": {"override": "quay.io/a/app:v1.2.3", "tag": "v9", "account": "602401143452"}}},
         {"init": {"image": {"override": f"{FULL}:v1.2.3@{DIGEST}"}}}),
        ({"image": {"overrideRepository": "quay.io/a/app", "tag": "v1.2.3"}},
         {"image": {"overrideRepository": FULL, "tag": f"v1.2.3@{DIGEST}"}}),
        ({"extra": [{"name": "x"}, {"image": "quay.io/a/app:v1.2.3", "args": ["y"]}]},
         {"extra": [{"name": "x"}, {"image": f"{FULL}:v1.2.3@{DIGEST}", "args": ["y"]}]}),
        ({"image": {"repository": "quay.io/a/app", "tag": "v1.2.3@sha256:" + "0" * 64}},
         {"image": {"repository": FULL, "tag": f"v1.2.3@{DIGEST}"}}),
    ],
)  # fmt: skip
def test_each_spelling_of_an_image_is_overridden(values: dict[str, object], changes: dict[str, object]) -> None:
    assert values_overrides(ChartDefaults(values=values), {}, IMAGES) == changes


@pytest.mark.parametrize(
    "values",
    [
        {"image": {"repository": "ghcr.io/x/y", "tag": "1"}},
        {"image": {"repository": "quay.io/a/two", "tag": "3"}},
        {"image": {"repository": "quay.io/a/two", "tag": ""}},
        {"image": {"override": None, "tag": "v1", "account": "602401143452"}},
        {"git": {"repository": "quay.io/a/app"}},
        {"name": "quay.io/a/app", "tag": "v1.2.3"},
        {"imagePullPolicy": "Always", "image": {"pullPolicy": "IfNotPresent"}},
        {"image": "Not A Reference:"},
        {"image": True, "tags": [1, None]},
    ],
)
def test_what_is_not_known_for_sure_is_left_to_the_post_renderer(values: dict[str, object]) -> None:
    assert values_overrides(ChartDefaults(values=values), {}, IMAGES) == {}


def test_given_values_stay_and_win() -> None:
    defaults = ChartDefaults(values={"image": {"repository": "quay.io/a/two", "tag": "1"}, "replicas": "1"})
    values = {"image": {"tag": "2"}, "replicas": 3, "off": None}
    digest = Digest.of(b"quay.io/a/two:2")
    assert values_overrides(defaults, values, IMAGES) == {
        "image": {"repository": f"{ECR.host}/eks/quay.io/a/two", "tag": f"2@{digest}"},
        "replicas": 3,
        "off": None,
    }


def test_the_version_of_the_application_chooses_between_two_tags() -> None:
    defaults = ChartDefaults(app_version="2", values={"image": {"repository": "quay.io/a/two", "tag": ""}})
    digest = Digest.of(b"quay.io/a/two:2")
    assert values_overrides(defaults, {}, IMAGES) == {
        "image": {"repository": f"{ECR.host}/eks/quay.io/a/two", "tag": f"2@{digest}"}
    }


def test_subcharts_are_reached_under_their_key() -> None:
    below = ChartDefaults(app_version="2", values={"image": {"repository": "quay.io/a/two"}, "on": "true"})
    parent = ChartDefaults(app_version="1", values={"db": {"on": "false"}}, subcharts={"db": below})
    assert coalesce(parent, {}) == {"db": {"image": {"repository": "quay.io/a/two"}, "on": "false"}}
    assert values_overrides(parent, {}, IMAGES)["db"] == {
        "image": {"repository": f"{ECR.host}/eks/quay.io/a/two", "tag": f"2@{Digest.of(b'quay.io/a/two:2')}"}
    }


def test_null_removes_a_default_as_helm_does() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": None}, "d": None}) == {"a": {"c": 2}}


@pytest.mark.parametrize(("tag", "private_tag"), [("v1.2.3", "v1.2.3-0123456789ab"), ("1.2.3", "1.2.3-0123456789ab")])
def test_a_tag_that_was_taken_is_followed_by_the_references(tag: str, private_tag: str) -> None:
    """Push puts `<tag>-<digest12>` beside an immutable tag that holds another image."""
    beside = private("quay.io/a/app:v1.2.3")
    images = ImageMap.of(ECR.host, [replace(beside, target=replace(beside.target, tag="v1.2.3-0123456789ab"))])
    values = {"image": {"repository": "quay.io/a/app", "tag": tag}}
    assert values_overrides(ChartDefaults(values=values), {}, images)["image"]["tag"] == f"{private_tag}@{DIGEST}"
