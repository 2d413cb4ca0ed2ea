"""What a baked instance says of itself, read with suspicion, and what a bundle asks of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.domain.ami import NodeFacts
from bundler.domain.digest import Digest
from bundler.domain.node_facts import MAX_FACTS_BYTES, check_facts, facts_in_tags, facts_tags, parse_node_facts
from bundler.errors import FindingsError, FormatError, LimitError, RefusedError
from tests.fakes.preloads import ami_of, lock_of

PAUSE, CNI = "localhost/kubernetes/pause:latest", "registry.k8s.io/cni:v1"
DIGEST = Digest.of(b"cni")
LINES = {
    "os": "os=Amazon Linux 2023.9.20261101",
    "architecture": "architecture=x86_64",
    "kernel": "kernel=6.12.40-64.114.amzn2023.x86_64",
    "containerd": "containerd=2.1.5",
    "runc": "runc=1.3.3",
    "kubelet": "kubelet=1.34.2",
    "nodeadm": f"nodeadm=sha256:{'a' * 64}",
    "kubelet_sha256": f"kubelet_sha256={'b' * 64}",
    "credential_provider_sha256": f"credential_provider_sha256={'c' * 64}",
    "sandbox_image": f"sandbox_image={PAUSE}",
    "pause": f"image\t{PAUSE}\t{Digest.of(b'pause')}\tpinned",
    "cni": f"image\t{CNI}\t{DIGEST}\tpinned",
}


def text(**changes: str) -> bytes:
    """Honest facts; a changed line that is empty is left out."""
    lines = {**LINES, **changes}.values()
    return "".join(f"{line}\n" for line in lines if line).encode()


def parse(**changes: str) -> NodeFacts:
    return parse_node_facts(text(**changes), subject="facts")


def check(*, floors: dict[str, str] | None = None, kubernetes_version: str = "1.34", **changes: str) -> None:
    ami = ami_of(lock_of(), floors=floors or {})
    check_facts(parse(**changes), ami=ami, kubernetes_version=kubernetes_version, expected={CNI: DIGEST})


def test_honest_facts_are_read() -> None:
    facts = parse()
    assert (facts.architecture, facts.containerd, facts.kubelet) == ("amd64", "2.1.5", "1.34.2")
    assert [(one.name, one.digest, one.pinned) for one in facts.images][1] == (CNI, DIGEST, True)


def test_the_architecture_is_in_our_word() -> None:
    assert parse(architecture="architecture=aarch64").architecture == "arm64"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"kernel": ""}, "lacks kernel"),
        ({"more": "colour=red"}, "is no known KEY=VALUE"),
        ({"more": "kernel=6"}, "gives kernel again"),
        ({"kernel": "kernel=6", "more": "kernel=6"}, "gives kernel again"),
        ({"kernel": "kernel="}, "kernel"),
        ({"os": "os=a\x1b[2J"}, "control characters"),
        ({"os": "os=a\rb"}, "control characters"),
        ({"os": "os=a\u202eb"}, "control characters"),
        ({"os": "os=a\tb"}, "with a tab in it"),
        ({"os": "os=" + "x" * 501}, "os"),
        ({"kubelet": "kubelet=v1.34"}, "kubelet"),
        ({"kubelet_sha256": "kubelet_sha256=12"}, "kubelet_sha256"),
        ({"architecture": "architecture=riscv64"}, "architecture"),
        ({"cni": f"image\t{CNI}\t{DIGEST}\tperhaps"}, "is not image, name, digest"),
        ({"cni": f"image\t{CNI}\t{DIGEST}"}, "is not image, name, digest"),
        ({"cni": f"image\t{CNI}\tsha256:12\tpinned"}, "is not a sha256 digest"),
        ({"cni": f"image\t\t{DIGEST}\tpinned"}, "is not the line of an image"),
        ({"more": LINES["cni"]}, "names the image registry.k8s.io/cni:v1 again"),
        ({"more": " "}, "is no known KEY=VALUE"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, str], cause: str) -> None:
    with pytest.raises(FormatError, match=cause):
        parse(**changes)


@pytest.mark.parametrize("raw", [b"", b"os=a", text()[:-1], b"\xff\n", text() + b"\n"])
def test_what_is_cut_off_or_no_text_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_node_facts(raw, subject="facts")


def test_what_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(LimitError):
        parse_node_facts(b"x" * (MAX_FACTS_BYTES + 1), subject="facts")


@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 40))
def test_no_bytes_do_worse_than_be_refused(noise: bytes, place: int, gone: int) -> None:
    honest = text()
    for raw in (noise, honest[:place] + noise + honest[place + gone :]):
        try:
            found = parse_node_facts(raw, subject="facts")
        except RefusedError:
            continue
        assert found.os.isprintable()
        assert all(one.name.isprintable() for one in found.images)


def test_honest_facts_pass() -> None:
    check()
    check(floors={"containerd": "2.1", "runc": "1.3.3"})


@pytest.mark.parametrize("cluster", ["1.34", "1.35", "1.36", "1.37"])
def test_a_kubelet_may_be_three_minors_older(cluster: str) -> None:
    check(kubernetes_version=cluster)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"kubernetes_version": "1.33"}, "kubelet: is 1.34.2, which does not fit Kubernetes 1.33"),
        ({"kubernetes_version": "1.38"}, "kubelet: is 1.34.2, which does not fit Kubernetes 1.38"),
        ({"floors": {"containerd": "2.1.6"}}, "containerd: is 2.1.5, below the floor 2.1.6"),
        ({"floors": {"runc": "1.4"}}, "runc: is 1.3.3, below the floor 1.4"),
        ({"architecture": "architecture=aarch64"}, "architecture: is arm64, not amd64"),
        ({"pause": ""}, "sandbox image and not on the AMI"),
        ({"pause": LINES["pause"].replace("\tpinned", "\tunpinned")}, "sandbox image and not pinned"),
        ({"cni": ""}, f"{CNI}: is not on the AMI"),
        ({"cni": LINES["cni"].replace(str(DIGEST), str(Digest.of(b"other")))}, f"{CNI}: is {Digest.of(b'other')}"),
        ({"cni": LINES["cni"].replace("\tpinned", "\tunpinned")}, f"{CNI}: is not pinned"),
        ({"kubelet": "kubelet=absent", "kubelet_sha256": "kubelet_sha256=absent"}, "kubelet: is not on the AMI"),
        ({"credential_provider_sha256": "credential_provider_sha256=absent"}, "ecr-credential-provider: is not on"),
        ({"nodeadm": "nodeadm=absent"}, "nodeadm: is not on the AMI"),
        ({"runc": "runc=absent"}, "runc: is not on the AMI"),
    ],
)
def test_each_thing_that_a_node_lacks_is_found(changes: dict[str, str], cause: str) -> None:
    with pytest.raises(FindingsError, match="1 check failed") as caught:
        check(**changes)  # type: ignore[arg-type]
    assert cause in str(caught.value)
    assert caught.value.exit_code == 3


def test_everything_is_found_at_once() -> None:
    with pytest.raises(FindingsError, match="5 checks failed"):
        check(
            kubernetes_version="1.33",
            floors={"containerd": "3.0"},
            architecture="architecture=aarch64",
            pause="",
            cni="",
        )


def test_floors_are_compared_as_numbers() -> None:
    check(floors={"containerd": "2.1.0"}, containerd="containerd=2.10.0")
    check(floors={"containerd": "1.7"}, containerd="containerd=1.7.0")


@given(st.binary(max_size=9000))
def test_facts_travel_in_tags_that_ec2_takes_or_not_at_all(raw: bytes) -> None:
    tags = facts_tags(raw)
    assert len(tags) <= 40
    assert all(len(value) <= 256 for value in tags.values())
    assert facts_in_tags({"Name": "x", **tags}) == (raw if tags else None)


@pytest.mark.parametrize("value", ["", "no base64!", "AAAA", facts_tags(b"x" * 100)["bundle:facts-0"][:-4]])
def test_tags_that_hold_no_facts_give_none(value: str) -> None:
    assert facts_in_tags({"bundle:facts-0": value}) is None


def test_tags_that_unpack_to_more_than_facts_may_have_give_none() -> None:
    assert facts_in_tags(facts_tags(bytes(MAX_FACTS_BYTES + 1))) is None
