"""What `bundle serve` says about the content of a lock, without a socket."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.digest import Digest
from bundler.domain.http_message import Answer, Part, Request
from bundler.domain.lock import Lock, LockedImage
from bundler.domain.oci import DOCKER_MANIFEST, OCI_INDEX
from bundler.domain.pull_api import find_repository, plan_answer, repositories_of
from bundler.domain.reference import Reference
from tests.fakes.archives import sample

SAMPLE = sample()
CARRIED = frozenset(SAMPLE.blobs)
REPOSITORIES = repositories_of(SAMPLE.lock, carried=CARRIED)
COREDNS, METRICS, PAUSE = SAMPLE.lock.images
CHART = SAMPLE.lock.charts[0]


def ask(path: str, *, method: str = "GET", repositories: Any = REPOSITORIES, **headers: str) -> Answer:
    parts = urlsplit(path)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return plan_answer(Request(method=method, path=parts.path, query=query, headers=named), repositories)


def document(answer: Answer) -> Any:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


def code(answer: Answer) -> str:
    [error] = document(answer)["errors"]
    assert error["message"]
    return str(error["code"])


def renamed(image: LockedImage, name: str) -> LockedImage:
    return image.model_copy(update={"reference": Reference.parse(name)})


def repositories(*images: LockedImage) -> Any:
    return repositories_of(SAMPLE.lock.model_copy(update={"images": images}), carried=CARRIED)


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_the_base_says_which_api_this_is(path: str) -> None:
    answer = ask(path)
    assert (answer.status, document(answer)) == (200, {})
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize("image", SAMPLE.lock.images, ids=lambda image: str(image.reference))
def test_an_image_is_under_its_full_name_by_tag_and_by_every_digest(image: LockedImage) -> None:
    name = image.reference.name
    upstream = () if image.upstream is None else (image.upstream,)
    for blob in (image.target, *upstream, *image.manifests):
        wanted = [str(blob.digest)] + ([str(image.reference.tag)] if blob is image.target else [])
        for reference in wanted:
            answer = ask(f"/v2/{name}/manifests/{reference}")
            assert answer.status == 200
            assert answer.headers["Content-Type"] == blob.media_type
            assert answer.headers["Docker-Content-Digest"] == str(blob.digest)
            assert answer.body == Part(digest=blob.digest, start=0, end=blob.size, size=blob.size)
    for blob in (blob for manifest in image.manifests for blob in manifest.blobs):
        answer = ask(f"/v2/{name}/blobs/{blob.digest}")
        assert (answer.status, answer.length) == (200, blob.size)


def test_docker_and_oci_types_stay_what_they_are() -> None:
    assert ask(f"/v2/{METRICS.reference.name}/manifests/v0.7").headers["Content-Type"] == DOCKER_MANIFEST
    assert ask(f"/v2/{PAUSE.reference.name}/manifests/3.10").headers["Content-Type"] == OCI_INDEX


def test_a_derived_index_has_the_tag_and_its_evidence_a_digest() -> None:
    assert COREDNS.upstream is not None
    answer = ask(f"/v2/{COREDNS.reference.name}/manifests/v1")
    assert answer.headers["Docker-Content-Digest"] == str(COREDNS.target.digest) != str(COREDNS.upstream.digest)


def test_a_chart_is_below_charts() -> None:
    answer = ask("/v2/charts/core/manifests/1.0.0_a")
    assert answer.headers["Docker-Content-Digest"] == str(CHART.manifest.digest)
    assert ask(f"/v2/charts/core/blobs/{CHART.content.digest}").status == 200


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/registry.k8s.io/nothing/manifests/3.10", "NAME_UNKNOWN"),
        ("/v2/pause/manifests/3.10", "NAME_UNKNOWN"),
        ("/v2/../../etc/passwd/manifests/x", "NAME_UNKNOWN"),
        ("/v2/registry.k8s.io/pause:3.10/manifests/3.10", "NAME_UNKNOWN"),
        ("/v2/registry.k8s.io/pause/manifests/3.11", "MANIFEST_UNKNOWN"),
        (f"/v2/registry.k8s.io/pause/manifests/{METRICS.target.digest}", "MANIFEST_UNKNOWN"),
        (f"/v2/registry.k8s.io/pause/manifests/sha512:{'0' * 128}", "MANIFEST_UNKNOWN"),
        (f"/v2/registry.k8s.io/pause/blobs/{METRICS.manifests[0].blobs[0].digest}", "BLOB_UNKNOWN"),
        (f"/v2/registry.k8s.io/pause/blobs/{PAUSE.target.digest}", "BLOB_UNKNOWN"),
        (f"/v2/registry.k8s.io/pause/referrers/{PAUSE.target.digest}", "UNSUPPORTED"),
        ("/v2/registry.k8s.io/pause/tags/other", "UNSUPPORTED"),
        ("/", "UNSUPPORTED"),
        ("/v1/", "UNSUPPORTED"),
    ],
)
def test_what_is_not_there_is_404(path: str, expected: str) -> None:
    answer = ask(path)
    assert (answer.status, code(answer)) == (404, expected)


def test_tools_files_and_the_lock_are_no_blobs_of_a_repository() -> None:
    for blob in (SAMPLE.lock.tools[0].content, SAMPLE.lock.files[0].content):
        assert {ask(f"/v2/{name}/blobs/{blob.digest}").status for name in REPOSITORIES} == {404}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v2/", "/v2/registry.k8s.io/pause/manifests/3.10", "/v2/x/blobs/uploads/"])
def test_nothing_can_be_written(method: str, path: str) -> None:
    answer = ask(path, method=method)
    assert (answer.status, code(answer), answer.headers["Allow"]) == (405, "UNSUPPORTED", "GET, HEAD")


def test_what_a_delta_does_not_carry_is_not_there() -> None:
    without = repositories_of(
        SAMPLE.lock, carried=CARRIED - {METRICS.target.digest, PAUSE.manifests[0].blobs[0].digest}
    )
    assert document(ask(f"/v2/{METRICS.reference.name}/tags/list", repositories=without))["tags"] == []
    assert ask(f"/v2/{METRICS.reference.name}/manifests/v0.7", repositories=without).status == 404
    assert (
        ask(f"/v2/{PAUSE.reference.name}/blobs/{PAUSE.manifests[0].blobs[0].digest}", repositories=without).status
        == 404
    )
    assert ask(f"/v2/{PAUSE.reference.name}/manifests/3.10", repositories=without).status == 200


@pytest.mark.parametrize(
    ("name", "namespace", "found"),
    [
        ("docker.io/library/nginx", None, True),
        ("docker.io/nginx", None, True),
        ("index.docker.io/library/nginx", None, True),
        ("library/nginx", "docker.io", True),
        ("nginx", "docker.io", True),
        ("library/nginx", "registry-1.docker.io", True),
        ("docker.io/library/nginx", "docker.io", True),
        ("team/app", "registry.example:5000", True),
        ("registry.example-5000/team/app", None, True),
        ("nginx", None, True),
        ("team/app", None, False),
        ("team/app", "other.example", False),
        ("team/app", "../registry.example", False),
        ("nginx", "registry.example:5000", True),
        ("Team/app", "registry.example:5000", False),
    ],
)
def test_a_mirror_may_leave_out_the_host(name: str, namespace: str | None, found: bool) -> None:
    served = repositories(renamed(PAUSE, "nginx:1"), renamed(METRICS, "registry.example:5000/team/app:2"))
    assert (find_repository(name, served, namespace=namespace) is not None) is found


def test_the_namespace_says_which_of_two_is_meant() -> None:
    served = repositories(renamed(PAUSE, "a.example/app:1"), renamed(METRICS, "b.example/app:1"))
    answer = ask("/v2/app/manifests/1?ns=b.example", repositories=served)
    assert answer.headers["Docker-Content-Digest"] == str(METRICS.target.digest)


def test_images_of_one_repository_share_it() -> None:
    served = repositories(renamed(PAUSE, "a.example/app:1"), renamed(METRICS, "a.example/app:2"))
    assert document(ask("/v2/a.example/app/tags/list", repositories=served)) == {
        "name": "a.example/app",
        "tags": ["1", "2"],
    }


def test_an_image_without_a_tag_is_there_by_digest() -> None:
    pinned = PAUSE.model_copy(update={"reference": Reference.parse(f"a.example/app@{PAUSE.target.digest}")})
    served = repositories(pinned)
    assert ask(f"/v2/a.example/app/manifests/{PAUSE.target.digest}", repositories=served).status == 200
    assert document(ask("/v2/a.example/app/tags/list", repositories=served))["tags"] == []


@given(st.sets(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,6}", fullmatch=True), max_size=20), st.integers(1, 7))
def test_pages_make_up_the_list(tags: set[str], n: int) -> None:
    served = repositories(*(renamed(PAUSE, f"a.example/app:{tag}") for tag in tags), renamed(PAUSE, "a.example/app:x"))
    target, seen = f"/v2/a.example/app/tags/list?n={n}", []
    for _ in range(len(tags) + 2):
        answer = ask(target, repositories=served)
        page = document(answer)["tags"]
        assert len(page) <= n
        seen += page
        link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("Link", ""))
        if link is None:
            break
        target = link[1]
    assert seen == sorted(tags | {"x"})


def test_a_page_follows_in_the_same_namespace() -> None:
    served = repositories(renamed(PAUSE, "a.example/app:1"), renamed(PAUSE, "a.example/app:2"))
    link = ask("/v2/app/tags/list?ns=a.example&n=1", repositories=served).headers["Link"]
    assert link == '</v2/app/tags/list?n=1&last=1&ns=a.example>; rel="next"'


@pytest.mark.parametrize("n", ["x", "-1", "1.5", "9" * 30])
def test_a_page_size_that_is_none_is_refused(n: str) -> None:
    assert code(ask(f"/v2/registry.k8s.io/pause/tags/list?n={n}")) == "PAGINATION_NUMBER_INVALID"


def test_a_page_of_none_has_no_next() -> None:
    answer = ask("/v2/registry.k8s.io/pause/tags/list?n=0")
    assert (document(answer)["tags"], "Link" in answer.headers) == ([], False)


def test_the_catalog_lists_repositories() -> None:
    assert document(ask("/v2/_catalog?n=1&last=charts/core"))["repositories"] == ["public.ecr.aws/eks/coredns"]


def test_head_has_no_range_and_what_is_known_already_is_not_sent() -> None:
    path, blob = f"/v2/{PAUSE.reference.name}/manifests/3.10", PAUSE.target
    assert ask(path, method="HEAD", range="bytes=0-1").length == blob.size
    assert ask(path, range="bytes=0-1").status == 206
    assert ask(path, if_none_match=f'"{blob.digest}"').status == 304


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_path_has_an_answer(path: str, namespace: str) -> None:
    request = Request(method="GET", path=f"/v2/{path}", query={"ns": namespace, "last": path, "n": "1"})
    answer = plan_answer(request, REPOSITORIES)
    assert answer.status in {200, 404}
    for value in answer.headers.values():
        assert "\n" not in value
        assert "\r" not in value


def test_an_empty_lock_has_no_repositories() -> None:
    bare: Lock = SAMPLE.lock.model_copy(update={"images": (), "charts": ()})
    assert repositories_of(bare, carried=frozenset[Digest]()) == {}
